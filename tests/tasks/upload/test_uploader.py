"""A run's files on one event loop: whose turn it is, how it is stopped, and what waits for what."""

import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import tasks.upload.transfer
from tasks.core.errors import InterruptedRunError
from tasks.run.engine import Engine
from tasks.source.archives import Archives
from tasks.source.file_content import Accepts, Streamed
from tasks.source.member_content import read_source
from tests.conftest import MIB, Dicom, NearSide, superseded
from tests.far_side import Deviation, FarSide, Request, Step, scripted, status
from tests.processes import await_that

STOPPED = InterruptedRunError("Interrupted.")


def of_batches(near_side: NearSide, files: int) -> tuple[Engine, list[int]]:
    """An engine that has planned its batches of so many files, and their numbers."""
    near_side.edges = replace(near_side.edges, batch_target=lambda _batch_no: files, rows_at_once=files)
    engine = near_side.engine()
    return engine, list(engine.plan(engine.scan()))


def reading(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], object]) -> None:
    """Has each read of a file begin with this, in the reader's thread."""

    def read(path: str, accepts: Accepts, archives: Archives | None) -> object:
        before(path)
        return read_source(path, accepts, archives)

    monkeypatch.setattr(tasks.upload.transfer, "read_source", read)


class TestBatches:
    def test_pass_on_their_files_in_the_plans_order_whatever_order_they_are_called_in(
        self, near_side: NearSide, dicom: Dicom
    ) -> None:
        """Prefect starts them as it likes: of two files with one UID the first of the plan is stored."""
        for number in range(40):
            near_side.put(f"study/{number:02}", dicom(f"1.{number % 10}", f"file {number}"))
        engine, batches = of_batches(near_side, 10)
        threads = []
        for batch_no in reversed(batches):
            threads.append(threading.Thread(target=engine.upload, args=(batch_no,)))
            threads[-1].start()
            time.sleep(0.05)
        for thread in threads:
            thread.join(60)
        run = near_side.told(engine.finish())
        assert len(batches) == 4
        stored = [name for name, word in run.statuses.items() if word == "uploaded"]
        assert sorted(stored) == [f"study/{number:02}" for number in range(10)]

    def test_do_not_wait_for_ever_for_one_that_does_not_come(
        self, near_side: NearSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its task was lost: a retry will come to it."""
        monkeypatch.setattr("tasks.upload.uploader._BATCH_IS_LATE_S", 0.2)
        near_side.put_many(20)
        engine, batches = of_batches(near_side, 10)
        engine.upload(batches[1])
        engine.upload(batches[0])
        assert near_side.told(engine.finish()).summary.by_status == {"uploaded": 20}

    def test_wait_for_one_that_takes_long_to_pass_on_its_files(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a slow link that is minutes: it has come, so it is not late."""
        monkeypatch.setattr("tasks.upload.uploader._BATCH_IS_LATE_S", 0.05)
        near_side.put_many(60)
        near_side.put("study/0059", dicom("1.7", "the first"))
        near_side.put("study/0060", dicom("1.7", "the second"))
        far_side.script = lambda _request: time.sleep(0.01)
        near_side.options = {"parallel": 1}
        engine, batches = of_batches(near_side, 60)
        threads = [threading.Thread(target=engine.upload, args=(batch_no,)) for batch_no in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        run = near_side.told(engine.finish())
        assert len(batches) == 2
        assert [run.statuses[f"study/{number:04}"] for number in (59, 60)] == ["uploaded", "conflict"]

    def test_that_wait_for_another_end_when_the_run_stops(self, near_side: NearSide) -> None:
        near_side.put_many(20)
        engine, batches = of_batches(near_side, 10)
        raised: list[BaseException] = []

        def upload() -> None:
            try:
                engine.upload(batches[1])
            except InterruptedRunError as error:
                raised.append(error)

        thread = threading.Thread(target=upload)
        thread.start()
        engine.stop(STOPPED)
        thread.join(4)  # long before the other batch counts as late
        assert raised == [STOPPED]
        engine.finish(STOPPED)


class TestClaims:
    def test_are_the_same_in_two_fresh_runs_however_slowly_each_file_is_read(
        self, near_side: NearSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two files with one UID and other bytes the first of the plan is stored, and no other."""
        for number in range(80):
            near_side.put(f"study/{number:02}", dicom(f"1.{number // 2}", f"file {number}"))
        dice = random.Random(7)
        reading(monkeypatch, lambda _path: time.sleep(dice.choice([0, 0, 0.001, 0.02])))
        first = near_side.run()
        shutil.rmtree(near_side.report_dir)  # and the ledger in it
        second = near_side.run()
        assert first.statuses == second.statuses
        assert [first.statuses[f"study/{number:02}"] for number in range(80)] == ["uploaded", "conflict"] * 40

    @pytest.mark.parametrize("is_large", [False, True])
    def test_of_a_file_under_way_are_waited_for_without_another_look_at_the_file(
        self,
        near_side: NearSide,
        far_side: FarSide,
        dicom: Dicom,
        monkeypatch: pytest.MonkeyPatch,
        is_large: bool,
    ) -> None:
        """A large one is hashed when there is something to compare it with, so it is read then."""
        if is_large:
            monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", 1000)
        reads: Counter[str] = Counter()
        reading(monkeypatch, lambda path: reads.update([Path(path).name]))
        for number in range(5):
            near_side.put(f"study/{number}", dicom("1.1", pixel_bytes=4096))

        def script(request: Request) -> None:
            if request.step is Step.PUT:
                await_that(lambda: len(reads) == 5)
                time.sleep(0.7)

        far_side.script = script
        run = near_side.run()
        assert run.summary.by_status == {"uploaded": 1, "duplicate": 4}
        assert reads["0"] == 1
        assert {reads[f"{number}"] for number in range(1, 5)} == {2 if is_large else 1}

    def test_that_many_large_files_wait_for_leave_room_for_the_one_that_has_it(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is read again after a fault: nobody holds memory while he waits for it."""
        monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", 1000)
        body = dicom("1.1", pixel_bytes=4096)
        for number in range(100):
            near_side.put(f"study/{number:03}", body)
        far_side.script = scripted((Step.PUT, 1, status(500)))
        watchdog = threading.Timer(60, lambda: engine.stop(STOPPED))
        engine = near_side.engine()
        watchdog.start()
        run = near_side.finished(engine)
        watchdog.cancel()
        assert run.summary.by_status == {"uploaded": 1, "duplicate": 99}


class TestALargeFileOnASlowDisk:
    def test_holds_up_nobody_else(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All others are stored while it hangs."""
        monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", MIB)
        chunks = Streamed._chunks

        def slow(content: Streamed, *, with_md5: bool) -> Iterator[bytes]:
            for chunk in chunks(content, with_md5=with_md5):
                await_that(lambda: len(far_side.objects) == 50)
                yield chunk

        monkeypatch.setattr(Streamed, "_chunks", slow)
        near_side.put_many(50)
        near_side.put("study/0000-large", dicom("9.9", pixel_bytes=2 * MIB))
        run = near_side.run(parallel=2)
        assert run.summary.by_status == {"uploaded": 51}


class TestThreads:
    @pytest.mark.parametrize("parallel", [1, 20])
    def test_are_few_whatever_parallel_says(
        self, near_side: NearSide, far_side: FarSide, parallel: int
    ) -> None:
        """Of ours, in the middle of a run of files that are held."""
        near_side.put_many(300)
        before, names = set(threading.enumerate()), list[str]()

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n in (parallel, 200):
                ours = set(threading.enumerate()) - before
                names.extend(each.name for each in ours if "process_request_thread" not in each.name)
            elif request.step is Step.PUT and request.n < parallel:
                await_that(lambda: bool(names))

        far_side.script = script
        assert near_side.run(parallel=parallel).exit_code == 0
        assert names
        assert len(set(names)) < 10, names


class TestStop:
    def test_by_refused_credentials_is_the_reason_of_the_file_that_met_them(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """It was tried before, so it has failed."""
        near_side.put("study/a", dicom("1.1"))

        def script(request: Request) -> Deviation | None:
            if request.step is Step.PUT:
                return status(403)
            return status(401) if request.n > 2 else None

        far_side.script = script
        run = near_side.run()
        assert (run.statuses, run.exit_code) == ({"study/a": "failed/auth"}, 4)

    @pytest.mark.parametrize("place", ["another thread", "the loop", "a signal handler"])
    def test_comes_from_anywhere(
        self, near_side: NearSide, far_side: FarSide, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is under way ends, nothing new starts, and every file has its row."""
        near_side.put_many(120)
        engine = near_side.engine(parallel=4)
        before = signal.signal(signal.SIGUSR1, lambda *_: engine.stop(STOPPED))

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 20:
                if place == "the loop":
                    engine._platform.loop.call(engine.stop, STOPPED)
                elif place == "a signal handler":
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                else:
                    engine.stop(STOPPED)
                time.sleep(0.1)

        far_side.script = script
        try:
            run = near_side.finished(engine)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert (run.exit_code, len(run.rows)) == (130, 120)
        assert set(run.statuses.values()) == {"uploaded", "not_attempted/stopped"}
        assert {row["key"] for row in run.rows.values() if row["key"]} == set(far_side.objects)
        assert len(far_side.objects) < 60

    @pytest.mark.parametrize("is_large", [False, True])
    def test_cuts_off_a_put_that_outlasts_the_grace(
        self,
        near_side: NearSide,
        far_side: FarSide,
        dicom: Dicom,
        monkeypatch: pytest.MonkeyPatch,
        is_large: bool,
    ) -> None:
        """Long before the server answers: what it says then is nobody's. The next run sends it anew."""
        if is_large:
            monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", 1000)
        near_side.edges = replace(near_side.edges, grace_s=0.2)
        near_side.put("study/a", dicom("1.1", pixel_bytes=4096))
        engine, released = near_side.engine(), threading.Event()

        def script(request: Request) -> None:
            if request.step is Step.PUT and request.n == 1:
                engine.stop(STOPPED)
                released.wait(240)

        far_side.script = script
        began = time.monotonic()
        run = near_side.finished(engine)
        assert far_side.puts_under_way == 1, "it still waits"
        assert time.monotonic() - began < 50, "the grace, not the engine's patience with a silent server"
        assert (run.statuses, run.exit_code) == ({"study/a": "failed/interrupted"}, 130)
        key = far_side.asked(Step.PUT)[0].key
        assert superseded(run.row("study/a")) == [key]
        assert not [each for each in threading.enumerate() if each.name.startswith(("loop", "streamed"))]
        released.set()
        await_that(lambda: far_side.puts_under_way == 0)
        row = near_side.run().row("study/a")
        assert row["status"] == "uploaded"
        assert row["key"] != key

    def test_reads_nothing_more(
        self, near_side: NearSide, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Files that wait to be read are not attempted."""
        near_side.put_many(200)
        engine = near_side.engine(parallel=20)
        reads: list[str] = []

        def read(path: str) -> None:
            reads.append(path)
            if len(reads) == 10:
                engine.stop(STOPPED)
                time.sleep(0.2)

        reading(monkeypatch, read)
        run = near_side.finished(engine)
        assert len(run.rows) == 200
        assert len(reads) < 20


class TestADefect:
    @pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
    def test_of_a_reader_stops_the_run_and_every_file_has_its_row(
        self, near_side: NearSide, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
    ) -> None:
        near_side.put_many(60)

        def read(path: str) -> None:
            if path.endswith("0030"):
                raise error

        reading(monkeypatch, read)
        run = near_side.run(parallel=2)
        assert (run.exit_code, len(run.rows)) == (3, 60)
        assert set(run.statuses.values()) <= {"uploaded", "not_attempted/stopped", "failed/interrupted"}

    def test_after_a_put_leaves_the_key_superseded(
        self, near_side: NearSide, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may hold the file; of a file that was tried nobody says that it was not."""
        near_side.put_many(1)

        def broken(_self: object, _file: object, _fault: object) -> Deviation:
            raise ZeroDivisionError

        monkeypatch.setattr("tasks.upload.transfer.Transfer._after", broken)
        far_side.script = scripted((Step.PUT, 1, status(500)))
        run = near_side.run()
        assert (run.exit_code, run.statuses) == (3, {"study/0000": "failed/interrupted"})
        assert superseded(run.row("study/0000")) == [far_side.asked(Step.PUT)[0].key]
