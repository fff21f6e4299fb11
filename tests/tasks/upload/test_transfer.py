"""One file's way: what is stored and reported for each row of DESIGN.md section 7 that a PUT has."""

import hashlib
import os
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.core.errors import StoppedError
from tasks.report.reader import read_report
from tests.conftest import Dicom, NearSide, Run, superseded
from tests.far_side import (
    Deviation,
    FarSide,
    Minted,
    Reply,
    Request,
    Reset,
    Script,
    Step,
    StoredAs,
    always,
    at_random,
    once_begun,
    s3_error,
    scripted,
    status,
    url_expired,
)

MIB = 1024 * 1024
OTHER_MD5 = '"0123456789abcdef0123456789abcdef"'


@dataclass(frozen=True)
class Case:
    """What the object store answers to a file's PUTs, one after another, and what the report says then."""

    puts: list[Deviation]
    status: str = "uploaded"
    attempts: int = 1
    superseded: int = 0
    http_status: str = "200"
    versions: int = 1  # bodies stored under the reported key
    etag: str | None = None  # None: the MD5
    detail: str = ""


S3 = {"x-amz-request-id": "4442587FB7D0A2F9"}
KMS = S3 | {"x-amz-server-side-encryption": "aws:kms"}
CUSTOMER_KEY = S3 | {"x-amz-server-side-encryption-customer-algorithm": "AES256"}
CASES = {
    # network: same URL and key
    "reset before it was stored": Case([Reset()], attempts=2),
    "reset after it was stored": Case([Reset(stored=True)], attempts=2, versions=2),
    "S3 timed out": Case([s3_error(400, "RequestTimeout")], attempts=2),
    "reset too often": Case([Reset()] * 3, "failed/network", 3, 1, http_status=""),
    # throttled: same URL and key
    "429": Case([status(429)], attempts=2),
    "503 SlowDown": Case([s3_error(503, "SlowDown", retry_after="0")], attempts=2),
    "throttled too often": Case([status(503)] * 3, "failed/throttled", 3, 1, "503"),
    # server: same URL and key
    "408": Case([status(408)], attempts=2),
    "500": Case([s3_error(500, "InternalError")], attempts=2),
    "502": Case([status(502)], attempts=2),
    "504": Case([status(504)], attempts=2),
    "500 too often": Case([status(500)] * 3, "failed/server", 3, 1, "500"),
    "one of each": Case([Reset(), status(503), status(500)], attempts=4),
    # expired: new URL, old key superseded
    "expired, as AWS says it": Case([url_expired()], attempts=2, superseded=1),
    "expired, as others say it": Case(
        [s3_error(400, "AccessDenied", "Request has expired")], attempts=2, superseded=1
    ),
    "credentials of the signer expired": Case([s3_error(400, "ExpiredToken")], attempts=2, superseded=1),
    "expired too often": Case([url_expired()] * 3, "failed/expired", 3, 3, "403", detail="AccessDenied"),
    # refused: one new URL
    "refused once": Case([s3_error(403, "SignatureDoesNotMatch")], attempts=2, superseded=1),
    "refused twice": Case(
        [s3_error(403, "AccessDenied")] * 2, "failed/refused", 2, 2, "403", detail="AccessDenied"
    ),
    # other 4xx: the file fails
    "400": Case([s3_error(400, "InvalidRequest")], "failed/refused", 1, 1, "400", detail="InvalidRequest"),
    "404": Case([s3_error(404, "NoSuchBucket")], "failed/refused", 1, 1, "404", detail="NoSuchBucket"),
    "redirect": Case([Reply(302, headers={"Location": "/elsewhere"})], "failed/refused", 1, 1, "302"),
    # integrity: the same bytes again to the same key
    "400 BadDigest": Case([s3_error(400, "BadDigest")], attempts=2),
    "another MD5 once": Case([StoredAs(OTHER_MD5)], attempts=2, versions=2),
    "another MD5 too often": Case([StoredAs(OTHER_MD5)] * 3, "failed/integrity", 3, 1),
    # success, whatever the ETag is
    "201": Case([StoredAs(None, status=201, headers=S3)], http_status="201", etag=""),
    "204": Case([StoredAs(None, status=204, headers=S3)], http_status="204", etag=""),
    "no ETag": Case([StoredAs(None, headers=S3)], etag=""),
    "ETag of KMS": Case([StoredAs(OTHER_MD5, headers=KMS)], etag=OTHER_MD5.strip('"')),
    "ETag of a customer key": Case([StoredAs(OTHER_MD5, headers=CUSTOMER_KEY)], etag=OTHER_MD5.strip('"')),
    "ETag of parts": Case([StoredAs('"abc-2"', headers=S3)], etag="abc-2"),
}
RETRIES = [f"{kind}=2" for kind in ("network", "throttled", "server", "expired", "integrity")]


