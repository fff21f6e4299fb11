"""What a store's answers prove, in whole runs: each kind of store has what was sent, or something else."""

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from awscrt.checksums import crc64nvme

from tasks.core.checksums import Evidence
from tasks.core.errors import Fault, InterruptedRunError
from tasks.core.models import Digests, Proof
from tasks.remote.upload_api import Stored
from tasks.report.reader import read_report, read_table
from tasks.run.records import report_again
from tasks.upload.integrity import Integrity
from tests import virtual_time
from tests.conftest import MIB, Dicom, NearSide, Run, instance
from tests.far_side import Deviation, FarSide, Request, Script, Step, StoredWith
from tests.processes import await_that

Answers = Callable[[bytes], Mapping[str, str]]
S3 = {"x-amz-request-id": "4442587FB7D0A2F9"}
NO_MD5 = '"0123456789abcdef0123456789abcdef"'
VOUCHED_BY_NOTHING = "no checksum in the store's answers vouches"


def md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def crc(body: bytes) -> str:
    return base64.b64encode(crc64nvme(body).to_bytes(8, "big")).decode()


def crc_headers(body: bytes) -> dict[str, str]:
    return {"x-amz-checksum-crc64nvme": crc(body), "x-amz-checksum-type": "FULL_OBJECT"}


def with_md5_etag(body: bytes) -> dict[str, str]:
    return S3 | {"ETag": f'"{md5(body)}"'}


def with_crc(body: bytes) -> dict[str, str]:
    return with_md5_etag(body) | crc_headers(body)


def with_kms_and_crc(body: bytes) -> dict[str, str]:
    return with_kms(body) | crc_headers(body)


def with_kms(_body: bytes) -> dict[str, str]:
    return S3 | {"ETag": NO_MD5, "x-amz-server-side-encryption": "aws:kms"}


def with_customer_key(_body: bytes) -> dict[str, str]:
    return S3 | {"ETag": NO_MD5, "x-amz-server-side-encryption-customer-algorithm": "AES256"}


def of_another_cloud(_body: bytes) -> dict[str, str]:
    return {"ETag": NO_MD5, "x-goog-encryption-kms-key-name": "projects/p/keyRings/r/cryptoKeys/k"}


def of_no_s3(_body: bytes) -> dict[str, str]:
    return {"ETag": '"5f2b-1"'}


def with_an_etag_that_is_no_md5(_body: bytes) -> dict[str, str]:
    return {"ETag": NO_MD5}


# How a store answers; the proof that the ledger keeps; whether other bytes are found out by the answer.
STORES: Mapping[str, tuple[Answers, str, bool]] = {
    "MD5 as ETag": (with_md5_etag, "etag", True),
    "CRC64NVME": (with_crc, "crc64nvme", True),
    "KMS with CRC64NVME": (with_kms_and_crc, "crc64nvme", True),
    "KMS without": (with_kms, "content_md5", False),
    "customer keys": (with_customer_key, "content_md5", False),
    "another cloud's": (of_another_cloud, "nothing", False),
    "no S3": (of_no_s3, "nothing", False),
}


def answering(answers: Answers, damages: Callable[[Request], bool] = lambda _request: False) -> Script:
    """Each PUT is answered so; one that is damaged as if other bytes had come."""

    def script(request: Request) -> Deviation | None:
        if request.step is not Step.PUT:
            return None
        return StoredWith(lambda body: answers(body + b"!" if damages(request) else body))

    return script


def larger(near_side: NearSide, name: str) -> int:
    """Puts an instance there that is larger than others, so that its PUT is known; gives its size."""
    body = instance("1.9", pixel_bytes=256)
    near_side.put(name, body)
    return len(body)


def is_put_of(size_bytes: int) -> Callable[[Request], bool]:
    return lambda request: int(request.headers["Content-Length"]) == size_bytes


