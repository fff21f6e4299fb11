"""Further processes that send: the same report as from one, and each of them ends whatever happens."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from tasks.core.errors import InterruptedRunError
from tasks.core.platform_state import PlatformState
from tasks.run.engine import Engine
from tasks.upload.slots import summed
from tasks.upload.uploader import _Load, shares
from tests.conftest import Dicom, NearSide, superseded
from tests.far_side import (
    CLIENT_ID,
    CLIENT_SECRET,
    Deviation,
    FarSide,
    Request,
    Step,
    all_good,
    always,
    once_begun,
    s3_error,
    status,
)
from tests.processes import await_that, command_line, descendants

pytestmark = pytest.mark.processes


@pytest.fixture
def two(near_side: NearSide) -> NearSide:
    """An archive that two processes send."""
    near_side.options["processes"] = 2
    return near_side


def hands() -> list[int]:
    """The process ids of this process's hands: the first, and those that it forked."""
    return [pid for pid in descendants(os.getpid()) if "tasks.upload.hand" in command_line(pid)]


def await_state(engine: Engine, holds: Callable[[PlatformState], bool]) -> PlatformState:
    """The first state of the platform of which it holds."""
    seen: list[PlatformState] = []

    def look() -> bool:
        state = engine.progress.platform()
        assert state
        seen.append(state)
        return holds(state)

    await_that(look, every_s=0.02)
    return seen[-1]


def slowly(request: Request) -> None:
    """A far side that leaves time to look at it."""
    if request.step is Step.PUT:
        time.sleep(0.02)


