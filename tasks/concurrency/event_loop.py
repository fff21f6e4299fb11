"""The event loop: one thread that owns all that is under way, and how other threads reach it."""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from tasks.core.errors import IngestError, InternalError

log = logging.getLogger("dicom_ingest")

# Who waits looks up so often: a signal that comes in the moment before a wait interrupts nothing.
LOOK_UP_S: Final = 0.5

_T = TypeVar("_T")


class EventLoop:
    """An asyncio event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_note_unseen)
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """What the coroutine returns or raises; not for the loop's own thread. Cut off, it is cancelled."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            while not concurrent.futures.wait([future], LOOK_UP_S).done:
                pass
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Has the loop call a function soon; one that has ended calls nothing. From a signal handler, too."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        """Ends the thread, and with it whatever is still under way."""
        self.call(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(_cut_off_all())
        finally:
            self.loop.close()


def _note_unseen(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Of what was raised where nobody waits any more. asyncio would show its text, and the repr of arguments.

    An error of ours has stopped the run already, or comes after its end.
    """
    error = context.get("exception")
    if isinstance(error, Exception) and not isinstance(error, IngestError):
        log.warning("%s", InternalError.hiding(error))


async def _cut_off_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