def certificate(near_side: NearSide) -> dict[str, object]:
    facts: dict[str, object] = json.loads((near_side.report_dir / "certificate.json").read_text())
    return facts


def problems(run: Run, words: str) -> list[str]:
    return [problem for problem in run.summary.problems if words in problem]


@pytest.mark.parametrize("store", STORES)
class TestStore:
    def test_that_has_what_was_sent_has_it_at_once(
        self, near_side: NearSide, far_side: FarSide, store: str
    ) -> None:
        """One PUT each; what nothing vouches for is counted, in words and in the certificate."""
        answers, proof, _ = STORES[store]
        far_side.script = answering(answers)
        near_side.put_many(3)
        run = near_side.run()
        unvouched = 3 if proof == "nothing" else 0
        assert {(row["status"], row["attempts"]) for row in run.rows.values()} == {("uploaded", "1")}
        assert run.exit_code == 0
        assert problems(run, VOUCHED_BY_NOTHING) == [
            problem for problem in run.summary.problems if unvouched and problem.endswith(": 3 files")
        ]
        assert bool(run.summary.problems) == bool(unvouched)
        assert certificate(near_side)["unvouched"] == unvouched

    def test_that_has_other_bytes_gets_the_file_again(
        self, near_side: NearSide, far_side: FarSide, store: str
    ) -> None:
        """Where its answer shows that, be it the run's first; else nobody can know, and that is said."""
        answers, proof, is_found = STORES[store]
        (body,) = near_side.put_many(1).values()
        far_side.script = answering(answers, lambda request: request.n == 1)
        run = near_side.run()
        row = run.row("study/0000")
        assert (row["status"], row["attempts"]) == ("uploaded", "2" if is_found else "1")
        assert (row["sha256"], row["crc64nvme"]) == (hashlib.sha256(body).hexdigest(), crc(body))
        assert len(problems(run, VOUCHED_BY_NOTHING)) == (proof == "nothing")

    def test_that_has_other_bytes_each_time_fails_the_file(
        self, near_side: NearSide, far_side: FarSide, store: str
    ) -> None:
        """After the last try."""
        answers, _, is_found = STORES[store]
        good = near_side.put_many(4)
        far_side.script = answering(answers, is_put_of(larger(near_side, "zz-bad/0000")))
        run = near_side.run(parallel=1, retries=["integrity=2"])
        assert {run.statuses[name] for name in good} == {"uploaded"}
        assert run.statuses["zz-bad/0000"] == ("failed/integrity" if is_found else "uploaded")
        assert run.row("zz-bad/0000")["attempts"] == ("3" if is_found else "1")
        assert run.exit_code == int(is_found)


