"""What object stores answer, through whole runs: what is tried again, what is a file's own, what stops."""

import hashlib
import os
import threading
from collections import defaultdict
from itertools import cycle

import pytest

from tasks.core.brake import REFUSALS_IN_A_ROW
from tasks.core.errors import FaultKind, UsageError
from tasks.core.store_answers import ADVICE, KIND_ADVICE, KMS_ADVICE, NO_ADVICE, advice
from tasks.report.reader import read_report
from tests.conftest import Dicom, NearSide, Run, superseded
from tests.far_side import (
    TOKEN,
    Deviation,
    FarSide,
    Minted,
    Reply,
    Request,
    Script,
    Step,
    StoredWith,
    always,
    s3_error,
    url_expired,
)
from tests.processes import Command
from tests.proxy import API, running_proxy
from tests.test_documented import OPERATIONS

OTHER_CRC = {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}
MORE_SIGNED = Minted(signed_headers="host;x-amz-acl;x-amz-server-side-encryption")


def refusing_each(answers: list[Deviation], times: int) -> Script:
    """The first so many PUTs of each key get one of these answers."""
    seen: defaultdict[str, int] = defaultdict(int)
    following, lock = cycle(answers), threading.Lock()

    def script(request: Request) -> Deviation | None:
        if request.step is not Step.PUT:
            return None
        with lock:
            seen[request.key] += 1
            return next(following) if seen[request.key] <= times else None

    return script


def refusing_all(answer: Deviation, minted: Minted | None = None) -> Script:
    return lambda request: answer if request.step is Step.PUT else minted


def pairs(run: Run) -> list[tuple[str, str]]:
    return [(row["status"], row["reason"]) for row in run.rows.values()]


def puts(far_side: FarSide) -> int:
    return len(far_side.asked(Step.PUT))


class TestThrottling:
    @pytest.mark.parametrize(
        ("status", "codes"),
        [
            (
                400,
                [
                    "ThrottlingException",
                    "Throttling",
                    "RequestThrottled",
                    "TooManyRequestsException",
                    "KMS.ThrottlingException",
                    "RequestLimitExceeded",
                ],
            ),
            (403, ["EC2ThrottledException", "KMS.LimitExceededException", "BandwidthLimitExceeded"]),
            (409, ["SlowDownWrite", "ServerBusy", "SnapshotOperationRateExceeded"]),
            (503, ["SlowDown", "ServiceUnavailable", "XMinioNoSuchCode"]),
            (403, ["rateLimitExceeded", "SLOW_DOWN", "ResourceBusy", "Busy", "Storage.ServerBusy"]),
        ],
    )
    def test_said_by_any_code_slows_down_and_fails_no_file(
        self, near_side: NearSide, far_side: FarSide, status: int, codes: list[str]
    ) -> None:
        """On the same key, at the third attempt; slots are halved meanwhile."""
        bodies = near_side.put_many(6)
        far_side.script = refusing_each([s3_error(status, code) for code in codes], 2)
        run = near_side.run()
        assert {(row["status"], row["attempts"]) for row in run.rows.values()} == {("uploaded", "3")}
        assert not any(map(superseded, run.rows.values()))
        assert {name: far_side.bodies[row["key"]] for name, row in run.rows.items()} == bodies
        assert min(slots for _, slots in run.summary.parallel_course) <= 10

    def test_said_in_words_alone_does_too(self, near_side: NearSide, far_side: FarSide) -> None:
        """As a gateway does that has codes of its own."""
        near_side.put_many(3)
        far_side.script = refusing_each([s3_error(400, "Whatever", "Please reduce your request rate.")], 2)
        assert set(near_side.run().statuses.values()) == {"uploaded"}


