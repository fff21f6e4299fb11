"""A run as a whole: what it sends, what it leaves alone, how it ends, and what the next run makes of it."""

import gc
import hashlib
import os
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydicom.data.data_manager import DATA_ROOT

from tasks.core.errors import CredentialsRefusedError, IngestError, InterruptedRunError, UsageError
from tasks.core.models import Listed, Reason, Status, StudyEntry, Unwalked
from tasks.core.progress import Progress
from tasks.report.reader import read_report
from tasks.run.engine import Engine, ingest
from tasks.source.scan import Ownership, just_file, walk_study
from tests.conftest import Dicom, NearSide, superseded
from tests.databases import PostgreSQL
from tests.far_side import (
    CLIENT_ID,
    CLIENT_SECRET,
    Deviation,
    FarSide,
    Minted,
    Reply,
    Request,
    Reset,
    Step,
    all_good,
    always,
    interrupting,
    once_begun,
    s3_error,
    scripted,
    status,
)

OAUTH2 = {"token": "", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, postgresql: PostgreSQL) -> str:
    """Everything here holds on both."""
    return "" if request.param == "sqlite" else postgresql.new_database()


class TestSlots:
    @pytest.mark.parametrize("parallel", [1, 7, 20])
    def test_are_used_in_full_and_never_exceeded(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, parallel: int
    ) -> None:
        """The first PUTs are held until as many as may be are under way."""
        near_side.put_many(3 * parallel)
        full: list[bool] = []

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n <= parallel:
                full.append(far_side.wait_for_puts(parallel))

        far_side.script = script
        run = near_side.run(parallel=parallel)
        assert all(full)
        assert far_side.most_puts_under_way == run.summary.peak_parallel == parallel
        assert len(far_side.objects) == 3 * parallel

    def test_belong_to_all_batches_together(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """However studies are cut: here into batches of a few files, several of them in flight."""
        near_side.edges = replace(near_side.edges, batch_target=lambda _batch_no: 5, rows_at_once=5)
        for study in "abcdefgh":
            near_side.put_many(11, study)

        def script(request: Request) -> None:
            if request.step is Step.PUT:
                far_side.wait_for_puts(8)

        far_side.script = script
        run = near_side.run(parallel=8)
        assert set(run.statuses.values()) == {"uploaded"}
        assert len(run.rows) == len(far_side.objects) == 88
        assert far_side.most_puts_under_way == run.summary.peak_parallel == 8

    def test_get_their_urls_just_in_time(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """While PUTs are slow, no more keys are out than slots and what is to follow at once."""
        near_side.put_many(40)
        ahead: list[int] = []

        def script(request: Request) -> None:
            if request.step is Step.PUT:
                time.sleep(0.1)
                ahead.append(len(far_side.keys_handed_out) - len(far_side.objects))

        far_side.script = script
        near_side.run(parallel=4)
        assert max(ahead) <= 2 * 4 + 1, "and the one that the start asks for"

    def test_do_not_age_the_others_urls_while_one_put_lasts(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """However long: few URLs are minted between any other's minting and its use."""
        near_side.put_many(40)
        others_are_sent = threading.Event()
        younger: list[int] = []

        def script(request: Request) -> None:
            if request.step is not Step.PUT:
                return
            if request.n == 1:
                assert others_are_sent.wait(20)
                return
            younger.append(len(far_side.minted) - 1 - far_side.minted.index(request.key))
            time.sleep(0.1)
            if request.n == 40:
                others_are_sent.set()

        far_side.script = script
        run = near_side.run(parallel=4)
        assert (set(run.statuses.values()), len(younger)) == ({"uploaded"}, 39)
        assert max(younger) <= 2 * 4

    def test_are_given_files_that_were_opened_and_read_once(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For header, hashes and body together."""
        near_side.put_many(10)
        files = {path.stat().st_ino for path in (near_side.archive / "study").iterdir()}
        opened, read = Counter[int](), Counter[int]()

        def counted(function: Callable[..., Any], calls: Counter[int]) -> Callable[..., Any]:
            def call(what: Any, *more: Any, **named: Any) -> Any:
                result = function(what, *more, **named)
                calls[os.stat(what).st_ino] += 1
                return result

            return call

        monkeypatch.setattr(os, "open", counted(os.open, opened))
        monkeypatch.setattr(os, "pread", counted(os.pread, read))
        run = near_side.run()
        assert set(run.statuses.values()) == {"uploaded"}
        once = dict.fromkeys(files, 1)
        assert {file: opened[file] for file in files} == {file: read[file] for file in files} == once


class TestTwins:
    def test_with_the_same_bytes_are_sent_once(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """The others carry the key of the one that was sent."""
        for name in ("a/1", "a/2", "b/1"):
            near_side.put(name, dicom("1.1"))
        run = near_side.run()
        assert sorted(run.statuses.values()) == ["duplicate", "duplicate", "uploaded"]
        assert {row["key"] for row in run.rows.values()} == set(far_side.objects)
        assert run.keys_told == far_side.keys_handed_out
        assert run.exit_code == 0

    def test_with_other_bytes_are_a_conflict(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """One is sent, the other is for a person."""
        near_side.put("study/1", dicom("1.1", "one"))
        near_side.put("study/2", dicom("1.1", "other"))
        run = near_side.run()
        assert sorted(run.statuses.values()) == ["conflict", "uploaded"]
        assert (len(far_side.objects), run.exit_code) == (1, 1)

    def test_with_other_bytes_are_both_sent_when_asked_for(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """--on-conflict upload, also when content is compared again."""
        bodies = {"study/1": dicom("1.1", "one"), "study/2": dicom("1.1", "other")}
        for name, body in bodies.items():
            near_side.put(name, body)
        run = near_side.run(on_conflict="upload")
        assert {name: far_side.bodies[row["key"]] for name, row in run.rows.items()} == bodies
        assert near_side.run(on_conflict="upload", rehash=True).statuses == dict.fromkeys(
            bodies, "already_uploaded"
        )
        assert len(far_side.asked(Step.PUT)) == 2

    def test_are_found_across_runs(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """A copy that comes later is a duplicate, other bytes with its UID a conflict."""
        near_side.put("study/1", dicom("1.1"))
        first = near_side.run()
        near_side.put("study/2", dicom("1.1"))
        near_side.put("study/3", dicom("1.1", "other"))
        run = near_side.run()
        assert run.statuses == {
            "study/1": "already_uploaded",
            "study/2": "duplicate",
            "study/3": "conflict",
        }
        assert run.row("study/2")["key"] == first.row("study/1")["key"]
        assert len(far_side.asked(Step.PUT)) == 1


class TestRerun:
    def test_sends_nothing_and_opens_nothing(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Key, attempts, times and run_id are the storing run's; no more than its stat is looked at."""
        path = near_side.put("study/a", dicom("1.1"))
        first = near_side.run()
        stored, handed_out = dict(far_side.objects), set(far_side.keys_handed_out)
        times = path.stat()
        path.write_bytes(bytes(times.st_size))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        rerun = near_side.run(trust_ctime=False)
        assert rerun.row("study/a") == first.row("study/a") | {"status": "already_uploaded"}
        assert far_side.objects == stored
        assert far_side.keys_handed_out == handed_out | set(rerun.summary.unused_keys)
        assert rerun.exit_code == 0

    def test_with_rehash_finds_what_kept_its_size_and_time(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """What is unchanged is as it was; what changed is bit rot or worse, no edit, and not sent."""
        kept, edited = near_side.put("study/a", dicom("1.1")), near_side.put("study/b", dicom("1.2"))
        first = near_side.run()
        times = edited.stat()
        edited.write_bytes(dicom("1.2", "edited"))
        os.utime(edited, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert set(near_side.run(trust_ctime=False).statuses.values()) == {"already_uploaded"}
        run = near_side.run(rehash=True)
        assert run.statuses == {"study/a": "already_uploaded", "study/b": "changed/altered"}
        run = near_side.run(rehash=True, on_conflict="upload")
        assert run.statuses == {"study/a": "already_uploaded", "study/b": "uploaded/replaced"}
        assert run.row("study/a") == first.row("study/a") | {"status": "already_uploaded"}
        assert far_side.bodies[run.row("study/b")["key"]] == edited.read_bytes()
        assert kept.read_bytes() in far_side.bodies.values()

    def test_sends_new_content_of_a_path_to_a_new_key(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """The key of the earlier content is superseded."""
        near_side.put("study/a", dicom("1.1"))
        old_key = near_side.run().row("study/a")["key"]
        near_side.put("study/a", dicom("1.1", "new"))
        run = near_side.run()
        row = run.row("study/a")
        assert (run.statuses, superseded(row)) == ({"study/a": "uploaded/replaced"}, [old_key])
        assert far_side.bodies[row["key"]] == dicom("1.1", "new")
        assert near_side.run().statuses == {"study/a": "already_uploaded"}

    def test_of_a_touched_file_sends_nothing(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Another mtime, the same bytes: read again, and known."""
        path = near_side.put("study/a", dicom("1.1"))
        first = near_side.run()
        os.utime(path, ns=(0, 10**18))
        assert near_side.run().row("study/a") == first.row("study/a") | {"status": "already_uploaded"}

    def test_of_a_moved_file_sends_nothing(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Its path is new, its bytes are stored: with the key under which they are."""
        path = near_side.put("study/a", dicom("1.1"))
        key = near_side.run().row("study/a")["key"]
        path.rename(path.with_name("b"))
        for _ in range(2):
            run = near_side.run()
            assert (run.statuses, run.row("study/b")["key"]) == ({"study/b": "already_uploaded"}, key)
        assert len(far_side.asked(Step.PUT)) == 1

    def test_of_files_that_swapped_their_names_keeps_their_keys(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Both are stored: a key is not superseded that another row is known by."""
        a, b = near_side.put("study/a", dicom("1.1", "a")), near_side.put("study/b", dicom("1.2", "b1"))
        first = near_side.run()
        a.rename(a.with_name("c"))
        b.rename(a)
        a.with_name("c").rename(b)
        os.utime(a, ns=(0, 1))
        os.utime(b, ns=(0, 2))
        run = near_side.run()
        keys = {name: row["key"] for name, row in run.rows.items()}
        assert keys == {"study/a": first.row("study/b")["key"], "study/b": first.row("study/a")["key"]}
        assert [superseded(row) for row in run.rows.values()] == [[], []]
        assert len(far_side.asked(Step.PUT)) == 2

    def test_tries_again_what_failed(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Under a new key; the failed one's stays superseded."""
        near_side.put("study/a", dicom("1.1"))
        far_side.script = scripted((Step.PUT, 1, s3_error(400, "InvalidRequest")))
        failed = near_side.run()
        run = near_side.run()
        assert (failed.statuses, run.statuses) == (
            {"study/a": "failed/refused"},
            {"study/a": "uploaded"},
        )
        assert superseded(run.row("study/a")) == superseded(failed.row("study/a")) != []

    def test_after_a_failed_replacement_knows_the_old_content_when_it_is_back(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Key, attempts, times and run_id are then the storing run's again."""
        near_side.put("study/a", dicom("1.1"))
        first = near_side.run().row("study/a")
        near_side.put("study/a", dicom("1.1", "other"))
        far_side.script = always(Step.PUT, s3_error(400, "InvalidRequest"))
        failed = near_side.run().row("study/a")
        near_side.put("study/a", dicom("1.1"))
        row = near_side.run().row("study/a")
        assert row == first | {"status": "already_uploaded", "superseded_keys": row["superseded_keys"]}
        assert set(superseded(row)) == set(superseded(failed)) - {first["key"]}


class TestYoungFiles:
    def test_are_left_alone(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """They may still be written; the next run looks again."""
        old, young = near_side.put("study/old", dicom("1.1")), near_side.put("study/young", dicom("1.2"))
        os.utime(old, (0, time.time() - 100))
        os.utime(young, (0, time.time() - 10))
        run = near_side.run(min_age=60)
        assert run.statuses == {"study/old": "uploaded", "study/young": "not_attempted/too_young"}
        assert (run.exit_code, len(far_side.objects)) == (1, 1)
        assert near_side.run().statuses == {"study/old": "already_uploaded", "study/young": "uploaded"}

    def test_that_are_stored_stay_so(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Unchanged since an earlier run stored them: their age does not matter."""
        near_side.put("study/a", dicom("1.1"))
        key = near_side.run().row("study/a")["key"]
        run = near_side.run(min_age=3600)
        assert (run.statuses, run.row("study/a")["key"]) == ({"study/a": "already_uploaded"}, key)

    def test_are_not_those_from_the_future_when_no_age_is_asked_for(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """Scanners with a wrong clock write them."""
        path = near_side.put("study/a", dicom("1.1"))
        os.utime(path, (0, time.time() + 10**7))
        assert near_side.run().statuses == {"study/a": "uploaded"}


class TestRefusal:
    """Credentials or settings that are refused stop the run; the report says what was not attempted."""

    @pytest.fixture
    def studies(self, near_side: NearSide, dicom: Dicom) -> NearSide:
        near_side.put_many(30, "a")
        near_side.put_many(30, "b")
        return near_side

    @pytest.mark.parametrize(
        ("answer", "code"),
        [(status(401), 4), (status(403), 4), (status(404), 3), (Minted(host="storage.example.org"), 3)],
        ids=["401", "403", "404", "storage host"],
    )
    def test_once_the_scan_has_begun_leaves_a_row_for_each_file(
        self, studies: NearSide, far_side: FarSide, answer: Deviation, code: int
    ) -> None:
        """Nothing was sent, and the report says so."""
        far_side.script = once_begun(always(Step.PRESIGN, answer))
        run = studies.run(allow_storage_host=["127.0.0.1"])
        assert run.exit_code == code
        assert set(run.statuses.values()) <= {"not_attempted/stopped", "failed/auth"}
        assert len(run.rows) == 60
        assert far_side.asked(Step.PUT) == []
        assert len(far_side.asked(Step.PRESIGN)) <= 41  # places: slots and what is to follow; the first
        assert len(run.summary.problems) == 1

    @pytest.mark.parametrize(("answer", "code"), [(status(401), 4), (status(404), 3)])
    def test_later_ends_with_a_full_report(
        self, studies: NearSide, far_side: FarSide, answer: Deviation, code: int
    ) -> None:
        """What was sent is told, and what was not."""
        far_side.script = lambda request: answer if request.step is Step.PRESIGN and request.n > 10 else None
        run = studies.run(parallel=2)
        assert run.exit_code == code
        assert len(run.rows) == 60
        assert {row["key"] for row in run.rows.values()} - {""} == set(far_side.objects)
        assert run.keys_told == far_side.keys_handed_out
        assert set(run.statuses.values()) == {"uploaded", "not_attempted/stopped"}

    def test_says_which_directories_were_not_scanned(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """One row each."""
        near_side.edges = replace(near_side.edges, batch_target=lambda _batch_no: 5, rows_at_once=5)
        for study in "abcdefghij":
            near_side.put_many(10, study)
        far_side.script = once_begun(always(Step.PRESIGN, status(401)))
        run = near_side.run()
        unscanned = {name for name, told in run.statuses.items() if told == "not_attempted/not_scanned"}
        assert unscanned
        assert unscanned <= set("abcdefghij")
        scanned = set("abcdefghij") - unscanned
        assert {f"{study}/{n:04}" for study in scanned for n in range(10)} <= set(run.rows)
        assert set(run.statuses.values()) == {"not_attempted/stopped", "not_attempted/not_scanned"}

    def test_by_403_is_survived_now_and_then(self, studies: NearSide, far_side: FarSide) -> None:
        """Once something was granted: a rate limiter may be in a bad mood."""
        far_side.script = lambda request: (
            status(403) if request.step is Step.PRESIGN and request.n % 10 == 9 else None
        )
        run = studies.run(parallel=3)
        assert (run.exit_code, set(run.statuses.values())) == (0, {"uploaded"})

    def test_by_403_several_times_in_a_row_stops(self, studies: NearSide, far_side: FarSide) -> None:
        """The credentials were withdrawn."""
        far_side.script = lambda request: (
            status(403) if request.step is Step.PRESIGN and request.n > 10 else None
        )
        run = studies.run(parallel=2)
        assert run.exit_code == 4
        assert len(far_side.asked(Step.PRESIGN)) < 30

    def test_of_client_credentials_ends_with_4(self, studies: NearSide, far_side: FarSide) -> None:
        """Nothing was attempted, and nothing is left."""
        with pytest.raises(CredentialsRefusedError) as refused:
            studies.run(**{**OAUTH2, "client_secret": "wrong", "token_url": far_side.token_url})
        assert refused.value.exit_code == 4
        assert "wrong" not in str(refused.value)
        assert not studies.report_dir.exists()

    def test_before_the_run_leaves_no_connection_open(self, studies: NearSide, far_side: FarSide) -> None:
        """The engine is part of other people's programs too."""
        with pytest.raises(IngestError):
            studies.run(**{**OAUTH2, "client_secret": "wrong", "token_url": far_side.token_url})
        gc.collect()  # what is told here becomes an error at the end of this test

    def test_of_client_credentials_later_ends_with_4(self, studies: NearSide, far_side: FarSide) -> None:
        """The token expired and no new one is given."""

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PRESIGN and request.n > 10:
                return status(401)
            return Reply(401, b'{"error": "invalid_client"}') if request.n > 1 and is_token(request) else None

        def is_token(request: Request) -> bool:
            return request.step is Step.TOKEN

        far_side.script = script
        run = studies.run(**OAUTH2, token_url=far_side.token_url, parallel=2)
        assert run.exit_code == 4
        assert len(run.rows) == 60
        assert run.keys_told == far_side.keys_handed_out

    def test_by_a_key_handed_out_twice_stops_before_it_overwrites(
        self, studies: NearSide, far_side: FarSide
    ) -> None:
        """A cache before the API: no image may take another's place."""
        far_side.script = lambda request: (
            Minted(key="uploads/the-same") if request.step is Step.PRESIGN else None
        )
        run = studies.run()
        assert run.exit_code == 3
        assert len(run.rows) == 60
        assert [len(versions) for versions in far_side.objects.values()] in ([], [1])

    def test_by_a_key_of_an_earlier_run_stops_too(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """The ledger knows every key that was ever handed out; it is noticed at the start."""
        same = always(Step.PRESIGN, Minted(key="uploads/the-same"))
        near_side.put("study/a", dicom("1.1"))
        far_side.script = once_begun(same)
        assert near_side.run().exit_code == 0
        near_side.put("study/b", dicom("1.2"))
        far_side.script = same
        run = near_side.run()
        assert run.exit_code == 3
        assert run.statuses == {"study/a": "already_uploaded", "study/b": "not_attempted/stopped"}
        assert far_side.objects == {"uploads/the-same": [dicom("1.1")]}
        assert (run.summary.unused_keys, len(far_side.asked(Step.PRESIGN))) == ([], 3)

    def test_after_a_put_that_went_wrong_says_that_it_was_tried(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """A file that was sent is not `not_attempted`, though it is another's refusal that stops the run."""
        near_side.put("study/a", dicom("1.1"))
        far_side.script = scripted(
            (Step.PUT, 1, s3_error(403, "AccessDenied", "Request has expired")),
            (Step.PRESIGN, 3, status(401)),
        )
        run = near_side.run()
        assert run.exit_code == 4
        assert (run.row("study/a")["status"], run.row("study/a")["attempts"]) == ("failed", "1")


class TestApi:
    @pytest.mark.parametrize(
        "answer",
        [Reply(200, b"<html>Please log in</html>"), Reset(), status(503, retry_after="0"), status(500)],
        ids=["no JSON", "reset", "503", "500"],
    )
    def test_that_answers_badly_once_is_asked_again(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, answer: Deviation
    ) -> None:
        """No PUT is counted for it."""
        near_side.put("study/a", dicom("1.1"))
        far_side.script = once_begun(scripted((Step.PRESIGN, 1, answer)))
        row = near_side.run().row("study/a")
        assert (row["status"], row["attempts"], superseded(row)) == ("uploaded", "1", [])

    def test_that_keeps_answering_badly_fails_the_file(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """The run goes on."""
        near_side.put("study/a", dicom("1.1"))
        far_side.script = once_begun(always(Step.PRESIGN, Reply(200, b"[]")))
        run = near_side.run()
        assert (run.statuses, run.exit_code) == ({"study/a": "failed/presign"}, 1)
        assert run.row("study/a")["attempts"] == "0"

    def test_that_is_not_there_ends_the_run_before_it_begins(self, near_side: NearSide, dicom: Dicom) -> None:
        """A wrong address is said at once; there is no report."""
        near_side.put("study/a", dicom("1.1"))
        with pytest.raises(UsageError, match="can't be reached"):
            near_side.run(api_endpoint="http://127.0.0.1:1")
        assert not (near_side.report_dir / "report.csv").exists()

    def test_tokens_are_renewed_once_for_all_slots(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Many 401s at the same time, one new token."""
        near_side.put_many(60)

        def script(request: Request) -> None:
            if request.step is Step.PRESIGN and request.n == 20:
                far_side.tokens.clear()

        far_side.script = script
        run = near_side.run(**OAUTH2, token_url=far_side.token_url)
        assert set(run.statuses.values()) == {"uploaded"}
        assert len(far_side.asked(Step.TOKEN)) == 2

    def test_tokens_never_go_to_the_storage_host(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Nor do they come into the report."""
        near_side.put_many(5)
        run = near_side.run()
        assert not [put for put in far_side.asked(Step.PUT) if "Authorization" in put.headers]
        written = b"".join(path.read_bytes() for path in near_side.report_dir.iterdir() if path.is_file())
        assert run.exit_code == 0
        assert b"a-static-token" not in written
        assert b"X-Amz-Signature" not in written


class TestOutage:
    def test_is_waited_for(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """A far side that is down for a while costs that while: no file fails, and few tries are made."""
        near_side.put_many(60)
        down_until = time.monotonic() + 0.5
        far_side.script = lambda request: (
            status(502) if request.step is Step.PUT and time.monotonic() < down_until else None
        )
        run = near_side.run()
        assert set(run.statuses.values()) == {"uploaded"}
        assert len(far_side.asked(Step.PUT)) <= 60 + 4 * 20

    def test_is_no_reason_to_ask_before_the_server_permits(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Retry-After holds for each file that was told, though all of them were."""
        near_side.put_many(10)
        times: defaultdict[str, list[float]] = defaultdict(list)

        def script(request: Request) -> Deviation | None:
            if request.step is not Step.PUT:
                return None
            times[request.key].append(time.monotonic())
            return status(503, retry_after="2") if request.n <= 8 else None

        far_side.script = script
        run = near_side.run(parallel=5)
        gaps = [later - earlier for when in times.values() for earlier, later in pairwise(when)]
        assert set(run.statuses.values()) == {"uploaded"}
        assert len(gaps) == 8
        assert min(gaps) > 1.9

    def test_that_lasts_ends_the_run(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Exit 3 with every file in the report."""
        near_side.put_many(60)
        far_side.script = always(Step.PUT, status(502))
        run = near_side.run(max_outage=0.5)
        assert (run.exit_code, len(run.rows)) == (3, 60)
        assert set(run.statuses.values()) <= {"not_attempted/stopped", "failed/server", "failed/interrupted"}
        assert run.keys_told == far_side.keys_handed_out


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


def wait_for_workers() -> None:
    """Until those that were cut off are done, a moment at most."""
    for worker in workers():
        worker.join(60)


class TestAStudyDirThatIsAFile:
    @pytest.mark.parametrize("order", [(1, 2), (2, 1)])
    def test_beside_one_that_holds_it_is_missing_and_the_file_has_its_row_there(
        self, near_side: NearSide, dicom: Dicom, order: tuple[int, int]
    ) -> None:
        """In every run the same: neither row says what the other one is."""
        path = near_side.put("study/image", dicom("1.1"))
        holder, file = order
        entries = [StudyEntry(holder, str(path.parent)), StudyEntry(file, str(path))]
        entries.sort(key=lambda entry: entry.study_no)
        for expected in ("uploaded", "already_uploaded", "already_uploaded"):
            assert ingest(entries, near_side.settings(), edges=near_side.edges).exit_code == 1
            found = {
                int(row["study_no"]): (row["path"], row["status"], row["reason"])
                for row in read_report(near_side.report_dir)
            }
            assert found == {
                holder: (str(path), expected, ""),
                file: (str(path), "missing", "not_a_directory"),
            }


class TestADirectory:
    """That changes while the run lasts: what came is in no row, and what went was one."""

    def test_that_changed_after_it_was_listed_is_a_problem(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        near_side.put("0/a", dicom("1.1"))
        near_side.put("1/deep/a", dicom("1.2"))
        near_side.put("1/gone/a", dicom("1.3"))
        near_side.put("2/a", dicom("1.4"))

        def change(request: Request) -> None:
            if (request.step, request.n) == (Step.PUT, 1):
                near_side.put("1/deep/late", dicom("1.5"))
                shutil.move(near_side.archive / "1" / "gone", near_side.directory / "gone")

        far_side.script = change
        run = near_side.run()
        (problem,) = run.summary.problems
        assert problem.startswith("3 directories changed after being listed, of study 2: what came"), problem
        again = near_side.run().summary.problems
        assert not any("after being listed" in problem for problem in again), "another run has all of it"

    def test_that_is_the_runs_own_is_none(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Report and ledger in a study: companions of a database come and go."""
        near_side.put("0/a", dicom("1.1"))
        study = near_side.archive / "0"
        far_side.script = lambda _request: (study / "ledger.sqlite-journal").touch()
        settings = near_side.settings(report_dir=study / "report", ledger=str(study / "ledger.sqlite"))
        assert ingest(near_side.entries(), settings, edges=near_side.edges).problems == []

    def test_is_told_of_by_a_number_of_studies(self, near_side: NearSide, dicom: Dicom) -> None:
        """However many there are."""
        for number in range(30):
            near_side.put(f"{number:02}/a", dicom(f"1.{number}"))
        engine = near_side.engine()
        for _ in engine.scan():
            pass
        for study in near_side.archive.iterdir():
            (study / "late").touch()
        (problem,) = near_side.finished(engine).summary.problems
        assert problem.startswith("30 directories changed after being listed, of study 1, 2, 3, ")
        assert " 20 and 10 more: what came or went" in problem


class TestInterrupt:
    def test_lets_puts_in_flight_end_and_reports_everything(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """No file is started any more; exit 130."""
        bodies = near_side.put_many(100)
        engine = near_side.engine(parallel=4)

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 20:
                engine.stop(InterruptedRunError("Interrupted."))
                time.sleep(0.1)

        far_side.script = script
        run = near_side.finished(engine)
        stored = {name: far_side.bodies[row["key"]] for name, row in run.rows.items() if row["key"]}
        assert run.exit_code == 130
        assert set(run.statuses) == set(bodies)
        assert set(run.statuses.values()) == {"uploaded", "not_attempted/stopped"}
        assert stored == {name: bodies[name] for name in stored}
        assert len(stored) == len(far_side.objects) >= 20
        assert run.keys_told == far_side.keys_handed_out
        assert set(near_side.run().statuses.values()) == {"uploaded", "already_uploaded"}
        assert [len(versions) for versions in far_side.objects.values()] == [1] * 100

    def test_is_what_ends_the_run_also_when_nothing_raises_it(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """A batch that Prefect has as interrupted raises nothing, and no batch may follow it."""
        near_side.put("study/a", dicom("1.1"))
        engine = near_side.engine()
        why = InterruptedRunError("Interrupted.")
        far_side.script = lambda request: engine.stop(why) if request.step is Step.PUT else None
        with pytest.raises(InterruptedRunError, match=r"^Interrupted\.$"), engine.draining():
            for batch_no in engine.plan(engine.scan()):
                with suppress(InterruptedRunError):
                    engine.upload(batch_no)
        assert engine.finish(why).exit_code == 130

    def test_cuts_off_what_outlasts_the_grace(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Such a PUT is `failed`, `interrupted`, its key superseded; its thread ends when the PUT does."""
        near_side.edges = replace(near_side.edges, grace_s=0.3)
        near_side.put("study/a", dicom("1.1"))
        engine = near_side.engine()
        released = threading.Event()

        def script(request: Request) -> None:
            if request.step is Step.PUT:
                engine.stop(InterruptedRunError("Interrupted."))
                released.wait(5)

        far_side.script = script
        run = near_side.finished(engine)
        released.set()
        assert (run.statuses, run.exit_code) == ({"study/a": "failed/interrupted"}, 130)
        assert superseded(run.row("study/a")) == [far_side.asked(Step.PUT)[0].key]
        wait_for_workers()
        assert workers() == []

    def test_leaves_no_connection_of_what_was_cut_off(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """It is closed by whoever uses it, when the PUT is over."""
        near_side.edges = replace(near_side.edges, grace_s=0.1)
        near_side.put("study/a", dicom("1.1"))
        engines = [near_side.engine()]
        released = threading.Event()

        def script(request: Request) -> None:
            if request.step is Step.PUT:
                engines[0].stop(InterruptedRunError("Interrupted."))
                released.wait(5)

        far_side.script = script
        near_side.finished(engines[0])
        released.set()
        wait_for_workers()
        far_side.script = all_good
        engines.clear()
        gc.collect()  # what is told here becomes an error at the end of this test

    def test_between_two_tries_says_that_it_was_tried(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Its PUT went wrong, and the run stops before the next one: `failed`, `interrupted`."""
        near_side.put("study/a", dicom("1.1"))
        engine = near_side.engine()

        def script(request: Request) -> Deviation | None:
            if request.step is not Step.PUT:
                return None
            engine.stop(InterruptedRunError("Interrupted."))
            return status(500)

        far_side.script = script
        run = near_side.finished(engine)
        assert (run.statuses, run.exit_code) == ({"study/a": "failed/interrupted"}, 130)
        assert run.row("study/a")["attempts"] == "1"

    def test_while_waiting_for_a_slot_says_that_it_was_tried(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """One file's PUT went wrong, another's has the only slot when the run stops."""
        near_side.put("study/a", dicom("1.1"))
        near_side.put("study/b", dicom("1.2"))
        engine = near_side.engine(parallel=1, retries=["server=50"])

        def script(request: Request) -> Deviation | None:
            if request.step is not Step.PUT:
                return None
            if request.key == far_side.asked(Step.PUT)[0].key:
                return status(500)
            time.sleep(0.2)  # the first one waits for the slot by now
            engine.stop(InterruptedRunError("Interrupted."))
            return None

        far_side.script = script
        run = near_side.finished(engine)
        key = far_side.asked(Step.PUT)[0].key
        tried = next(row for row in run.rows.values() if key in superseded(row))
        assert (tried["status"], tried["reason"]) == ("failed", "interrupted")
        assert int(tried["attempts"]) >= 1

    def test_during_the_scan_names_what_was_not_scanned(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Also when no file is to be sent yet: a run that was stopped is not a run that is done."""
        near_side.put("a/1", dicom("1.1"))
        near_side.put("b/1", dicom("1.2"))
        near_side.run()
        engines: list[Engine] = []

        def scan(entry: StudyEntry, territory: Ownership) -> Iterator[Listed | Unwalked]:
            yield from walk_study(entry, territory)
            if entry.study_no == 1:
                engines[0].stop(InterruptedRunError("Interrupted."))
                for number in range(2, 1200):  # enough for the engine to look up
                    yield Unwalked(1, number, f"/{number}", Status.MISSING, Reason.NOT_FOUND)

        engines.append(Engine(near_side.entries(), near_side.settings(), scan=scan, edges=near_side.edges))
        run = near_side.finished(engines[0])
        assert run.exit_code == 130
        assert run.statuses["b"] == "not_attempted/not_scanned"

    def test_from_the_keyboard_is_told_in_the_report(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Ctrl-C arrives wherever the main thread is."""
        near_side.put("a/1", dicom("1.1"))
        near_side.put("b/1", dicom("1.2"))

        def scan(entry: StudyEntry, territory: Ownership) -> Iterator[Listed | Unwalked]:
            if entry.study_no == 2:
                raise KeyboardInterrupt
            yield from walk_study(entry, territory)

        run = near_side.told(ingest(near_side.entries(), near_side.settings(), scan=scan))
        assert run.exit_code == 130
        assert run.statuses == {"a": "not_attempted/not_scanned", "b": "not_attempted/not_scanned"}

    def test_that_no_wait_notices_is_heeded_all_the_same(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """A signal in the moment before the main thread waits does not end that wait."""
        near_side.put_many(60)
        far_side.script = interrupting(5)
        run = near_side.told(ingest(near_side.entries(), near_side.settings(parallel=1)))
        assert run.exit_code == 130
        assert set(run.statuses.values()) == {"uploaded", "not_attempted/stopped"}


class TestEverySyntax:
    def test_of_pydicoms_files_is_stored_byte_for_byte(self, near_side: NearSide, far_side: FarSide) -> None:
        """Whatever was compressed, deflated or written in big endian: what is sent is the file."""
        files = {
            path.relative_to(Path(DATA_ROOT, "test_files")).as_posix(): path.read_bytes()
            for path in Path(DATA_ROOT, "test_files").rglob("*")
            if path.is_file()
        }
        for name, body in files.items():
            near_side.put(f"study/{name}", body)
        run = near_side.run(on_conflict="upload")
        stored = {name: row for name, row in run.rows.items() if row["status"] in ("uploaded", "duplicate")}
        for name, row in stored.items():
            assert far_side.bodies[row["key"]] == files[name.removeprefix("study/")]
        sent = {row["transfer_syntax_uid"] for row in run.rows.values() if row["status"] == "uploaded"}
        assert sent == {row["transfer_syntax_uid"] for row in run.rows.values()} - {""}
        assert set(run.rows) == {f"study/{name}" for name in files}


class TestSingleFile:
    def test_is_sent_alone(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Its neighbours are not looked at."""
        path = near_side.put("study/a", dicom("1.1"))
        near_side.put("study/b", dicom("1.2"))
        entry = StudyEntry(1, str(path.parent))
        run = near_side.told(ingest([entry], near_side.settings(), scan=just_file(path)))
        assert run.statuses == {"study/a": "uploaded"}
        assert far_side.objects == {run.row("study/a")["key"]: [dicom("1.1")]}

    def test_may_be_named_by_a_link(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """The operator named it: it is followed."""
        path = near_side.put("study/a", dicom("1.1"))
        link = near_side.archive / "link"
        link.symlink_to(path)
        entry = StudyEntry(1, str(near_side.archive))
        run = near_side.told(ingest([entry], near_side.settings(), scan=just_file(link)))
        assert run.statuses == {"link": "uploaded"}


class TestCampaign:
    def test_is_what_a_file_is_known_in(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Another one on the same ledger sends it again, and the first knows nothing of that."""
        near_side.put("study/a", dicom("1.1"))
        first, second = near_side.run(), near_side.run(campaign="another")
        assert first.statuses == second.statuses == {"study/a": "uploaded"}
        assert {first.row("study/a")["key"], second.row("study/a")["key"]} == set(far_side.objects)
        again = near_side.run()
        assert again.statuses == {"study/a": "already_uploaded"}
        unused = {*first.summary.unused_keys, *again.summary.unused_keys}
        assert again.keys_told - unused == first.keys_told - unused == {first.row("study/a")["key"]}


class TestProgress:
    def test_counts_what_the_report_says(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Listed, done, stored, failed, held back, and the bytes that were stored; what was known before is
        settled by nobody."""
        bodies = near_side.put_many(5)
        near_side.run()
        near_side.put("study/new", dicom("2.1"))
        near_side.put("study/refused", dicom("2.2"))
        near_side.put("study/notes", b"text")
        near_side.put("study/cut", dicom("2.3")[:-40])
        far_side.script = lambda request: (
            s3_error(400, "InvalidRequest") if request.md5 == hashlib.md5(dicom("2.2")).hexdigest() else None
        )
        added = sum(map(len, (dicom("2.1"), dicom("2.2"), b"text", dicom("2.3")[:-40])))
        seen: list[Progress] = []

        @contextmanager
        def watch(progress: Progress) -> Iterator[None]:
            yield
            seen.append(progress)

        ingest(near_side.entries(), near_side.settings(), watch=watch)
        assert seen == [
            Progress(
                files_listed=len(bodies) + 4,
                files_done=len(bodies) + 4,
                files_settled=4,
                files_stored=1,
                files_failed=1,
                files_held_back=1,
                bytes_listed=sum(map(len, bodies.values())) + added,
                bytes_done=sum(map(len, bodies.values())) + added,
                bytes_settled=added,
                bytes_stored=len(dicom("2.1")),
                scanning=False,
            )
        ]


class TestWhatIsNoInstance:
    def test_is_told_and_not_sent(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """No key is asked for it; a good file beside it is sent."""
        near_side.put("study/good", dicom("1.1"))
        near_side.put("study/empty", b"")
        near_side.put("study/notes.txt", b"The patient moved.\n")
        near_side.put("study/cut", dicom("1.2")[:-10])
        run = near_side.run()
        assert run.statuses == {
            "study/good": "uploaded",
            "study/empty": "not_dicom/empty",
            "study/notes.txt": "not_dicom/text",
            "study/cut": "invalid/truncated",
        }
        assert len(far_side.keys_handed_out) == 2
        assert run.keys_told == far_side.keys_handed_out
        assert run.exit_code == 1

    def test_says_that_it_waits_for_what_another_run_has_claimed(
        self,
        near_side: NearSide,
        far_side: FarSide,
        dicom: Dicom,
        ledger: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One that was killed, too, has its claims until it counts as dead: no forecast is true till then."""
        monkeypatch.setattr("tasks.upload.same_uid._LOOK_S", (0.01, 0.02))
        near_side.put("study/image", dicom("1.7"))
        near_side.options["ledger"] = ledger or str(near_side.directory / "ledger.sqlite")
        let_go = threading.Event()
        far_side.script = lambda request: (request.step is Step.PUT and let_go.wait(60)) and None
        engines = [near_side.engine(report_dir=near_side.directory / name) for name in ("one", "two")]
        threads = [threading.Thread(target=carry_out, args=(engine,)) for engine in engines]
        threads[0].start()
        assert far_side.wait_for_puts(1)
        threads[1].start()
        until = time.monotonic() + 60
        while not (said := engines[1].progress.waiting_for):
            assert time.monotonic() < until
            time.sleep(0.01)
        let_go.set()
        for thread in threads:
            thread.join()
        assert said == "1 file with a SOP Instance UID that is claimed"
        assert engines[1].progress.waiting_for == ""


class TestLimitParallel:
    """What the shell has to share with others is known once the engine is there."""

    def test_is_what_the_run_uses_from_then_on(self, near_side: NearSide, dicom: Dicom) -> None:
        for number in range(30):
            near_side.put(f"study/{number:02}", dicom(f"1.2.{number}"))

        def together(request: Request) -> None:
            if request.step is Step.PUT:
                near_side.far_side.wait_for_puts(3)
                time.sleep(0.02)

        near_side.far_side.script = together
        engine = near_side.engine(parallel=20)
        engine.limit_parallel(3)
        summary = near_side.finished(engine).summary
        assert near_side.far_side.most_puts_under_way == 3
        assert summary.peak_parallel == 3
        assert [slots for _, slots in summary.parallel_course] == [3]

    def test_leaves_nobody_behind_who_looks_now_and_then(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("study/a", dicom("1.2"))
        engine = near_side.engine(parallel=20)
        before = engine._uploader
        engine.limit_parallel(3)
        with pytest.raises(InterruptedRunError):
            before.raise_if_stopped()
        assert near_side.finished(engine).exit_code == 0

    def test_changes_nothing_about_a_run_that_was_stopped(self, near_side: NearSide, dicom: Dicom) -> None:
        near_side.put("study/a", dicom("1.2"))
        engine = near_side.engine()
        engine.stop(InterruptedRunError("Enough."))
        engine.limit_parallel(3)
        with pytest.raises(InterruptedRunError, match="Enough"):
            engine.raise_if_stopped()
        assert near_side.finished(engine).exit_code == 130

    def test_no_put_is_under_way_once_it_is_drained(self, near_side: NearSide, dicom: Dicom) -> None:
        """So that what was shared may be given back before the report is written."""
        for number in range(10):
            near_side.put(f"study/{number}", dicom(f"1.2.{number}"))
        engine = near_side.engine(parallel=4)

        def slow(request: Request) -> None:
            if request.step is Step.PUT:
                if request.n == 3:
                    engine.stop(InterruptedRunError("Enough."))
                time.sleep(0.3)

        near_side.far_side.script = slow
        with suppress(InterruptedRunError), engine.draining():
            for batch_no in engine.plan(engine.scan()):
                engine.upload(batch_no)
        assert near_side.far_side.puts_under_way == 0
        assert near_side.finished(engine).summary.exit_code == 130


def carry_out(engine: Engine) -> None:
    for batch_no in engine.plan(engine.scan()):
        engine.upload(batch_no)
    engine.finish()
