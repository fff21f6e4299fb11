"""What bounds one run: so many files, so long, in this order. What it leaves undone, the next one does."""

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tasks.core.errors import CredentialsRefusedError, Fault, FaultKind, InterruptedRunError
from tasks.core.models import StudyEntry
from tasks.core.time_windows import windows_of
from tasks.report.reader import read_report, read_summary
from tasks.run.early_end import early_end
from tasks.run.engine import Engine, ingest
from tasks.upload.slots import Slots
from tasks.upload.starts import Starts
from tests.conftest import NearSide, Run, instance
from tests.far_side import Deviation, FarSide, Request, Reset, Step, all_good, s3_error, status
from tests.processes import await_that


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
            if request.step is Step.PUT:
                time.sleep(0.05)  # so that no more than a few are admitted ahead
                clock.now = 3600.0 if request.n >= 10 else 0.0

        far_side.script = script
        run = near_side.run(max_duration="1h", parallel=3)
        assert (run.exit_code, run.summary.ended_by) == (1, "max_duration")
        uploaded = counts(run.statuses)["uploaded"]
        assert 10 <= uploaded <= 20
        assert counts(run.statuses)["not_attempted/stopped"] == 40 - uploaded
        assert len(run.keys_told) == len(far_side.minted)
        far_side.script, clock.now = all_good, 0.0
        assert near_side.run(max_duration="1h").exit_code == 0

    def test_that_ends_with_the_last_file_is_no_end_before_all_is_done(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """Nothing is to be continued."""
        near_side.put_many(3)
        clock = Clock()
        near_side.edges = replace(near_side.edges, elapsed=clock)

        def script(request: Request) -> None:
            if request.step is Step.PUT and far_side.wait_for_puts(3):
                clock.now = 3600.0
                time.sleep(1.2)  # two looks at the clock

        far_side.script = script
        run = near_side.run(max_duration="1h", parallel=3)
        assert (run.exit_code, run.summary.ended_by, run.summary.problems) == (0, "", [])

    def test_does_not_wait_for_another_try(self, near_side: NearSide, far_side: FarSide) -> None:
        """A platform that is down then would be waited for beyond the end."""
        near_side.put_many(10)
        clock = Clock()
        near_side.edges = replace(near_side.edges, elapsed=clock, jitter=lambda: 1.0)

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PUT:
                clock.now = 1.0
                time.sleep(1.2)  # two looks at the clock
                return status(503, retry_after="300")
            return None

        far_side.script = script
        began = time.monotonic()
        run = near_side.run(max_duration="1", parallel=1)
        assert time.monotonic() - began < 200
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
        """The studies of the files that a run sends, each as often as it has any of them."""
        run = near_side.run(parallel=3, **options)
        return "".join(sorted(name[0] for name, status in run.statuses.items() if status == "uploaded"))

    @pytest.mark.parametrize(
        ("order", "studies"),
        [("manifest", "abcd"), ("newest", "bdac"), ("oldest", "cadb"), ("smallest", "cadb")],
    )
    def test_is_that_of_studies_whole(self, archive: NearSide, order: str, studies: str) -> None:
        """Within one batch, too."""
        assert self.sent(archive, order=order, max_files=3) == studies[0] * 3
        assert self.sent(archive, order=order, max_files=4) == "".join(sorted(studies[1] * 3 + studies[2]))
        paths = [os.path.relpath(row["path"], archive.archive) for row in read_report(archive.report_dir)]
        assert paths == sorted(paths), "the report's order is the manifest's"

    def test_of_the_manifest_is_by_priority(self, archive: NearSide, monkeypatch: pytest.MonkeyPatch) -> None:
        """With few files to send it is the first study that is sent."""
        entries = [replace(entry, priority=int(entry.study_no == 3)) for entry in archive.entries()]
        monkeypatch.setattr(type(archive), "entries", lambda _self: entries)
        assert self.sent(archive, max_files=4) == "accc"

    def test_of_sizes_believes_the_manifest(self, archive: NearSide, monkeypatch: pytest.MonkeyPatch) -> None:
        entries = [replace(entry, expected_bytes=9 - entry.study_no) for entry in archive.entries()]
        monkeypatch.setattr(type(archive), "entries", lambda _self: entries)
        assert self.sent(archive, order="smallest", max_files=5) == "ccddd"

    def test_finishes_a_started_study_before_it_goes_on(self, archive: NearSide, far_side: FarSide) -> None:
        """A file that is sent again goes before those of studies that follow."""

        def script(request: Request) -> Deviation | None:
            time.sleep(0.02 if request.step is Step.PUT else 0)
            return Reset() if request.step is Step.PUT and request.n == 1 else None

        far_side.script = script
        archive.put_many(40, "e")
        run = archive.run(parallel=1)
        study_of = {row["key"]: name[0] for name, row in run.rows.items()}
        sent = "".join(study_of[key] for key in far_side.objects)
        assert sent.rindex("a") < 9, "it does not wait for all that were there before it came again"

    def test_of_batches_of_many_studies(self, near_side: NearSide) -> None:
        """More than one page of the ledger's."""
        for number in range(30):
            study = f"{number:02}"
            near_side.put(f"{study}/x", instance(f"1.7.{number}", pixel_bytes=64 * (30 - number)))
        run = near_side.run(order="smallest", max_files=29)
        assert [name for name, status in run.statuses.items() if status != "uploaded"] == ["00/x"]

    def test_has_a_directory_that_is_not_there_last(self, archive: NearSide) -> None:
        """Its row is there all the same."""
        entries = [StudyEntry(1, str(archive.archive / "gone")), *archive.entries()]
        entries = [replace(entry, study_no=number) for number, entry in enumerate(entries, 1)]
        summary = ingest(entries, archive.settings(order="newest"), edges=archive.edges)
        assert summary.by_status == {"uploaded": 12, "missing": 1}

    def test_is_not_looked_for_any_more_once_the_run_is_stopped(self, archive: NearSide) -> None:
        """It may take long where nothing says how large studies are."""
        engine = archive.engine(order="smallest")
        engine.stop(InterruptedRunError("Cancelled."))
        with pytest.raises(InterruptedRunError, match="Cancelled"):
            next(engine.scan())
        assert archive.told(engine.finish(InterruptedRunError("Cancelled."))).exit_code == 130

    @pytest.mark.parametrize("order", ["manifest", "newest"])
    def test_begins_with_what_the_run_before_had_started(self, archive: NearSide, order: str) -> None:
        """Also when another study would come first by now."""
        first = Counter(self.sent(archive, order=order, max_files=4))
        started = min(first, key=first.__getitem__)
        for number in range(3):
            archive.put(f"Z/{number}", instance(f"1.90.{number}"))  # in the manifest, and newest
        assert self.sent(archive, order=order, max_files=3) == "Z" + started * 2
        assert self.sent(archive, order=order, max_files=2) == "ZZ"


BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = "Mon-Fri 19:00-06:00 Europe/Berlin"


def wall_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()) * 10**9


