"""SIGTERM ends a command as Ctrl-C does: in order, with a report."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_received: Final = threading.Event()


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Until the block ends, SIGTERM raises KeyboardInterrupt in the main thread."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        _received.set()
        raise KeyboardInterrupt

    _received.clear()
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def raise_if_terminated() -> None:
    """KeyboardInterrupt when SIGTERM has come and yet we go on.

    Python drops an exception that is raised in a callback of its garbage collection; imports make thousands.
    """
    if _received.is_set():
        raise KeyboardInterrupt
