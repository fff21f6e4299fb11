"""Batches as mapped tasks, one window of them after another.

A task knows its batch by a number; which files that is, and which of them are left to do, the ledger says.
"""

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, cast

from prefect import Task, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectConcurrentFuture
from prefect.states import Completed

from tasks.core.errors import InterruptedRunError, PlannedEndError
from tasks.run.early_end import safe_errors
from tasks.run.engine import Engine
from tasks.run.windows import LOOK_UP_S, HasEnded, send_windows


@task(
    name="upload-batch",
    task_run_name="batch {batch_no}",
    persist_result=False,
    cache_policy=NO_CACHE,  # a batch that ran is not a batch whose files are stored: the ledger decides
)
def upload_batch(batch_no: int, engine: Engine) -> State[None] | None:
    """Sends what is left of one batch. That a person, or a bound, ends the run is no failure of it."""
    try:
        with safe_errors():
            engine.upload(batch_no)
    except (InterruptedRunError, PlannedEndError):
        return Completed(name="Interrupted", message="The run was ended. The next one sends what is left.")
    return None


class Stoppable(Protocol):
    """A run, as far as it may have been stopped."""

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        ...


def upload_batches(engine: Engine, batches: Iterator[int], may_begin: threading.Event) -> None:
    """Sends all batches; none begins while the run is paused. Raises what a task raised, and why it stops."""
    map_batches(upload_batch, engine, batches, may_begin)


def map_batches(
    batch_task: Task[..., Any], run: Stoppable, batches: Iterator[int], may_begin: threading.Event
) -> None:
    """The same of any run: a task for each batch, which gets its number and the run."""

    def submit(window: list[int]) -> list[HasEnded]:
        while not may_begin.wait(LOOK_UP_S):
            run.raise_if_stopped()
        futures = batch_task.map(window, unmapped(run))
        of_threads = cast("list[PrefectConcurrentFuture[Any]]", futures)  # of a ThreadPoolTaskRunner
        return [partial(_has_ended, future) for future in of_threads]

    send_windows(batches, submit)


def _has_ended(future: PrefectConcurrentFuture[Any], timeout_s: float) -> bool:
    if not future.wrapped_future.done():
        future.wait(timeout_s)
        return False
    future.result()
    return True
