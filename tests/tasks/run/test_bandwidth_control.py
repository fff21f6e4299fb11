"""How fast a run sends: by its setting, by the week, and by what somebody sets while it runs."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.core.errors import StoppedError, UsageError
from tasks.ledger.set_bandwidths import SetTo
from tasks.remote.send_rate import SendRate
from tasks.run.bandwidth_control import BandwidthControl, set_bandwidth
from tests import virtual_time
from tests.conftest import NOT_WAITING, NearSide
from tests.far_side import Step
from tests.processes import await_that

MIB = 1024 * 1024
FRIDAY_NS = int(datetime(2026, 11, 27, 7, 59, 30, tzinfo=UTC).timestamp() * 1e9)
OFFICE = "Mon-Fri 08:00,1M 19:00,off UTC"


def events(near_side: NearSide, name: str) -> list[dict[str, str]]:
    lines = (near_side.report_dir / "audit.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["event"] == name]


class Control:
    """A run's, in virtual time."""

    def __init__(self, asked: str, began_ns: int = FRIDAY_NS) -> None:
        self.rate = SendRate()
        self.set_to: SetTo | StoppedError | None = None
        self.changes: list[tuple[str, str]] = []
        self.rates: list[int | None] = []
        self.ahead_s = 0.0  # that the machine's clock was set
        self.read_s = 0.0  # that the ledger takes
        loop = asyncio.get_running_loop()
        now_ns = lambda: began_ns + int((loop.time() + self.ahead_s) * 1e9)  # noqa: E731
        note = lambda *change: self.changes.append(change)  # noqa: E731
        self.control = BandwidthControl(asked, self.rate, self._read, note, now_ns)
        self.control.start(lambda: self.rates.append(self.rate.rate))

    async def _read(self) -> SetTo | None:
        await asyncio.sleep(self.read_s)
        if isinstance(self.set_to, StoppedError):
            raise self.set_to
        return self.set_to


class TestATimetable:
    def test_changes_the_rate_to_the_second(self) -> None:
        async def work() -> None:
            run = Control("Mon-Fri 08:00,1M 08:10,off UTC")
            assert run.rate.rate is None
            await asyncio.sleep(29.9)
            assert run.rate.rate is None
            await asyncio.sleep(0.2)
            assert run.rate.rate == MIB
            await asyncio.sleep(600)
            assert run.rates == [MIB, None]
            run.control.close()

        virtual_time.run(work())

    def test_does_not_wait_for_a_ledger_that_does_not_answer(self) -> None:
        async def work() -> None:
            run = Control(OFFICE)
            run.read_s = 1000.0
            await asyncio.sleep(30.1)
            assert run.rate.rate == MIB
            run.control.close()

        virtual_time.run(work())

    def test_is_kept_though_the_clock_is_set(self) -> None:
        async def work() -> None:
            run = Control(OFFICE)
            run.ahead_s = 3600
            await asyncio.sleep(6)
            assert run.rate.rate == MIB
            run.ahead_s = -3600
            await asyncio.sleep(6)
            assert run.rate.rate is None
            run.control.close()

        virtual_time.run(work())


class TestWhatIsSetMeanwhile:
    def test_is_in_force_until_it_is_taken_back(self) -> None:
        async def work() -> None:
            run = Control("5M")
            run.set_to = SetTo("2M", "ada")
            await asyncio.sleep(6)
            assert run.rate.rate == 2 * MIB
            run.set_to = SetTo(OFFICE, "")
            await asyncio.sleep(30)
            assert run.rates == [2 * MIB, None, MIB]
            run.set_to = None
            await asyncio.sleep(6)
            assert run.rate.rate == 5 * MIB
            assert run.changes == [("2M", "ada"), (OFFICE, ""), ("default", "")]
            run.control.close()

        virtual_time.run(work())

    def test_stays_when_the_ledger_can_not_be_read(self) -> None:
        async def work() -> None:
            run = Control("5M")
            run.set_to = SetTo("2M", "")
            await asyncio.sleep(6)
            run.set_to = StoppedError("The database is away.")
            await asyncio.sleep(20)
            assert run.rate.rate == 2 * MIB
            run.set_to = None
            await asyncio.sleep(6)
            assert run.rate.rate == 5 * MIB
            run.control.close()

        virtual_time.run(work())

    def test_is_divided_by_slots_between_shards(self) -> None:
        async def work() -> None:
            run = Control("20M")
            run.control.share(5, 20)
            assert run.rate.rate == 5 * MIB
            run.set_to = SetTo("8M", "")
            await asyncio.sleep(6)
            assert run.rate.rate == 2 * MIB
            run.control.close()

        virtual_time.run(work())


