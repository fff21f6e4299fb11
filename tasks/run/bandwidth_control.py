"""How fast a run sends: by its setting, by the week, and by what somebody set while it runs.

`set_bandwidth` is what another process calls; each run of the campaign that is at work reads it within
seconds and goes by it until it ends, or until `default` takes it back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from tasks.audit.log import Trail
from tasks.concurrency.daemon_threads import in_thread
from tasks.core.audit_chain import Event
from tasks.core.bandwidth import OFF, Rate, bandwidth_of, part_of
from tasks.core.errors import IngestError, UsageError
from tasks.ledger.liveness import heartbeat_s
from tasks.ledger.set_bandwidths import SetBandwidths, SetTo
from tasks.ledger.standings import read_standings
from tasks.remote.platform_client import Platform
from tasks.remote.send_rate import SendRate
from tasks.settings import RunSettings, Settings

log = logging.getLogger("dicom_ingest")

DEFAULT: Final = "default"  # what the run was started with
_LOOKED_AT_EVERY_S: Final = 5.0  # whether another was set, and whether the machine's clock was
_NO_RUN: Final = "No run of this campaign is at work: nothing was changed. --bandwidth is for runs to come."


class BandwidthControl:
    """Of one run. For the event loop's thread alone."""

    def __init__(
        self,
        asked: str,
        send_rate: SendRate,
        read: Callable[[], Awaitable[SetTo | None]],
        changed: Callable[[str, str], object],
        clock_ns: Callable[[], int],
        every_s: float = _LOOKED_AT_EVERY_S,
    ) -> None:
        """`read`: what is set; `changed` gets another one, and whose it is."""
        self._slots, self._of_slots = 1, 1
        self._asked = self._now = bandwidth_of(asked)
        self._send_rate = send_rate
        self._read = read
        self._changed = changed
        self._clock_ns = clock_ns
        self._every_s = every_s
        self._set_to: SetTo | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._on_rate: Callable[[], object] = int
        send_rate.is_used |= bool(asked)
        self.apply()

    def start(self, on_rate: Callable[[], object]) -> None:
        """Goes on until `close`; `on_rate` is called when another rate is in force."""
        self._on_rate = on_rate
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each()) for each in (self._keep, self._watch)]

    def share(self, slots: int, of_slots: int) -> None:
        """Whose it is: so many slots of so many have a share of the rate."""
        self._slots, self._of_slots = slots, of_slots
        self.apply()

    def close(self) -> None:
        """Changes nothing any more."""
        for task in self._tasks:
            task.cancel()

    def apply(self) -> None:
        """Has the rate that is due now in force."""
        rate = part_of(self._now.rate_at(self._now_s), self._slots, self._of_slots)
        if rate != self._send_rate.rate:
            self._send_rate.set(rate)
            self._on_rate()

    @property
    def _now_s(self) -> float:
        return self._clock_ns() / 1e9

    async def _keep(self) -> None:
        while True:
            left_s = self._now.next_change(self._now_s) - self._now_s
            await asyncio.sleep(min(self._every_s, max(0.0, left_s)))
            self.apply()

    async def _watch(self) -> None:
        """By itself, for a database that is away is waited for."""
        while True:
            await asyncio.sleep(self._every_s)
            await self._look()
            self.apply()

    async def _look(self) -> None:
        try:
            set_to = await self._read()
            if set_to == self._set_to:
                return
            self._now = bandwidth_of(set_to.text) if set_to else self._asked
            self._set_to = set_to
            log.warning("Bandwidth, from now on: %s", self._now.text or OFF)
            self._changed(set_to.text if set_to else DEFAULT, set_to.user_id if set_to else "")
        except IngestError as error:  # the next look will do
            log.info("Whether another bandwidth is set could not be read: %s", error)


class RunBandwidth:
    """The control of a run, and what it reads: for any thread, but the loop's."""

    def __init__(
        self, settings: Settings, run_id: str, platform: Platform, trail: Trail, clock_ns: Callable[[], int]
    ) -> None:
        """A run that is not at work yet; it goes by its settings from here on."""
        self._platform = platform
        self._set = SetBandwidths(settings.ledger_at, settings.campaign, run_id)
        self._control = platform.loop.run(self._made(settings, trail, clock_ns))

    async def _made(self, settings: Settings, trail: Trail, clock_ns: Callable[[], int]) -> BandwidthControl:
        return BandwidthControl(
            settings.bandwidth,
            self._platform.client.send_rate,
            lambda: in_thread(self._set.for_run, "bandwidth"),
            lambda text, user_id: trail.record(Event.BANDWIDTH_SET, bandwidth=text, user_id=user_id),
            clock_ns,
            min(_LOOKED_AT_EVERY_S, heartbeat_s(settings.dead_after)),
        )

    @property
    def rate(self) -> Rate:
        """What is in force."""
        return self._platform.client.send_rate.rate

    def start(self, on_rate: Callable[[], object]) -> None:
        """Goes on until `close`; `on_rate` is called in the loop when another rate is in force."""
        self._platform.loop.call(self._control.start, on_rate)

    def share(self, slots: int, of_slots: int) -> None:
        """Of a shard, which has so many of the migration's slots."""
        self._platform.loop.call(self._control.share, slots, of_slots)

    def close(self) -> None:
        """Changes nothing any more."""
        self._platform.loop.call(self._control.close)
        self._set.close()


def set_bandwidth(
    ledger_at: str | Path,
    campaign: str,
    text: str,
    user_id: str = "",
    dead_after_s: float = RunSettings.dead_after,
) -> str:
    """Sets a rate, a timetable, `off`, or `default`, for the campaign's runs at work. What is said of it.

    UsageError when it is none of these, when no run is at work, and what `read_standings` raises.
    """
    text = text.strip()
    try:
        asked = bandwidth_of("" if text == DEFAULT else text or "''")
    except ValueError as error:
        raise UsageError(f"--set-bandwidth: {error}") from None
    read_standings(ledger_at, dead_after_s, campaign, 1)  # of this version, so what is written is read
    with closing(SetBandwidths(ledger_at, campaign, dead_after_s=dead_after_s)) as kept:
        if not kept.set("" if text == DEFAULT else asked.text, user_id):
            raise UsageError(_NO_RUN)
    what = "what each was started with" if text == DEFAULT else asked.text
    return f"Bandwidth of the runs at work, within seconds and until they end: {what}."
