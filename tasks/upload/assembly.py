"""What sends files, put together as the settings say."""

import asyncio
from collections.abc import Callable

from tasks.core.progress import Progress
from tasks.core.run_faults import RunFaults
from tasks.ledger.awaited_ledger import AwaitedLedger
from tasks.ledger.ledger import Ledger
from tasks.remote.platform_client import Platform
from tasks.settings import Settings
from tasks.source.readers import READERS, Readers
from tasks.upload.slots import Slots
from tasks.upload.transfer import Transfer
from tasks.upload.uploader import Uploader


def new_uploader(
    settings: Settings,
    platform: Platform,
    ledger: Ledger,
    slots: Slots,
    progress: Progress,
    jitter: Callable[[], float],
    clock: Callable[[], float],
    *,
    any_granted: bool = False,
) -> Uploader:
    """What takes files their way, with these slots; `any_granted`: the run was given a key before."""
    awaited = AwaitedLedger(ledger, platform.loop.loop)
    platform.client.reach = awaited.reach
    readers, stopping = Readers(slots.most + READERS), asyncio.Event()
    transfer = Transfer(
        platform.client,
        awaited,
        slots,
        readers,
        stopping,
        RunFaults(settings.budgets, any_granted=any_granted),
        on_conflict=settings.on_conflict,
        accept=settings.accepted,
        max_outage_s=settings.max_outage,
        jitter=jitter,
        clock=clock,
    )
    return Uploader(platform.loop, transfer, slots, readers, stopping, progress)