class TestForAMoment:
    @pytest.mark.parametrize(
        "answer",
        [
            s3_error(409, "OperationAborted"),
            s3_error(409, "ConditionalRequestConflict"),
            s3_error(409, "ContainerBeingDeleted"),
            s3_error(409, "Unheard", "A conflicting operation is in progress. Please try again."),
            s3_error(409, "Unheard", "Retry after the lock is released"),
            s3_error(400, "KMS.DependencyTimeoutException"),
            s3_error(400, "InternalError"),
            s3_error(400, "IncompleteBody"),
            s3_error(400, "ClientDisconnected"),
            *(Reply(code) for code in (408, 423, 425, 499, 502, 504)),
        ],
    )
    def test_is_tried_again_on_the_same_key(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, answer: Reply
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        far_side.script = refusing_each([answer], 2)
        row = near_side.run().row("study/1")
        assert (row["status"], row["attempts"], superseded(row)) == ("uploaded", "3", [])
        assert far_side.bodies == {row["key"]: dicom("1.1")}

    @pytest.mark.parametrize(
        "answer", [s3_error(409, "BucketNotEmpty"), s3_error(403, "AccessDenied", "Check it, and try again.")]
    )
    def test_is_not_every_conflict(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, answer: Reply
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        far_side.script = always(Step.PUT, answer)
        assert near_side.run().statuses == {"study/1": "failed/refused"}


class TestBrake:
    def stopped(self, near_side: NearSide, script: Script) -> Run:
        near_side.put_many(130)
        near_side.far_side.script = script
        run = near_side.run()
        assert run.exit_code == 3
        assert REFUSALS_IN_A_ROW <= puts(near_side.far_side) < 80
        reasons = {reason for status, reason in pairs(run) if status == "failed"}
        assert reasons <= {"refused", "integrity", "expired"}
        assert {status for status, _ in pairs(run)} == {"failed", "not_attempted"}
        assert run.keys_told == near_side.far_side.keys_handed_out
        assert near_side.archive.name not in run.summary.problems[0]
        return run

    def test_stops_and_names_the_signed_headers_that_are_not_sent(self, near_side: NearSide) -> None:
        """Names alone: what they should hold nobody said."""
        run = self.stopped(near_side, refusing_all(s3_error(403, "SignatureDoesNotMatch"), MORE_SIGNED))
        sentence = run.summary.problems[0]
        assert "the object store answered 403 SignatureDoesNotMatch" in sentence
        assert "sign headers that are not sent (x-amz-acl, x-amz-server-side-encryption)" in sentence
        assert "of study 1 file " in sentence
        assert near_side.far_side.objects == {}
        failed = [row for row in run.rows.values() if row["status"] == "failed"]
        assert {row["detail"] for row in failed} == {"SignatureDoesNotMatch"}

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (s3_error(400, "MissingRequiredHeader"), "400 MissingRequiredHeader. That is Azure"),
            (s3_error(404, "NoSuchBucket"), "404 NoSuchBucket. There is no such bucket"),
            (s3_error(403, "InvalidAccessKeyId"), "does not know who signs"),
            (s3_error(301, "PermanentRedirect"), "301 PermanentRedirect. The bucket is in another region"),
            (s3_error(400, "KMS.DisabledException"), "400 KMS.DisabledException. The bucket's KMS key"),
            (s3_error(403, "SignatureDoesNotMatch"), "the API signs what is not sent"),
            (s3_error(400, "BadDigest"), "Something on the way rewrites bodies"),
            (
                s3_error(501, "NotImplemented"),
                "501 NotImplemented. Ask the platform what its object store wants",
            ),
            (Reply(413, b"<html>Too large</html>"), "413. Ask the platform what its object store wants"),
            (url_expired(), "Set this machine's clock"),
            (StoredWith(lambda _body: OTHER_CRC), "Something on the way rewrites bodies"),
        ],
    )
    def test_stops_and_says_what_the_store_answers(
        self, near_side: NearSide, answer: Deviation, said: str
    ) -> None:
        assert said in self.stopped(near_side, refusing_all(answer)).summary.problems[0]

    def test_is_for_nothing_among_files_that_are_stored(self, near_side: NearSide, far_side: FarSide) -> None:
        """Every second file is refused, far more than forty."""
        bodies = near_side.put_many(120)
        refused = {hashlib.md5(body).hexdigest() for body in list(bodies.values())[::2]}
        denied = s3_error(403, "AccessDenied")
        far_side.script = lambda request: denied if request.md5 in refused else None
        run = near_side.run(parallel=4)
        assert run.exit_code == 1
        assert sorted(run.statuses.values()) == ["failed/refused"] * 60 + ["uploaded"] * 60

    def test_counts_from_the_last_file_that_was_stored(self, near_side: NearSide, far_side: FarSide) -> None:
        """Thirty-nine, a file, and thirty-nine again are each file's own trouble."""
        near_side.put_many(50)
        most = REFUSALS_IN_A_ROW - 1
        good = {most + 1, *range(2 * most + 2, 1000)}
        denied = s3_error(403, "AccessDenied")
        far_side.script = lambda request: (
            None if request.step is not Step.PUT or request.n in good else denied
        )
        run = near_side.run(parallel=1)
        assert run.exit_code == 1
        assert set(run.statuses.values()) == {"failed/refused", "uploaded"}

    def test_leaves_a_small_run_to_its_files(self, near_side: NearSide, far_side: FarSide) -> None:
        near_side.put_many(15)
        far_side.script = always(Step.PUT, s3_error(404, "NoSuchBucket"))
        run = near_side.run()
        assert (run.exit_code, set(run.statuses.values())) == (1, {"failed/refused"})

    def test_lets_the_next_run_go_on(self, near_side: NearSide, far_side: FarSide) -> None:
        """Once the platform has mended it."""
        bodies = near_side.put_many(60)
        far_side.script = always(Step.PUT, s3_error(404, "NoSuchBucket"))
        assert near_side.run().exit_code == 3
        far_side.script = lambda _: None
        run = near_side.run()
        assert (run.exit_code, set(run.statuses.values())) == (0, {"uploaded"})
        assert {name: far_side.bodies[row["key"]] for name, row in run.rows.items()} == bodies


