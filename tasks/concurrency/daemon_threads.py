"""Work that blocks, for an event loop: in threads that keep no process from its end.

Those of concurrent.futures are waited for when the process ends, and a dead share never answers.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar

_T = TypeVar("_T")
_Jobs: TypeAlias = "SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]"


class DaemonThreads:
    """So many at most, which start when they are needed. For the event loop's thread alone."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._started = 0
        self._open = 0  # jobs that are not done
        self._jobs: _Jobs = SimpleQueue()

    def run(self, work: Callable[[], _T]) -> "asyncio.Future[_T]":
        """What it returns or raises, once a thread has come to it. Cancelled, it goes on, for nobody."""
        if not self._most:
            raise RuntimeError("the threads have ended")
        if self._open >= self._started < self._most:
            self._start()
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._open += 1
        self._jobs.put((work, future))
        return future

    def close(self) -> None:
        """The threads end when what was asked for is done."""
        for _ in range(self._started):
            self._jobs.put(None)
        self._most = 0

    def _start(self) -> None:
        thread = Thread(target=self._serve, name=f"{self._name}-{self._started}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # at a limit of the operating system
            if not self._started:
                raise
        else:
            self._started += 1

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001 - it is raised where the result is awaited
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                future.get_loop().call_soon_threadsafe(self._settle, future, result, error)
            del job, work, future, result, error  # which may be large

    def _settle(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        self._open -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def in_thread(work: Callable[[], _T], name: str) -> "asyncio.Future[_T]":
    """The same, in a thread of its own."""
    threads = DaemonThreads(1, name)
    try:
        return threads.run(work)
    finally:
        threads.close()


def wait_at_most(seconds: float, work: Callable[[], object], name: str) -> None:
    """Work that can't fail, in a thread of its own; what takes longer goes on until the process ends."""
    thread = Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