def by_file(plans: dict[str, list[Deviation]]) -> Script:
    """What is to go wrong with a body's first PUT, its second, and so on; by the body's MD5."""
    seen: defaultdict[str, int] = defaultdict(int)

    def script(request: Request) -> Deviation | None:
        if request.step is not Step.PUT:
            return None
        plan, n = plans.get(request.md5, []), seen[request.md5]
        seen[request.md5] += 1
        return plan[n] if n < len(plan) else None

    return script


def md5(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


@dataclass(slots=True)
class Played:
    """All cases in one run: after each come files that just work, so the far side never counts as down."""

    run: Run
    far_side: FarSide
    bodies: dict[str, bytes] = field(default_factory=dict)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, dicom: Dicom) -> Played:
    with FarSide() as far_side:
        near_side = NearSide(far_side, tmp_path_factory.mktemp("near side"))
        bodies = {}
        for number, name in enumerate(CASES, 1):
            bodies[name] = dicom(f"1.{number}")
            near_side.put(f"study/{number:02} {name}", bodies[name])
            for works in (1, 2, 3):
                near_side.put(f"study/{number:02} works {number} {works}", dicom(f"2.{number}.{works}"))
        far_side.script = by_file({md5(bodies[name]): case.puts for name, case in CASES.items()})
        run = near_side.run(parallel=1, retries=RETRIES)
        by_name = {path.partition(" ")[2]: row for path, row in run.rows.items()}
        return Played(Run(run.summary, by_name), far_side, bodies)


class TestPut:
    @pytest.mark.parametrize("name", CASES)
    def test_that_went_wrong_is_reported_as_the_table_says(self, played: Played, name: str) -> None:
        """Status, reason, number of PUTs, superseded keys, the last HTTP status and the ETag."""
        case, row = CASES[name], played.run.row(name)
        assert (
            played.run.statuses[name],
            int(row["attempts"]),
            len(superseded(row)),
            row["http_status"],
        ) == (
            case.status,
            case.attempts,
            case.superseded,
            case.http_status,
        )
        assert row["detail"] == case.detail
        if case.status == "uploaded":
            assert row["etag"] == (md5(played.bodies[name]) if case.etag is None else case.etag)

    @pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.status == "uploaded"])
    def test_that_succeeded_stored_the_file_byte_for_byte(self, played: Played, name: str) -> None:
        """Under the reported key, with the digests that the report says; a repeated PUT overwrites itself."""
        row, body = played.run.row(name), played.bodies[name]
        assert played.far_side.objects[row["key"]] == [body] * CASES[name].versions
        assert (row["md5"], row["sha256"]) == (md5(body), hashlib.sha256(body).hexdigest())
        assert int(row["size_bytes"]) == len(body)

    @pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.status != "uploaded"])
    def test_that_failed_for_good_leaves_no_key_but_superseded_ones(self, played: Played, name: str) -> None:
        """What may lie there is accounted for, and is not what a file is known by."""
        row = played.run.row(name)
        assert row["key"] == row["etag"] == ""
        assert set(superseded(row)) <= played.far_side.keys_handed_out

    def test_each_key_handed_out_is_in_one_row(self, played: Played) -> None:
        """Also those of files that failed: that is how nothing is lost."""
        assert played.run.keys_told == played.far_side.keys_handed_out
        told = [key for row in played.run.rows.values() for key in (row["key"], *superseded(row)) if key]
        assert len(told) == len(set(told))

    def test_carries_what_s3_wants_and_no_token(self, played: Played) -> None:
        """Content-Length, never chunked; the media type; the digest, known before the body."""
        for request in played.far_side.asked(Step.PUT):
            assert "Authorization" not in request.headers
            assert "Transfer-Encoding" not in request.headers
            assert request.headers["Content-Length"].isdigit()
            assert request.headers["Content-Type"] == "application/dicom"
            assert request.md5

    def test_is_never_asked_to_come_from_a_cache(self, played: Played) -> None:
        """A presign answer out of a cache would make two images share a key."""
        assert {request.headers["Cache-Control"] for request in played.far_side.asked(Step.PRESIGN)} == {
            "no-store"
        }


