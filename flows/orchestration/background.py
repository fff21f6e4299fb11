"""Work beside a block: what shows or publishes how far something is, for as long as that lasts."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def running_beside(
    work: Callable[[threading.Event], None], name: str, ends_within_s: float | None = None
) -> Iterator[None]:
    """Runs `work` in a thread of this name until the block ends, which sets the event that it is given.

    Its end is waited for, no longer than `ends_within_s` when given. It has the context of its caller:
    Prefect knows by that to which flow run it belongs.
    """
    ended = threading.Event()
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work, ended), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(ends_within_s)
