"""The event loop as other threads reach it: answers, errors, Ctrl-C while they wait, the end."""

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tasks.concurrency.event_loop import EventLoop
from tasks.core.errors import StoppedError
from tests.processes import await_that


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


async def echo(value: object) -> object:
    await asyncio.sleep(0)
    return value


async def fail() -> None:
    raise TimeoutError("its own")


def test_gives_what_the_coroutine_returns_or_raises(loop: EventLoop) -> None:
    """A time-out of the coroutine's is no end of the wait."""
    assert loop.run(echo(7)) == 7
    with pytest.raises(TimeoutError, match="its own"):
        loop.run(fail())


def test_ctrl_c_ends_the_wait_and_cancels_the_coroutine(loop: EventLoop) -> None:
    cancelled, begun = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    main_thread = threading.main_thread().ident or 0

    def is_waiting() -> bool:
        frame = sys._current_frames()[main_thread]
        return begun.is_set() and frame.f_code is threading.Condition.wait.__code__

    def interrupt() -> None:
        await_that(is_waiting, every_s=0.01)
        signal.pthread_kill(main_thread, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        loop.run(wait())
    assert cancelled.wait(60)
    assert loop.run(echo(1)) == 1


def test_the_end_cuts_off_what_is_under_way() -> None:
    """In order: each coroutine may clean up, also one that takes a moment for it."""
    loop, ended = EventLoop(), list[int]()

    async def work(number: int) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.append(number)

    async def start() -> list[asyncio.Task[None]]:
        return [asyncio.create_task(work(number)) for number in range(3)]

    tasks = loop.run(start())
    loop.run(echo(1))
    loop.close()
    assert sorted(ended) == [0, 1, 2]
    assert all(task.cancelled() for task in tasks)
    assert "loop" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("error", "is_said"),
    [(ValueError("1.2.840.7 in /archive"), True), (StoppedError("The disk is full."), False)],
)
def test_what_is_raised_where_nobody_waits_is_said_without_its_text(
    loop: EventLoop, caplog: pytest.LogCaptureFixture, error: Exception, is_said: bool
) -> None:
    """By a future, a task, a callback. An error of ours has had its say."""

    async def fail(_argument: str) -> None:
        raise error

    def call(_argument: str) -> None:
        raise error

    async def leave() -> None:
        asyncio.get_running_loop().create_future().set_exception(error)
        task = asyncio.create_task(fail("1.2.840.7"))
        await asyncio.wait([task])
        asyncio.get_running_loop().call_soon(call, "1.2.840.7")

    loop.run(leave())
    loop.run(echo(1))
    gc.collect()
    loop.run(echo(1))
    assert ["Unexpected ValueError" in said for said in caplog.messages] == [True] * 3 * is_said
    assert "1.2.840.7" not in caplog.text
    assert "/archive" not in caplog.text


def test_after_the_end_nothing_is_called_and_nothing_raised() -> None:
    """Closed twice, too."""
    loop, called = EventLoop(), list[int]()
    loop.close()
    loop.call(called.append, 1)
    loop.close()
    assert called == []


def test_may_be_called_from_a_signal_handler_while_it_is_called(loop: EventLoop) -> None:
    """However often the same thread is interrupted in the middle of a call."""
    called: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: loop.call(called.append, 0))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            loop.call(called.append, 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    loop.run(echo(1))
    assert set(called) == {0, 1}
