"""One worker of a process computes at a time, and lets the next have its turn while it waits.

Only one thread of an interpreter computes anyway; but when threads leave that to the interpreter's lock, they
fight for it after every system call, which costs a fifth of all CPU per file. A lock of our own, given up
where a worker waits for the network, the disk, the ledger or a slot, spares that.

What keeps it free of deadlocks: whatever may wait for another worker waits in `waiting()`, also the taking of
a lock that is held across such a wait.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_turn = threading.Lock()
_mine = threading.local()


@contextmanager
def computing() -> Iterator[None]:
    """It is this thread's turn."""
    with _turn:
        _mine.turn = True
        try:
            yield
        finally:
            _mine.turn = False


@contextmanager
def waiting() -> Iterator[None]:
    """Gives the turn up meanwhile, if this thread has it."""
    if not getattr(_mine, "turn", False):
        yield
        return
    _mine.turn = False
    _turn.release()
    try:
        yield
    finally:
        _turn.acquire()
        _mine.turn = True