class TestARun:
    def test_takes_as_long_as_its_bandwidth_says(
        self, near_side: NearSide, dicom: Callable[..., bytes]
    ) -> None:
        """Of files that are held and one that is streamed together."""
        bodies = {f"study/{n}": dicom(f"1.2.{n}", pixel_bytes=640_000) for n in range(5)}
        bodies["study/large"] = dicom("1.2.9", pixel_bytes=9 * MIB)
        for name, body in bodies.items():
            near_side.put(name, body)
        began = time.monotonic()
        run = near_side.run(bandwidth="10M")
        assert run.summary.exit_code == 0
        assert time.monotonic() - began > 0.9 * sum(map(len, bodies.values())) / (10 * MIB)
        assert sum(request.step is Step.PUT for request in near_side.far_side.requests) == len(bodies)

    def test_that_is_a_shard_has_the_part_of_its_slots(self, near_side: NearSide) -> None:
        near_side.put_many(1)
        engine = near_side.engine(bandwidth="20M", parallel=5)
        engine.share_bandwidth(5, 20)
        await_that(lambda: engine.progress.platform().rate == 5 * MIB)  # type: ignore[union-attr]
        assert near_side.finished(engine).summary.exit_code == 0

    def test_goes_by_the_timetable_of_its_clock(self, near_side: NearSide) -> None:
        near_side.put_many(1)
        near_side.edges = replace(NOT_WAITING, clock_ns=lambda: FRIDAY_NS + 60 * 10**9)
        engine = near_side.engine(bandwidth=OFFICE)
        platform = engine.progress.platform()
        assert platform
        assert platform.rate == MIB
        assert near_side.finished(engine).summary.exit_code == 0

    def test_obeys_what_is_set_from_outside_within_seconds_and_says_so(
        self, near_side: NearSide, caplog: pytest.LogCaptureFixture
    ) -> None:
        """At a byte a second it would take days."""
        near_side.put_many(3)
        with running(near_side, bandwidth="1b", dead_after=2) as (thread, ledger):
            assert thread.is_alive()
            with caplog.at_level(logging.WARNING):
                said = set_bandwidth(ledger, "default", "off", "ada")
                thread.join(30)
            assert not thread.is_alive()
        assert said == "Bandwidth of the runs at work, within seconds and until they end: off."
        assert "Bandwidth, from now on: off" in caplog.text
        (event,) = events(near_side, "bandwidth_set")
        assert (event["bandwidth"], event["user_id"]) == ("off", "ada")

    def test_that_begins_later_goes_by_its_own_setting(self, near_side: NearSide) -> None:
        near_side.put_many(1)
        with running(near_side, bandwidth="1b", dead_after=2) as (thread, ledger):
            set_bandwidth(ledger, "default", "100M")
            thread.join(30)
        near_side.put_many(2, "more")
        assert near_side.run(dead_after=2).summary.exit_code == 0
        assert len(events(near_side, "bandwidth_set")) == 1


@contextmanager
def running(near_side: NearSide, **options: object) -> Iterator[tuple[threading.Thread, Path]]:
    """A run in a thread, once it has begun to send."""
    began = len(near_side.far_side.requests)
    thread = threading.Thread(target=near_side.run, kwargs=options)
    thread.start()
    try:
        await_that(lambda: len(near_side.far_side.requests) > began + 1)
        yield thread, near_side.report_dir / "ledger.sqlite"
    finally:
        thread.join(60)


class TestSettingIt:
    @pytest.mark.parametrize("text", ["", "fast", "10M:1M", "08:00", "Default"])
    def test_is_refused_for_what_is_no_bandwidth(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"^--set-bandwidth: "):
            set_bandwidth(tmp_path / "ledger.sqlite", "default", text)

    def test_is_refused_where_no_run_is_at_work(self, near_side: NearSide, tmp_path: Path) -> None:
        """And makes no ledger."""
        with pytest.raises(UsageError, match="There is no ledger there"):
            set_bandwidth(tmp_path / "none" / "ledger.sqlite", "default", "1M")
        assert not (tmp_path / "none").exists()
        near_side.put_many(1)
        near_side.run()
        with pytest.raises(UsageError, match="No run of this campaign is at work"):
            set_bandwidth(near_side.report_dir / "ledger.sqlite", "default", "1M")


class TestTheSetting:
    def test_of_nonsense_is_refused_in_words(self, near_side: NearSide) -> None:
        near_side.put_many(1)
        with pytest.raises(UsageError, match=r"--bandwidth .*'10MB' is no rate in bytes a second"):
            near_side.settings(bandwidth="10MB")
