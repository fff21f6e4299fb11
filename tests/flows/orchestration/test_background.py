"""Work beside a block ends with it."""

import contextvars
import threading

import pytest

from flows.orchestration.background import running_beside

_RUN = contextvars.ContextVar("run", default="none")


def test_is_done_when_the_block_is_over_however_it_ends() -> None:
    """What it shows or publishes last comes before what follows the block."""
    done: list[str] = []

    def work(ended: threading.Event) -> None:
        ended.wait(60)
        done.append("last words")

    with pytest.raises(ZeroDivisionError), running_beside(work, "test"):
        raise ZeroDivisionError
    assert done == ["last words"]


def test_knows_what_its_caller_knows() -> None:
    """Prefect keeps the flow run in such a variable."""
    seen: list[str] = []
    token = _RUN.set("this run")
    try:
        with running_beside(lambda _ended: seen.append(_RUN.get()), "test"):
            pass
    finally:
        _RUN.reset(token)
    assert seen == ["this run"]
