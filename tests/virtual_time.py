"""An event loop whose clock jumps to the next timer: waits take no time, and a test that hangs fails."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """For coroutines that wait for each other and for time alone: no sockets, no threads."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        look = self._selector.select  # type: ignore[attr-defined]

        def select(timeout: float | None = None) -> Any:
            assert timeout is not None, "all wait for each other"
            self.now += timeout
            return look(0)

        self._selector.select = select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(coroutine)