class TestTwoProcesses:
    def test_send_everything_once(self, two: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        bodies = two.put_many(150)
        two.put("study/notes.txt", b"not an image")
        run = two.run()
        assert {name: far_side.bodies[row["key"]] for name, row in run.rows.items() if row["key"]} == bodies
        assert run.summary.by_status == {"uploaded": 150, "not_dicom": 1}
        assert [len(versions) for versions in far_side.objects.values()] == [1] * 150
        assert hands() == []

    def test_share_the_slots(self, two: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """The first PUTs are held until as many as may be are under way, in both processes together."""
        two.put_many(40)
        full: list[bool] = []

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n <= 7:
                full.append(far_side.wait_for_puts(7))

        far_side.script = script
        run = two.run(parallel=7)
        assert all(full)
        assert far_side.most_puts_under_way == run.summary.peak_parallel == 7
        assert run.summary.parallel_course[-1][1] == 7

    def test_say_together_how_many_slots_are_in_use(
        self, two: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """While the first PUTs are held, in both processes; none once they are gone."""
        two.put_many(40)
        engine = two.engine(parallel=7)
        seen: list[PlatformState] = []

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 7:
                seen.append(await_state(engine, lambda state: state.slots_in_use == 7))
            elif request.step is Step.PUT and request.n < 7:
                await_that(lambda: bool(seen))

        far_side.script = script
        assert two.finished(engine).exit_code == 0
        assert (seen[0].slots, seen[0].processes, seen[0].failing) == (7, 2, None)
        assert engine.progress.platform() == PlatformState(processes=0)

    def test_say_together_that_the_platform_is_down(
        self, two: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """And that it throttles: what one process finds counts for the run; nothing does after it is over."""
        two.put_many(60)
        engine = two.engine()
        far_side.script = lambda request: status(503) if request.step is Step.PUT else None
        seen: list[PlatformState] = []

        def look() -> None:
            seen.append(await_state(engine, lambda state: state.is_down and state.slots_withheld > 0))
            far_side.script = all_good

        looking = threading.Thread(target=look)
        looking.start()
        assert two.finished(engine).exit_code == 0
        looking.join()
        assert (seen[0].failing, seen[0].http_status, seen[0].processes) == (Step.PUT, 503, 2)
        assert 0 < time.monotonic() - seen[0].failing_since < 300, "by the clock of this process, too"

    def test_decide_about_twins_together(self, two: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """Ten copies of each of ten files, dealt to both: each is sent once."""
        for number in range(100):
            two.put(f"study/{number}", dicom(f"1.{number % 10}"))
        far_side.script = slowly
        run = two.run()
        assert run.summary.by_status == {"uploaded": 10, "duplicate": 90}
        assert len(far_side.objects) == 10

    def test_get_tokens_of_their_own(self, two: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        two.put_many(20)
        oauth2 = {"token": "", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        assert two.run(**oauth2, token_url=f"{far_side.url}/token").exit_code == 0

    def test_that_are_refused_stop_the_run(self, two: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """The reason is the run's, and every file has its row."""
        two.put_many(30)
        far_side.script = once_begun(always(Step.PRESIGN, status(401)))
        run = two.run()
        assert run.exit_code == 4
        assert len(run.rows) == 30
        assert "credentials" in run.summary.problems[0]

    def test_say_what_failed_by_the_files_numbers(
        self, two: NearSide, far_side: FarSide, dicom: Dicom, caplog: pytest.LogCaptureFixture
    ) -> None:
        two.put_many(2)
        gone = s3_error(404, "NoSuchBucket")
        far_side.script = lambda request: gone if request.step is Step.PUT else None
        with caplog.at_level(logging.WARNING, "dicom_ingest"):
            run = two.run()
        assert run.exit_code == 1
        assert "study 1 file 2 failed: refused, HTTP 404 NoSuchBucket" in caplog.text
        assert {row["detail"] for row in run.rows.values()} == {"NoSuchBucket"}

    def test_of_which_one_is_killed_stop_the_run_and_the_next_goes_on(
        self, two: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """Out of memory, say. What the ledger knows is not sent again."""
        bodies = two.put_many(150)

        def script(request: Request) -> None:
            slowly(request)
            if request.step is Step.PUT and request.n == 40:
                os.kill(hands()[0], signal.SIGKILL)

        far_side.script = script
        run = two.run()
        assert run.exit_code == 3
        assert set(run.rows) == set(bodies)
        assert "killed" in run.summary.problems[0]
        assert run.keys_told >= set(far_side.objects)
        assert hands() == []
        stored = {row["key"] for row in run.rows.values() if row["status"] == "uploaded"}
        far_side.script = all_good
        again = two.run()
        assert set(again.statuses.values()) == {"uploaded", "already_uploaded"}
        assert stored <= {row["key"] for row in again.rows.values()}
        assert again.keys_told >= set(far_side.objects)

    def test_let_puts_in_flight_end_when_the_run_is_interrupted(
        self, two: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        two.put_many(150)
        engine = two.engine()

        def script(request: Request) -> None:
            slowly(request)
            if request.step is Step.PUT and request.n == 30:
                engine.stop(InterruptedRunError("Interrupted."))

        far_side.script = script
        run = two.finished(engine)
        assert run.exit_code == 130
        assert set(run.statuses.values()) == {"uploaded", "not_attempted/stopped"}
        stored = {row["key"] for row in run.rows.values() if row["status"] == "uploaded"}
        assert stored == set(far_side.objects)
        assert hands() == []

    def test_cut_off_what_outlasts_the_grace(self, two: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        two.edges = replace(two.edges, grace_s=0.3)
        two.put("study/a", dicom("1.1"))
        engine = two.engine()
        released = threading.Event()

        def script(request: Request) -> None:
            if request.step is Step.PUT:
                engine.stop(InterruptedRunError("Interrupted."))
                released.wait(5)

        far_side.script = script
        run = two.finished(engine)
        released.set()
        assert (run.statuses, run.exit_code) == ({"study/a": "failed/interrupted"}, 130)
        assert superseded(run.row("study/a")) == [far_side.asked(Step.PUT)[0].key]
        assert hands() == []

    @pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
    def test_that_cannot_start_are_done_without(
        self,
        program: str,
        two: NearSide,
        dicom: Dicom,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        two.put_many(30)
        monkeypatch.setattr(sys, "executable", program)
        with caplog.at_level(logging.WARNING, "dicom_ingest"):
            assert two.run().exit_code == 0
        assert "one process sends" in caplog.text

    @pytest.mark.parametrize("which", ["hiring", "hand"])
    def test_that_get_no_thread_are_done_without(
        self, which: str, two: NearSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At the operating system's limit; of a process that was started nothing is left."""
        two.put_many(30)
        start = threading.Thread.start

        def refused(thread: threading.Thread) -> None:
            if thread.name == which:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refused)
        run = two.run()
        assert (run.exit_code, set(run.statuses.values())) == (0, {"uploaded"})
        assert hands() == []


class TestHiring:
    def test_happens_when_the_process_is_short_of_cpu(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each file is sent once, by whoever had it; there are never more PUTs than slots."""
        monkeypatch.setattr("tasks.upload.uploader._Load.is_short_of_cpu", lambda _load: True)
        monkeypatch.setattr("tasks.upload.uploader.processes_wanted", lambda _settings: 2)
        near_side.put_many(600)
        seen: set[int] = set()

        def script(request: Request) -> None:
            time.sleep(0.03)
            seen.update(hands() if request.n % 50 == 0 else ())

        far_side.script = script
        run = near_side.run(parallel=8)
        assert run.summary.by_status == {"uploaded": 600}
        assert [len(versions) for versions in far_side.objects.values()] == [1] * 600
        assert far_side.most_puts_under_way == run.summary.peak_parallel == 8
        assert len(seen) == 2
        assert hands() == []

    def test_takes_slots_as_long_puts_leave_them(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three of four are held for long: the hands send with the fourth, and there are never five."""
        monkeypatch.setattr("tasks.upload.uploader._Load.is_short_of_cpu", lambda _load: True)
        monkeypatch.setattr("tasks.upload.uploader.processes_wanted", lambda _settings: 2)
        near_side.put_many(200)
        enough = threading.Event()

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PUT and request.n <= 3:
                enough.wait(20)
            elif request.step is Step.PUT:
                time.sleep(0.03)
                if request.n == 100:
                    enough.set()
            return None

        far_side.script = script
        run = near_side.run(parallel=4)
        assert run.summary.by_status == {"uploaded": 200}
        assert far_side.most_puts_under_way == 4
        assert enough.is_set()

    def test_does_not_happen_while_the_network_decides(self) -> None:
        """A process that waits is not short of CPU."""
        load = _Load()
        time.sleep(0.6)
        assert not load.is_short_of_cpu()


@pytest.mark.parametrize(
    ("slots", "hands", "each"), [(20, 2, [10, 10]), (7, 2, [4, 3]), (20, 3, [7, 7, 6]), (2, 2, [1, 1])]
)
def test_shares_are_as_equal_as_can_be(slots: int, hands: int, each: list[int]) -> None:
    assert shares(slots, hands) == each


def test_the_courses_of_several_processes_add_up() -> None:
    """The run's own, and from some time on those of its hands."""
    own = [(0.0, 20), (3.0, 2), (3.3, 0)]
    first, second = [(2.9, 0), (3.1, 10), (9.0, 5)], [(2.9, 0), (3.1, 8), (3.3, 10)]
    assert summed([own, first, second]) == [(0.0, 20), (3.0, 2), (3.1, 20), (9.0, 15)]
    assert summed([[(0.0, 20)]]) == [(0.0, 20)]
