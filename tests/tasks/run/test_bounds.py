"""What bounds one run: so many files, so long, in this order. What it leaves undone, the next one does."""

import os
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tasks.core.errors import CredentialsRefusedError
from tasks.core.models import StudyEntry
from tasks.report.reader import read_report, read_summary
from tasks.run.early_end import early_end
from tasks.run.engine import ingest
from tests.conftest import NearSide, instance
from tests.far_side import Deviation, FarSide, Request, Reset, Step, s3_error, status


def counts(statuses: dict[str, str]) -> Counter[str]:
    return Counter(statuses.values())


class TestMaxFiles:
    @pytest.mark.parametrize("most", [1, 7, 30])
    def test_is_exact_and_the_next_run_goes_on(
        self, near_side: NearSide, far_side: FarSide, most: int
    ) -> None:
        """Whatever the slots; what is no image counts for nothing. The exit code is that of what is left."""
        near_side.put_many(40)
        near_side.put("study/notes.txt", b"notes")
        run = near_side.run(max_files=most)
        assert len(far_side.objects) == most
        assert (run.exit_code, run.summary.ended_by) == (1, "max_files")
        assert counts(run.statuses)["uploaded"] == most
        assert set(run.statuses.values()) <= {"uploaded", "not_attempted/stopped", "not_dicom/text"}
        assert run.summary.problems[0].startswith("To be continued: as many files were begun as --max-files")
        assert len(run.keys_told) == len(far_side.minted), "no URL was asked for in vain"
        again = near_side.run()
        assert (again.exit_code, again.summary.ended_by) == (0, "")
        assert len(far_side.objects) == 40

    @pytest.mark.parametrize("most", [5, 6])
    def test_that_is_enough_ends_as_without(self, near_side: NearSide, most: int) -> None:
        near_side.put_many(5)
        near_side.put("study/notes.txt", b"notes")
        run = near_side.run(max_files=most)
        assert (run.exit_code, run.summary.ended_by, run.summary.problems) == (0, "", [])

    def test_leaves_what_is_not_listed_yet(self, near_side: NearSide, far_side: FarSide) -> None:
        """A study that nobody walked has the one row that says so."""
        near_side.edges = replace(near_side.edges, batch_target=lambda _batch_no: 5, rows_at_once=5)
        for study in "abcdefgh":
            near_side.put_many(11, study)
        run = near_side.run(max_files=5)
        assert len(far_side.objects) == 5
        assert run.statuses["h"] == "not_attempted/not_scanned"

    def test_counts_a_file_once_however_often_it_is_sent(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """One that was begun is tried again, also when the last one is begun already; one that is refused
        for good was begun, too."""
        near_side.put_many(30)

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PUT and request.n in (1, 3):
                return Reset()
            return s3_error(403, "AccessDenied") if request.step is Step.PUT and request.n == 2 else None

        far_side.script = script
        run = near_side.run(max_files=3, parallel=3, retries=["refused=0"])
        assert counts(run.statuses) == {"uploaded": 2, "failed/refused": 1, "not_attempted/stopped": 27}

    def test_finishes_what_takes_longer_than_a_stopped_run_waits(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """A stop cuts PUTs off after its grace, a planned end never."""
        near_side.put_many(12)
        near_side.edges = replace(near_side.edges, grace_s=0.0)
        let_go = threading.Event()

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 2:
                let_go.wait(60)

        far_side.script = script
        threading.Timer(0.7, let_go.set).start()
        run = near_side.run(max_files=3, parallel=4)
        assert counts(run.statuses) == {"uploaded": 3, "not_attempted/stopped": 9}

    def test_is_no_end_in_order_when_something_else_stops_the_run_meanwhile(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """As credentials that are refused while the last files are finished."""
        near_side.put_many(12)
        let_go = threading.Event()

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PUT and request.n == 1:
                let_go.wait(60)
            return None

        far_side.script = script
        engine = near_side.engine(max_files=2, parallel=2)
        with early_end(engine) as end:
            for batch_no in engine.plan(engine.scan()):
                engine.upload(batch_no)
        engine.stop(CredentialsRefusedError("The credentials are refused."))
        let_go.set()
        run = near_side.told(engine.finish(end.why))
        assert (run.exit_code, run.summary.ended_by) == (4, "")

    def test_of_none_sends_nothing(self, near_side: NearSide, far_side: FarSide) -> None:
        near_side.put_many(3)
        run = near_side.run(max_files=0)
        assert not far_side.objects
        assert counts(run.statuses) == {"not_attempted/stopped": 3}


class Clock:
    """Of a run that is looked at now and then: a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestMaxDuration:
    def test_ends_the_run_in_order(self, near_side: NearSide, far_side: FarSide) -> None:
        """What is being sent is finished, nothing begins, and nobody asks for another URL."""
        near_side.put_many(40)
        clock = Clock()
        near_side.edges = replace(near_side.edges, elapsed=clock, grace_s=0.0)

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 10:
                clock.now = 3600.0

        far_side.script = script
        run = near_side.run(max_duration="1h", parallel=3)
        assert (run.exit_code, run.summary.ended_by) == (1, "max_duration")
        uploaded = counts(run.statuses)["uploaded"]
        assert 10 <= uploaded <= 20
        assert counts(run.statuses)["not_attempted/stopped"] == 40 - uploaded
        assert len(run.keys_told) == len(far_side.minted)
        clock.now = 0.0
        assert near_side.run(max_duration="1h").exit_code == 0

    def test_does_not_wait_for_another_try(self, near_side: NearSide, far_side: FarSide) -> None:
        """A platform that is down then would be waited for beyond the end."""
        near_side.put_many(10)
        clock = Clock()
        near_side.edges = replace(near_side.edges, elapsed=clock, jitter=lambda: 1.0)

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PUT:
                clock.now += request.n == 4
                return status(503)
            return None

        far_side.script = script
        run = near_side.run(max_duration="1", parallel=2)
        assert run.summary.ended_by == "max_duration"
        assert set(run.statuses.values()) == {"failed/interrupted", "not_attempted/stopped"}

    def test_that_is_over_at_once_begins_nothing(self, near_side: NearSide, far_side: FarSide) -> None:
        near_side.put_many(3)
        assert near_side.run(max_duration="0").summary.ended_by == "max_duration"
        assert not far_side.objects
        assert read_summary(near_side.report_dir).ended_by == "max_duration"


class TestOrder:
    @pytest.fixture
    def archive(self, near_side: NearSide) -> NearSide:
        """Studies whose age, size and name are in three different orders."""
        for study, age_s, pixels in (("a", 300, 128), ("b", 100, 512), ("c", 400, 64), ("d", 200, 256)):
            for number in range(3):
                near_side.put(f"{study}/{number}", instance(f"1.{ord(study)}.{number}", pixel_bytes=pixels))
            changed = time.time() - 1000 - age_s
            os.utime(near_side.archive / study, (changed, changed))
        return near_side

    def sent(self, near_side: NearSide, **options: Any) -> str:
        """The studies in the order in which their files were sent, one at a time.

        A PUT takes long enough for others to wait.
        """
        near_side.far_side.script = lambda request: time.sleep(0.02) if request.step is Step.PUT else None
        run = near_side.run(parallel=1, **options)
        rows = [(name, row) for name, row in run.rows.items() if row["status"] == "uploaded"]
        rows.sort(key=lambda item: list(near_side.far_side.objects).index(item[1]["key"]))
        return "".join(name[0] for name, _ in rows)

    @pytest.mark.parametrize(
        ("order", "studies"),
        [("manifest", "abcd"), ("newest", "bdac"), ("oldest", "cadb"), ("smallest", "cadb")],
    )
    def test_is_that_of_studies_whole(self, archive: NearSide, order: str, studies: str) -> None:
        """Within one batch, too; each study's files in the order of their paths."""
        assert self.sent(archive, order=order) == "".join(letter * 3 for letter in studies)
        paths = [os.path.relpath(row["path"], archive.archive) for row in read_report(archive.report_dir)]
        assert paths == sorted(paths), "the report's order is the manifest's"

    def test_of_the_manifest_is_by_priority(self, archive: NearSide, monkeypatch: pytest.MonkeyPatch) -> None:
        """With few files to send it is the first study that is sent."""
        entries = [replace(entry, priority=int(entry.study_no == 3)) for entry in archive.entries()]
        monkeypatch.setattr(type(archive), "entries", lambda _self: entries)
        assert self.sent(archive, max_files=4) == "ccca"

    def test_of_sizes_believes_the_manifest(self, archive: NearSide, monkeypatch: pytest.MonkeyPatch) -> None:
        entries = [replace(entry, expected_bytes=9 - entry.study_no) for entry in archive.entries()]
        monkeypatch.setattr(type(archive), "entries", lambda _self: entries)
        assert self.sent(archive, order="smallest") == "dddcccbbbaaa"

    def test_finishes_a_started_study_before_it_goes_on(self, archive: NearSide, far_side: FarSide) -> None:
        """A file that is sent again goes before those of studies that follow."""

        def script(request: Request) -> Deviation | None:
            time.sleep(0.02 if request.step is Step.PUT else 0)
            return Reset() if request.step is Step.PUT and request.n == 1 else None

        far_side.script = script
        run = archive.run(parallel=1)
        study_of = {row["key"]: name[0] for name, row in run.rows.items()}
        assert [study_of[key] for key in far_side.objects][:4].count("a") == 3

    def test_of_batches_of_many_studies(self, near_side: NearSide) -> None:
        """More than one page of the ledger's."""
        for number in range(30):
            study = f"{number:02}"
            near_side.put(f"{study}/x", instance(f"1.7.{number}", pixel_bytes=64 * (30 - number)))
        run = near_side.run(parallel=1, order="smallest", max_files=29)
        assert [name for name, status in run.statuses.items() if status != "uploaded"] == ["00/x"]

    def test_has_a_directory_that_is_not_there_last(self, archive: NearSide) -> None:
        """Its row is there all the same."""
        entries = [StudyEntry(1, str(archive.archive / "gone")), *archive.entries()]
        entries = [replace(entry, study_no=number) for number, entry in enumerate(entries, 1)]
        summary = ingest(entries, archive.settings(order="newest"), edges=archive.edges)
        assert summary.by_status == {"uploaded": 12, "missing": 1}

    @pytest.mark.parametrize("order", ["manifest", "newest"])
    def test_begins_with_what_the_run_before_had_started(self, archive: NearSide, order: str) -> None:
        """Also when another study would come first by now."""
        first = self.sent(archive, order=order, max_files=4)
        started = first[3]
        for number in range(3):
            archive.put(f"Z/{number}", instance(f"1.90.{number}"))  # in the manifest, and newest
        assert self.sent(archive, order=order, max_files=3) == started * 2 + "Z"
        assert self.sent(archive, order=order, max_files=2) == "ZZ"