class Wall:
    """A clock on the wall that stands still until a test sets it, and what was asked for at which time."""

    def __init__(self, at: str, far_side: FarSide) -> None:
        self.now_ns = wall_ns(at)
        self.seen: list[tuple[Step, str]] = []
        self.held_from: int | None = None  # from this PUT on none is answered until it may
        self.let_go = threading.Event()
        far_side.script = self._note

    def __call__(self) -> int:
        return self.now_ns

    def set(self, text: str) -> None:
        self.now_ns = wall_ns(text)

    def _note(self, request: Request) -> None:
        local = datetime.fromtimestamp(self.now_ns / 1e9, BERLIN)
        self.seen.append((request.step, f"{local:%a %H:%M}"))
        if self.held_from and request.step is Step.PUT and request.n >= self.held_from:
            self.let_go.wait(60)

    def close(self, far_side: FarSide) -> None:
        """Six o'clock, while two PUTs are under way and nobody asks for anything."""
        await_that(lambda: far_side.puts_under_way == 2)
        time.sleep(0.3)
        self.set("2026-11-28 06:00")
        self.let_go.set()

    def count(self, step: Step, at: str) -> int:
        return self.seen.count((step, at))


class TestWindow:
    @contextmanager
    def at_work(self, near_side: NearSide, **options: Any) -> Iterator[tuple[Engine, Callable[[], Run]]]:
        """A run in a thread of its own; it has to end by itself before the block does."""
        engine = near_side.engine(window=NIGHTS, **options)
        ended: list[Run] = []
        thread = threading.Thread(target=lambda: ended.append(near_side.finished(engine)))
        thread.start()

        def run() -> Run:
            thread.join(60)
            return ended[0]

        try:
            yield engine, run
        finally:
            engine.stop(InterruptedRunError("The test is over."))
            thread.join(60)

    def test_that_is_closed_is_waited_for(self, near_side: NearSide, far_side: FarSide) -> None:
        """Nothing is read, and no URL asked for beside the one at the start."""
        wall = Wall("2026-11-27 12:00", far_side)
        near_side.edges = replace(near_side.edges, clock_ns=wall)
        near_side.put_many(5)
        near_side.put("study/notes.txt", b"notes")
        with self.at_work(near_side) as (engine, run):
            await_that(lambda: engine.progress.waiting_for == "the window, opens Fri 19:00 CET")
            await_that(lambda: engine.progress.files_listed == 6)
            assert len(far_side.minted) == 1
            wall.set("2026-11-27 18:59:59")
            time.sleep(1.2)
            assert (len(far_side.minted), engine.progress.files_done) == (1, 0)
            wall.set("2026-11-27 19:00")
            ended = run()
        assert (ended.exit_code, ended.summary.ended_by) == (0, "")
        assert engine.progress.waiting_for == ""
        assert wall.count(Step.PUT, "Fri 19:00") == 5

    def test_that_closes_lets_nothing_new_begin_and_goes_on_the_next_evening(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """What was admitted is finished; the rest is sent when it opens again, after a sleep, too."""
        wall = Wall("2026-11-28 05:59", far_side)
        near_side.edges = replace(near_side.edges, clock_ns=wall)
        near_side.put_many(60)
        wall.held_from = 7
        with self.at_work(near_side, parallel=2) as (engine, run):
            wall.close(far_side)
            await_that(lambda: engine.progress.waiting_for == "the window, opens Mon 19:00 CET")
            await_that(lambda: engine.progress.platform().slots_in_use == 0)
            begun, minted = len(wall.seen), len(far_side.minted)
            assert wall.count(Step.PRESIGN, "Sat 06:00") == 0
            assert len(far_side.objects) < 60
            time.sleep(1.2)
            assert (len(wall.seen), len(far_side.minted)) == (begun, minted)
            wall.set("2026-11-30 19:30")
            ended = run()
        assert ended.exit_code == 0
        assert len(far_side.objects) == 60
        assert wall.count(Step.PUT, "Mon 19:30") == 60 - wall.count(Step.PUT, "Sat 05:59") - wall.count(
            Step.PUT, "Sat 06:00"
        )

    def test_that_a_schedule_keeps_to_ends_the_run(self, near_side: NearSide, far_side: FarSide) -> None:
        """In order, what was admitted being finished; the next run, of the next night, goes on."""
        wall = Wall("2026-11-28 05:59", far_side)
        near_side.edges = replace(near_side.edges, clock_ns=wall, grace_s=0.0)
        near_side.put_many(60)
        wall.held_from = 7
        with self.at_work(near_side, parallel=2) as (engine, ended):
            engine.starts.end_with_window()
            wall.close(far_side)
            run = ended()
        assert (run.exit_code, run.summary.ended_by) == (1, "window")
        assert run.summary.problems[0].startswith(
            "To be continued: the window is closed, and opens Mon 19:00 CET. The next run"
        )
        assert wall.count(Step.PRESIGN, "Sat 06:00") == 0
        left = counts(run.statuses)["not_attempted/stopped"]
        assert counts(run.statuses) == {"uploaded": len(far_side.objects), "not_attempted/stopped": left}
        assert left > 0
        wall.set("2026-11-30 20:00")
        assert near_side.run(window=NIGHTS).exit_code == 0
        assert len(far_side.objects) == 60

    def test_that_opens_soon_is_waited_for_under_a_schedule_too(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """Which may be a moment early."""
        wall = Wall("2026-11-27 18:59:59", far_side)
        near_side.edges = replace(near_side.edges, clock_ns=wall)
        near_side.put_many(3)
        with self.at_work(near_side) as (engine, run):
            engine.starts.end_with_window()
            await_that(lambda: engine.progress.waiting_for != "")
            time.sleep(1.2)  # two looks at the window
            wall.set("2026-11-27 19:00")
            assert run().exit_code == 0

    def test_is_looked_at_again_when_the_clock_was_set_back(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """What was known until the next change counts no more."""
        wall = Wall("2026-11-27 20:00", far_side)
        starts = Starts(windows=windows_of(NIGHTS), clock_ns=wall)
        assert starts.are_open()
        wall.set("2026-11-27 18:00")
        assert not starts.are_open()
        wall.set("2026-11-27 19:00")
        assert starts.are_open()

    def test_that_is_waited_for_ends_at_once_when_the_run_is_interrupted(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """With a report; nothing was attempted."""
        wall = Wall("2026-11-27 12:00", far_side)
        near_side.edges = replace(near_side.edges, clock_ns=wall)
        near_side.put_many(3)
        with self.at_work(near_side) as (engine, run):
            await_that(lambda: engine.progress.waiting_for != "")
            engine.stop(InterruptedRunError("Interrupted."))
            ended = run()
        assert (ended.exit_code, ended.summary.ended_by) == (130, "")
        assert set(ended.statuses.values()) == {"not_attempted/stopped"}

    def test_and_the_lease_on_slots_have_both_their_say(self, near_side: NearSide, far_side: FarSide) -> None:
        """Neither permits what the other one does not."""
        wall = Wall("2026-11-27 12:00", far_side)
        near_side.edges = replace(near_side.edges, clock_ns=wall)
        near_side.put_many(3)
        with self.at_work(near_side) as (engine, run):
            await_that(lambda: engine.progress.files_listed == 3)
            engine.permit_puts(False)
            wall.set("2026-11-27 19:00")
            await_that(lambda: engine.progress.waiting_for == "")
            time.sleep(0.6)
            assert not far_side.objects
            wall.set("2026-11-27 12:00")
            engine.permit_puts(True)
            time.sleep(0.6)
            assert not far_side.objects
            wall.set("2026-11-27 19:00")
            assert run().exit_code == 0

    def test_is_no_outage(self) -> None:
        """A platform that was down when it closed was down for no longer than it could be asked."""

        async def wait_for_the_evening() -> None:
            now, is_open = [100.0], [True]
            slots = Slots(2, lambda: now[0], may_start=lambda: is_open[0])
            for file_id in range(10):
                with suppress(Fault), slots.minting(file_id):
                    raise Fault(FaultKind.NETWORK, "no answer")
            now[0] += 5
            assert slots.outage_s == 5
            is_open[0] = False
            slots.look_at_window()
            now[0] += 40_000
            assert slots.outage_s == 5
            is_open[0] = True
            slots.look_at_window()
            now[0] += 1
            assert (slots.outage_s, slots.held_s) == (6, 40_000)

        asyncio.run(wait_for_the_evening())