class TestUncertainPut:
    def test_goes_to_a_new_key_once_its_url_is_dead(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """The old key may hold the file: it is superseded."""
        near_side.put("study/a", dicom("1.1"))
        died = threading.Event()

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PRESIGN:
                return Minted(lifetime_s=1 if request.n == 1 else 900)
            if request.n == 1:
                died.wait(1.1)
                return Reset()
            return None

        far_side.script = once_begun(script)
        row = near_side.run().row("study/a")
        first, second = (request.key for request in far_side.asked(Step.PUT))
        assert (row["key"], superseded(row)) == (second, [first])

    def test_waits_as_long_as_the_server_says(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Retry-After counts although the jitter would be shorter."""
        near_side.put("study/a", dicom("1.1"))
        far_side.script = scripted((Step.PUT, 1, status(503, retry_after="1")))
        row = near_side.run().row("study/a")
        assert row["status"] == "uploaded"
        assert float(row["duration_s"]) >= 1


def stream_from(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    """Larger files are streamed; the real bound takes long to hash."""
    monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", size_bytes)


class TestLargeFile:
    def test_is_streamed_with_its_length_and_hashed_on_the_way(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is read twice for a digest: Content-MD5 is not known before the body, so it is not sent."""
        stream_from(monkeypatch, MIB)
        body = dicom("1.1", pixel_bytes=3 * MIB)
        near_side.put("study/large", body)
        row = near_side.run().row("study/large")
        (put,) = far_side.asked(Step.PUT)
        assert far_side.objects == {row["key"]: [body]}
        assert (put.headers["Content-Length"], put.md5) == (str(len(body)), "")
        assert "Transfer-Encoding" not in put.headers
        assert (row["md5"], row["etag"]) == (md5(body), md5(body))
        assert row["sha256"] == hashlib.sha256(body).hexdigest()

    def test_is_streamed_above_eight_mebibytes(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """The bound as it is: one file each side of it."""
        small, large = dicom("1.1", pixel_bytes=7 * MIB), dicom("1.2", pixel_bytes=8 * MIB)
        near_side.put("study/small", small)
        near_side.put("study/large", large)
        run = near_side.run()
        assert far_side.bodies == {
            run.row("study/small")["key"]: small,
            run.row("study/large")["key"]: large,
        }
        assert {bool(put.md5): put.headers["Content-Length"] for put in far_side.asked(Step.PUT)} == {
            True: str(len(small)),
            False: str(len(large)),
        }

    @pytest.mark.parametrize("deviation", [Reset(), StoredAs(OTHER_MD5)])
    def test_is_sent_again_from_its_start(
        self,
        near_side: NearSide,
        far_side: FarSide,
        dicom: Dicom,
        monkeypatch: pytest.MonkeyPatch,
        deviation: Deviation,
    ) -> None:
        """To the same key."""
        stream_from(monkeypatch, MIB)
        body = dicom("1.1", pixel_bytes=3 * MIB)
        near_side.put("study/large", body)
        far_side.script = scripted((Step.PUT, 1, deviation))
        row = near_side.run().row("study/large")
        assert (row["status"], row["attempts"], superseded(row)) == ("uploaded", "2", [])
        assert far_side.bodies == {row["key"]: body}

    def test_over_five_gibibytes_is_too_large_before_any_request_for_it(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """S3's most for one PUT."""
        path = near_side.put("study/huge", b"")
        with path.open("r+b") as file:
            file.truncate(5 * 1024**3 + 1)
        run = near_side.run()
        assert run.statuses == {"study/huge": "too_large"}
        assert run.row("study/huge")["size_bytes"] == str(5 * 1024**3 + 1)
        assert (run.exit_code, len(far_side.requests)) == (1, 1)
        assert run.summary.unused_keys == list(far_side.keys_handed_out)


class TestFileThatChanges:
    """While it is sent; the far side changes it when it has the head of the PUT and before it reads on."""

    BODY_BYTES = 32 * MIB  # far more than sockets hold

    @pytest.fixture
    def large(self, near_side: NearSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch) -> Path:
        stream_from(monkeypatch, MIB)
        head = dicom("1.1", pixel_bytes=2 * MIB)
        return near_side.put("study/large", head + bytes(self.BODY_BYTES))

    def test_once_is_sent_anew_to_the_same_key(
        self, near_side: NearSide, far_side: FarSide, large: Path
    ) -> None:
        """What is stored is the file as it is in the end."""

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 1:
                with large.open("r+b") as file:  # in one write: half of it could be read as well
                    file.seek(-9, os.SEEK_END)
                    file.write(b"annotated")

        far_side.script = script
        run = near_side.run()
        row = run.row("study/large")
        assert (run.statuses, row["attempts"], superseded(row)) == ({"study/large": "uploaded"}, "2", [])
        assert far_side.objects == {row["key"]: [large.read_bytes()]}
        assert row["md5"] == md5(large.read_bytes())

    def test_each_time_is_given_up(self, near_side: NearSide, far_side: FarSide, large: Path) -> None:
        """No key, and nothing that is half of one file and half of another is stored."""

        def script(request: Request) -> None:
            if request.step is Step.PUT:
                with large.open("ab") as file:
                    file.write(b"\0\0")

        far_side.script = script
        run = near_side.run()
        row = run.row("study/large")
        assert (run.statuses, row["key"], run.exit_code) == ({"study/large": "changed"}, "", 1)
        assert superseded(row) == [far_side.asked(Step.PUT)[0].key]
        assert len({put.key for put in far_side.asked(Step.PUT)}) == 1
        assert far_side.objects == {}

    def test_its_time_only_counts_as_changed(
        self, near_side: NearSide, far_side: FarSide, large: Path
    ) -> None:
        """A write in place may keep the size."""

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 1:
                large.touch()

        far_side.script = script
        row = near_side.run().row("study/large")
        assert (row["status"], row["attempts"]) == ("uploaded", "2")

    def test_by_shrinking_never_counts_as_stored(
        self, near_side: NearSide, far_side: FarSide, large: Path
    ) -> None:
        """It ends before its length: what is left of it is no whole instance."""

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 1:
                with large.open("r+b") as file:
                    file.truncate(MIB + 2)

        far_side.script = script
        run = near_side.run()
        assert run.statuses == {"study/large": "invalid/truncated"}
        assert far_side.objects == {}
        assert run.keys_told == far_side.keys_handed_out

    @pytest.mark.parametrize("becomes", [b"", b"notes"])
    def test_into_no_image_at_all_is_not_written_off(
        self, near_side: NearSide, far_side: FarSide, large: Path, becomes: bytes
    ) -> None:
        """`not_dicom` would end in exit code 0, and an image would be lost without a word."""

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 1:
                large.write_bytes(becomes)

        far_side.script = script
        run = near_side.run()
        assert (run.statuses, run.exit_code) == ({"study/large": "changed"}, 1)
        assert far_side.objects == {}
        assert run.keys_told == far_side.keys_handed_out


TOO_LONG = StoppedError("The test waited for too long.")


def within(seconds: float, near_side: NearSide) -> Run:
    """A run that must not hang: after the time it is stopped, and says so in its exit code."""
    engine = near_side.engine()
    watchdog = threading.Timer(seconds, engine.stop, [TOO_LONG])
    watchdog.start()
    try:
        return near_side.finished(engine)
    finally:
        watchdog.cancel()


class TestClaim:
    """A file that claimed a UID and then turned out not to be it any more."""

    @pytest.mark.parametrize("becomes", ["gone", "text", "another instance"])
    def test_is_let_go_so_that_the_twin_takes_over(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, becomes: str
    ) -> None:
        """The twin must neither wait for ever nor be lost."""
        bodies = [dicom("1.1", "one"), dicom("1.1", "another")]
        paths = {md5(body): near_side.put(f"study/{n}", body) for n, body in enumerate(bodies)}
        changed: list[Path] = []

        def script(request: Request) -> Deviation | None:
            if request.step is not Step.PUT or request.n > 1:
                return None
            changed.append(paths[request.md5])
            changed[0].unlink()
            if becomes != "gone":
                changed[0].write_bytes(b"notes" if becomes == "text" else dicom("1.9"))
            return status(500)

        far_side.script = script
        run = within(3, near_side)
        (twin,) = set(paths.values()) - set(changed)
        row = run.row(f"study/{twin.name}")
        assert row["status"] == "uploaded"
        assert far_side.bodies[row["key"]] == twin.read_bytes()
        assert run.exit_code == (0 if becomes == "another instance" else 1)
        assert run.keys_told == far_side.keys_handed_out

    def test_of_a_file_that_failed_passes_to_its_twin(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Whichever is first fails for good; the other one is sent."""
        near_side.put("study/a", dicom("1.1"))
        near_side.put("study/b", dicom("1.1"))
        far_side.script = scripted((Step.PUT, 1, s3_error(400, "InvalidRequest")))
        run = within(3, near_side)
        assert sorted(run.statuses.values()) == ["failed/refused", "uploaded"]
        assert len(far_side.objects) == 1


class TestDetail:
    def test_says_what_the_api_s_answer_lacks_and_goes_when_the_file_is_stored(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """In the report and in what keeps the study from being complete."""
        near_side.put("study/a", dicom("1.1"))
        far_side.script = once_begun(always(Step.PRESIGN, Reply(200, b'{"url": "http://127.0.0.1/"}')))
        failed = near_side.run(retries=["presign=1"])
        (study,) = read_report(near_side.report_dir / "studies.csv")
        assert (failed.statuses, failed.row("study/a")["detail"]) == (
            {"study/a": "failed/presign"},
            "no_key",
        )
        assert study["why"] == "1 presign (no_key)"
        far_side.script = scripted((Step.PUT, 1, s3_error(503, "SlowDown")))
        stored = near_side.run()
        (study,) = read_report(near_side.report_dir / "studies.csv")
        assert (stored.statuses, stored.row("study/a")["detail"]) == ({"study/a": "uploaded"}, "")
        assert study["why"] == ""

    def test_is_the_last_fault_s(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        near_side.put("study/a", dicom("1.1"))
        far_side.script = scripted(
            (Step.PUT, 1, s3_error(503, "SlowDown")), (Step.PUT, 2, s3_error(400, "NoSuchBucket"))
        )
        row = near_side.run().row("study/a")
        assert (row["status"], row["reason"], row["detail"]) == ("failed", "refused", "NoSuchBucket")

    def test_is_of_a_failed_file_alone(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """One that nobody can read any more was refused before; that is not why."""
        path = near_side.put("study/a", dicom("1.1"))

        def script(request: Request) -> Deviation | None:
            if request.step is not Step.PUT:
                return None
            path.unlink()
            return s3_error(503, "SlowDown")

        far_side.script = script
        row = near_side.run().row("study/a")
        assert (row["status"], row["detail"]) == ("unreadable", "")


class TestChaos:
    @pytest.mark.parametrize("seed", range(3))
    def test_at_random_loses_nothing(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, seed: int
    ) -> None:
        """A third of all requests go wrong, yet what has a key is stored under it, and every key is told."""
        bodies = {f"study/{number:03}": dicom(f"1.{number}") for number in range(60)}
        for name, body in bodies.items():
            near_side.put(name, body)
        far_side.script = at_random(
            seed,
            0.33,
            {
                Step.PRESIGN: [Reset(), status(500), status(429), Reply(200, b"<html>")],
                Step.PUT: [Reset(), Reset(stored=True), status(503), url_expired(), StoredAs(OTHER_MD5)],
            },
        )
        run = near_side.run(retries=[f"{kind}=50" for kind in ("network", "throttled", "server", "presign")])
        stored = {name: far_side.bodies[row["key"]] for name, row in run.rows.items() if row["key"]}
        assert stored == {name: bodies[name] for name in stored}
        assert set(far_side.objects) <= run.keys_told
        assert {run.statuses[name] for name in set(bodies) - set(stored)} <= {
            "failed/expired",
            "failed/integrity",
        }
        assert len(stored) > 50