class TestMd5:
    """Computed, sent and reported as long as the host's answers show that something is compared with it."""

    @pytest.mark.parametrize(
        ("store", "is_wanted"),
        [
            ("MD5 as ETag", True),
            ("CRC64NVME", False),
            ("KMS with CRC64NVME", False),
            ("KMS without", True),
            ("another cloud's", False),
            ("no S3", False),
        ],
    )
    def test_of_a_file_that_follows(
        self, near_side: NearSide, far_side: FarSide, store: str, is_wanted: bool
    ) -> None:
        """The first is sent with it anyway; one that was on its way meanwhile may be, too."""
        far_side.script = answering(STORES[store][0])
        bodies = near_side.put_many(40)
        run = near_side.run(parallel=1)
        by_key = {put.key: put for put in far_side.asked(Step.PUT)}
        first, *_, last = (run.rows[name] for name in sorted(bodies, key=lambda n: run.row(n)["finished_at"]))
        assert by_key[first["key"]].md5 == first["md5"] == md5(far_side.bodies[first["key"]])
        sent = md5(far_side.bodies[last["key"]]) if is_wanted else ""
        assert (by_key[last["key"]].md5, last["md5"]) == (sent, sent)
        assert {row["crc64nvme"] for row in run.rows.values()} == {crc(body) for body in bodies.values()}

    def test_is_compared_all_the_same_when_an_etag_is_all_that_comes(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """Behind one name may be several servers: what was sent without Content-MD5 is vouched for, too."""
        near_side.put_many(40)
        script = answering(with_crc)
        last = with_md5_etag

        def mixed(request: Request) -> Deviation | None:
            return StoredWith(last) if request.step is Step.PUT and request.n > 35 else script(request)

        far_side.script = mixed
        run = near_side.run(parallel=1)
        assert {(row["status"], row["attempts"]) for row in run.rows.values()} == {("uploaded", "1")}
        without = [put for put in far_side.asked(Step.PUT) if put.n > 35 and not put.md5]
        assert without
        by_key = {row["key"]: row for row in run.rows.values()}
        assert all(by_key[put.key]["md5"] == md5(far_side.bodies[put.key]) for put in without)
        assert run.summary.problems == []


class TestEtagsThatAreNoMd5:
    """32 hex digits, and nothing says that they are none."""

    @pytest.mark.parametrize("files", [1, 3, 8, 30])
    def test_fail_no_file(self, near_side: NearSide, far_side: FarSide, files: int) -> None:
        """Of eight files, or of all: each was sent twice, and Content-MD5 was not refused."""
        far_side.script = answering(with_an_etag_that_is_no_md5)
        near_side.put_many(files)
        run = near_side.run()
        assert {row["status"] for row in run.rows.values()} == {"uploaded"}
        assert sum(row["attempts"] == "2" for row in run.rows.values()) >= min(files, 8)
        assert {row["attempts"] for row in run.rows.values()} <= {"1", "2"}
        assert run.exit_code == 0
        (problem,) = run.summary.problems
        assert "ETags look like MD5s and are none" in problem
        assert problem.endswith(f": {files} file{'s' if files > 1 else ''}")
        assert certificate(near_side)["unvouched"] == 0

    def test_stop_no_run(self, near_side: NearSide, far_side: FarSide) -> None:
        """Many files are sent for the first time before eight have come back for the second."""
        far_side.script = answering(with_an_etag_that_is_no_md5)
        near_side.edges = replace(near_side.edges, jitter=lambda: 0.999)
        near_side.put_many(200)
        run = near_side.run()
        assert (run.exit_code, run.summary.by_status) == (0, {"uploaded": 200})

    @pytest.mark.parametrize("bad", [0, 1, 2])
    def test_are_faults_where_one_has_matched(self, near_side: NearSide, far_side: FarSide, bad: int) -> None:
        """In whichever order: a file that differs waits for the others before it counts as stored."""
        near_side.put_many(3)
        size_bytes = larger(near_side, f"study/{bad:04}")
        far_side.script = answering(with_md5_etag, is_put_of(size_bytes))
        run = near_side.run(parallel=1)
        assert run.statuses == {
            f"study/{n:04}": "failed/integrity" if n == bad else "uploaded" for n in range(3)
        }

    def test_let_a_large_file_be_sent_with_content_md5_the_second_time(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first time it was not known before the body; then it takes a third PUT."""
        monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", MIB)
        far_side.script = answering(with_an_etag_that_is_no_md5)
        body = dicom("1.1", pixel_bytes=2 * MIB)
        near_side.put("study/large", body)
        row = near_side.run().row("study/large")
        assert [put.md5 for put in far_side.asked(Step.PUT)] == ["", md5(body), md5(body)]
        assert (row["status"], row["attempts"], row["md5"]) == ("uploaded", "3", md5(body))

    def test_hold_up_no_run_that_is_stopped(self, near_side: NearSide, far_side: FarSide) -> None:
        """A file that waits for others was tried: it is interrupted, and tried again by the next run."""
        near_side.put_many(2)
        may_end = threading.Event()

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PUT and request.n == 1:
                may_end.wait(60)
                return None
            return answering(with_an_etag_that_is_no_md5)(request)

        far_side.script = script
        engine = near_side.engine()

        def stop() -> None:
            await_that(lambda: len(far_side.asked(Step.PUT)) == 3)
            engine.stop(InterruptedRunError("The test stops the run."))
            may_end.set()

        stopping = threading.Thread(target=stop)
        stopping.start()
        run = near_side.finished(engine)
        stopping.join()
        assert sorted(run.statuses.values()) == ["failed/interrupted", "uploaded"]

    def test_are_found_though_others_look_now_and_then_at_another_processs_claims(self) -> None:
        """That process may wait for this one's."""

        async def work() -> None:
            integrity = Integrity(asyncio.Event())
            answered = Stored(200, "", Evidence(md5="0" * 32), with_content_md5=True)
            digests = Digests("", "f" * 32, "")

            async def looks(first_s: float) -> None:
                with integrity.under_way():
                    await asyncio.sleep(first_s)
                    while integrity.rules.is_undecided:
                        with integrity.waiting():
                            await asyncio.sleep(2)
                        await asyncio.sleep(0.01)

            others = [asyncio.create_task(looks(number / 5)) for number in range(10)]
            with integrity.under_way():
                with pytest.raises(Fault):
                    await integrity.judge(1, "h", answered, digests)
                async with asyncio.timeout(60):
                    assert await integrity.judge(1, "h", answered, digests) is Proof.OTHER_ETAG
            await asyncio.wait(others)

        virtual_time.run(work())

    def test_are_certain_faults_where_no_content_md5_can_be_sent(self) -> None:
        """To SigV2 URLs: from a file's second PUT on, so that the brake stops a run in which all differ."""

        async def work() -> None:
            integrity = Integrity(asyncio.Event())
            answered = Stored(200, "", Evidence(md5="0" * 32))
            certain = []
            for file_id in (1, 2, 1, 2):
                with pytest.raises(Fault) as fault:
                    await integrity.judge(file_id, "h", answered, Digests("", "f" * 32, ""))
                certain.append(fault.value.is_certain)
            assert certain == [False, False, True, True]

        virtual_time.run(work())


class TestReport:
    def test_has_the_checksums_of_what_was_sent_for_whoever_shares_it(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """A duplicate, a file that was touched, one that another report has: none of them was sent."""
        body = dicom("1.1")
        path = near_side.put("study/a", body)
        first = near_side.run()
        sent = {"md5": md5(body), "crc64nvme": crc(body)}
        near_side.put("study/b", body)
        path.touch()
        second = near_side.run()
        again = report_again(near_side.report_dir, near_side.settings().ledger_at, "default")
        rows = [*first.rows.values(), *second.rows.values(), *read_report(near_side.report_dir)]
        assert len(far_side.asked(Step.PUT)) == 1
        assert [row["status"] for row in rows] == ["uploaded", *["already_uploaded", "duplicate"] * 2]
        assert [{name: row[name] for name in sent} for row in rows] == [sent] * 5
        assert again.by_status == {"already_uploaded": 1, "duplicate": 1}
        table = read_table(near_side.report_dir)
        assert list(table["crc64nvme"]) == [sent["crc64nvme"]] * 2

    def test_counts_what_nothing_vouches_for_each_time(self, near_side: NearSide, far_side: FarSide) -> None:
        """Also when an earlier run stored it, and when the report is written again."""
        far_side.script = answering(of_another_cloud)
        near_side.put_many(2)
        near_side.run()
        far_side.script = answering(with_crc)
        near_side.put_many(1, "more")
        run = near_side.run()
        again = report_again(near_side.report_dir, near_side.settings().ledger_at, "default")
        (problem,) = run.summary.problems
        assert problem.endswith(": 2 files")
        assert again.problems == [problem]
        assert certificate(near_side)["unvouched"] == 2