class TestStoreKnownByItsAddress:
    """The API has a name, here by way of a proxy; what it hands out leads to 127.0.0.1."""

    @pytest.fixture
    def named_api(self, far_side: FarSide, near_side: NearSide, monkeypatch: pytest.MonkeyPatch) -> NearSide:
        with running_proxy() as proxy:
            proxy.answer_to_get = lambda: far_side.mint(Minted()).body
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            near_side.options |= {"api_endpoint": API, "allow_http": True}
            yield near_side

    @pytest.mark.parametrize("pattern", ["127.0.0.1", "::ffff:127.0.0.1"])
    def test_is_permitted_where_a_pattern_names_it(
        self, named_api: NearSide, dicom: Dicom, pattern: str
    ) -> None:
        named_api.put("study/1", dicom("1.1"))
        run = named_api.run(allow_storage_host=["*.example.org", pattern])
        assert run.statuses == {"study/1": "uploaded"}
        assert list(named_api.far_side.bodies.values()) == [dicom("1.1")]

    @pytest.mark.parametrize("patterns", [[], ["*"], ["127.*"], ["127.0.0.2"]])
    def test_is_refused_where_none_does(self, named_api: NearSide, dicom: Dicom, patterns: list[str]) -> None:
        named_api.put("study/1", dicom("1.1"))
        with pytest.raises(UsageError, match=r"private network.*--allow-storage-host"):
            named_api.run(allow_storage_host=patterns)
        assert named_api.far_side.requests == []


class TestTroubleshooting:
    @pytest.mark.parametrize("sentence", [*ADVICE.values(), *KIND_ADVICE.values(), KMS_ADVICE, NO_ADVICE])
    def test_says_the_same(self, sentence: str) -> None:
        """As the message that stops a run, and the log's line about a file."""
        assert f" {sentence} |" in OPERATIONS

    def test_has_the_sentence_about_signed_headers(self) -> None:
        sentence = advice("SignatureDoesNotMatch", FaultKind.REFUSED, ["…"])
        assert sentence in OPERATIONS

    def test_is_quoted_for_each_file_that_failed(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, caplog: pytest.LogCaptureFixture
    ) -> None:
        """By the numbers of study and file."""
        near_side.put("study/1", dicom("1.1"))
        far_side.script = always(Step.PUT, s3_error(404, "NoSuchBucket"))
        near_side.run()
        said = f"study 1 file 1 failed: refused, HTTP 404 NoSuchBucket. {ADVICE['NoSuchBucket']}"
        assert said in caplog.text
        far_side.script = always(Step.PUT, s3_error(400, "KMS.ThrottlingException"))
        near_side.run(retries=["throttled=0"])
        said = f"failed: throttled, HTTP 400 KMS.ThrottlingException. {KIND_ADVICE[FaultKind.THROTTLED]}"
        assert said in caplog.text


@pytest.mark.processes
class TestCommand:
    def test_stops_and_says_why_where_no_file_can_be_stored(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """`upload` as a process: exit code 3, and a report with each file."""
        near_side.put_many(100)
        far_side.script = refusing_all(s3_error(403, "SignatureDoesNotMatch"), MORE_SIGNED)
        environment = {**os.environ, "DICOM_INGEST_TOKEN": TOKEN}
        directory = near_side.directory / "elsewhere"
        arguments = (
            "-u",
            far_side.url,
            "-p",
            str(near_side.archive),
            "--report-dir",
            str(near_side.report_dir),
        )
        command = Command(directory, environment, "upload", *arguments)
        assert command.ended() == 3, command.said
        assert "PUTs in a row failed and nothing was stored between them" in command.said
        assert "(x-amz-acl, x-amz-server-side-encryption)" in command.said
        rows = list(read_report(near_side.report_dir))
        assert len(rows) == 100
        assert {row["status"] for row in rows} == {"failed", "not_attempted"}
        assert {row["superseded_keys"] != "" for row in rows if row["status"] == "failed"} == {True}
