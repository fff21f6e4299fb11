"""Questions that an event loop asks, so many at once, for a thread that takes the answers in order."""

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from tasks.comparison.patience import Patience
from tasks.concurrency.event_loop import LOOK_UP_S, EventLoop
from tasks.core.errors import Fault

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def answers_in_order(
    loop: EventLoop,
    items: Iterable[_Item],
    ask: Callable[[_Item], Coroutine[Any, Any, _Answer]],
    at_once: int,
) -> Iterator[tuple[_Item, _Answer]]:
    """Each item with its answer. What `ask` raises is raised here; what ends this cuts the others off."""
    under_way: deque[tuple[_Item, concurrent.futures.Future[_Answer]]] = deque()
    waiting = iter(items)
    try:
        while True:
            while len(under_way) < at_once and (item := next(waiting, None)) is not None:
                under_way.append((item, asyncio.run_coroutine_threadsafe(ask(item), loop.loop)))
            if not under_way:
                return
            item, future = under_way[0]
            while not concurrent.futures.wait([future], LOOK_UP_S).done:
                pass
            under_way.popleft()
            yield item, future.result()
    finally:
        for _, future in under_way:
            future.cancel()


async def answer_of(patience: Patience, ask: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer | None:
    """An answer, asked for as often as patience has it; None: there is none. In the loop's thread."""
    seen = 0
    while not patience.is_over:
        try:
            answer = await ask()
        except Fault as fault:
            seen += 1
            pause_s = patience.pause_s(fault, seen)
            if pause_s is None:
                patience.record(is_answered=False)
                return None
            await asyncio.sleep(pause_s)
        else:
            patience.record(is_answered=True)
            return answer
    return None
