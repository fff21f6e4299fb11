"""Group commit: one thread writes, and commits at once for all who wait for a commit.

Whoever writes blocks until his rows are durable, and gets an answer. What a handler does may be done twice:
when the database is locked, or its server restarts, the group is executed again for a while; when an item
can't be executed, halves of its group are, until that one is alone.
"""

import contextlib
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import sqlalchemy as sa

from tasks.core.errors import IngestError, RowRefusedError, StoppedError
from tasks.ledger.database import retry_while_busy

_GATHER_S: Final = 0.02  # while many write, a commit waits so long for company: it costs the same for all

_CLOSED: Final = "The ledger is closed."

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
# Takes all items that wait for it, and answers each.
Handler: TypeAlias = Callable[[sa.Connection, list[_Item]], list[_Answer]]
Request: TypeAlias = tuple[Handler[Any, Any], Any]
Reply: TypeAlias = Callable[[Any], None]  # takes the answer, or an exception, in the writer's thread
_Entry: TypeAlias = tuple[Handler[Any, Any], Any, Reply]


class Writer:
    """The thread and its connection. It starts with the first write: who only reads needs none."""

    def __init__(
        self,
        engine: sa.Engine,
        beat: Callable[[sa.Connection, float], bool],
        heartbeat_s: float,
        at_begin: Callable[[], None],
        before_commit: Callable[[], None],
        clock: Callable[[], float],
        patience_s: float,
    ) -> None:
        """`beat` begins each commit, and one comes every `heartbeat_s`, also while nobody else writes.

        It gets how long ago, by the `clock`, it last said that it gave a sign of life, and the commit that
        had this in it succeeded. A database that can't be used is waited for so long. `at_begin` is called
        before each attempt at a commit, `before_commit` once all of it is executed.
        """
        self._engine = engine.execution_options(writes=True)
        self._beat = beat
        self._heartbeat_s = heartbeat_s
        self._at_begin = at_begin
        self._before_commit = before_commit
        self._clock = clock
        self._patience_s = patience_s
        self._last_beat = -math.inf
        self._crowded = False  # the last commit had more than one to serve
        self._waiting: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # nothing is put after the end of what is to be done
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def write(self, work: Callable[[sa.Connection], _Answer]) -> _Answer:
        """Blocks until this work is durable; returns what it gave."""
        return self.submit(lambda db, items: [work(db) for _ in items], None)

    def submit(self, handler: Handler[_Item, _Answer], item: _Item) -> _Answer:
        """Blocks until the item is durable, with all that wait for this handler; returns its answer."""
        answer: _Answer = answer_to(partial(self.post, (handler, item)))
        return answer

    def submit_all(self, requests: Sequence[Request]) -> list[Any]:
        """Blocks until all are durable, in one commit or two; returns an answer, or an exception, to each."""
        replies: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in requests]
        for request, reply in zip(requests, replies, strict=True):
            self.post(request, reply.put)
        return [reply.get() for reply in replies]

    def post(self, request: Request, reply: Reply) -> None:
        """Returns at once; `reply` is called once it is durable. Commits are in the order of the calls."""
        with self._gate:
            if not self._closed:
                if not self._thread.ident:
                    self._thread.start()
                self._waiting.put((*request, reply))
                return
        reply(StoppedError(_CLOSED))  # to who outlived the run's end

    def close(self) -> None:
        """Commits what waits, then ends the thread."""
        with self._gate:
            if not self._closed:
                self._waiting.put(None)
            self._closed = True
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        group: list[_Entry | None] = []
        try:
            while None not in group:
                group = self._next_group()
                self._serve([entry for entry in group if entry is not None])
        finally:
            self._refuse_the_rest(group)

    def _refuse_the_rest(self, group: list[_Entry | None]) -> None:
        """Whoever waits for a thread that has ended gets an answer; one answer more hurts nobody."""
        with self._gate:
            self._closed = True
            with contextlib.suppress(queue.Empty):
                while True:
                    group.append(self._waiting.get_nowait())
        for entry in filter(None, group):
            entry[2](StoppedError(_CLOSED))

    def _next_group(self) -> list[_Entry | None]:
        group: list[_Entry | None] = []
        with contextlib.suppress(queue.Empty):
            group.append(self._waiting.get(timeout=self._heartbeat_s))
            if self._crowded:
                time.sleep(_GATHER_S)
            while True:
                group.append(self._waiting.get_nowait())
        return group

    def _serve(self, group: list[_Entry]) -> None:
        self._crowded = len(group) > 1
        for reply, answer in self._answers(group):
            reply(answer)

    def _answers(self, group: list[_Entry]) -> list[tuple[Reply, Any]]:
        """An answer for each. What can't be executed fails alone: its neighbours are committed without it."""
        try:
            return retry_while_busy(lambda: self._commit(group), self._patience_s)
        except Exception as error:  # noqa: BLE001 - those who wait raise it
            is_for_all = isinstance(error, IngestError) and not isinstance(error, RowRefusedError)
            if is_for_all or len(group) < 2:
                return [(reply, error) for _, _, reply in group]
        half = len(group) // 2
        return self._answers(group[:half]) + self._answers(group[half:])

    def _commit(self, group: list[_Entry]) -> list[tuple[Reply, Any]]:
        by_handler: dict[Handler[Any, Any], list[tuple[Any, Reply]]] = defaultdict(list)
        for handler, item, reply in group:
            by_handler[handler].append((item, reply))
        answers: list[tuple[Reply, Any]] = []
        self._at_begin()
        with self._engine.begin() as db:
            has_beaten = self._beat(db, self._clock() - self._last_beat)
            for handler, entries in by_handler.items():
                results = handler(db, [item for item, _ in entries])
                answers += zip((reply for _, reply in entries), results, strict=True)
            self._before_commit()
        if has_beaten:
            self._last_beat = self._clock()
        return answers


def answer_to(ask: Callable[[Reply], None]) -> Any:
    """Blocks until who is asked has replied; raises the reply when that is an exception."""
    reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ask(reply.put)
    answer = reply.get()
    if isinstance(answer, Exception):
        raise answer
    return answer
