"""The event loop: one thread that owns all that is under way, and how other threads reach it."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

# Who waits looks up so often: a signal that comes in the moment before a wait interrupts nothing.
LOOK_UP_S: Final = 0.5

_T = TypeVar("_T")


class EventLoop:
    """An asyncio event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
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


async def _cut_off_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
