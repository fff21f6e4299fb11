"""What each part of the way costs: CPU by the threads' own clocks, and within the loop by what it does.

python -m tests.benchmarks.parts URL DIRECTORY [--loop]      # --loop: by function, as cProfile says it
"""

import cProfile
import json
import pstats
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import tasks.run.records
from tasks.concurrency.event_loop import EventLoop
from tasks.core.models import StudyEntry
from tasks.ledger.awaited_ledger import AwaitedLedger
from tasks.remote.curl_engine import Engine
from tasks.remote.upload_api import UploadClient
from tasks.run.engine import ingest
from tasks.settings import load
from tests.benchmarks.senders import timed

_THREADS = {"loop": "loop", "reader": "readers", "ledger": "ledger writer"}  # what their names begin with
_spent: defaultdict[str, float] = defaultdict(float)


def measured(url: str, directory: Path) -> dict[str, float]:
    """CPU seconds by part of a whole run, in a process of its own; `loop: ...` is a part of the loop."""
    command = [sys.executable, "-m", "tests.benchmarks.parts", url, str(directory)]
    parts: dict[str, float] = json.loads(timed(command).said)
    return parts


def main() -> None:
    """Prints the parts as JSON."""
    url, directory, *more = sys.argv[1:]
    if more:
        _profile_loop()
    else:
        _watch(Engine, "_act", "libcurl")
        _watch_coroutine(UploadClient, "presign", "presign")
        _watch_coroutine(UploadClient, "put", "PUT")
        _watch(AwaitedLedger, "_deliver", "answers of the ledger")
    _watch(tasks.run.records.Records, "write", "report")
    settings = load(api_endpoint=url, report_dir=Path(directory) / "report-of-parts")
    began = time.process_time()
    with _ThreadClocks() as clocks:
        summary = ingest([StudyEntry(1, str(Path(directory) / "study"))], settings)
    assert summary.exit_code == 0, summary.problems
    all_s = time.process_time() - began
    report_s = _spent.pop("report")
    parts = {part: clocks.seen_s[name] for name, part in _THREADS.items()} | {"report": report_s}
    parts["other threads"] = all_s - sum(parts.values())
    print(json.dumps(parts | {"all": all_s} | {f"loop: {part}": spent_s for part, spent_s in _spent.items()}))


_inner: list[float] = []  # of the loop's thread: what the watched calls within each watched call took


def _watched(part: str, call: Callable[[], Any]) -> Any:
    """Without what is watched within it."""
    began = time.thread_time()
    _inner.append(0.0)
    try:
        return call()
    finally:
        took = time.thread_time() - began
        _spent[part] += took - _inner.pop()
        if _inner:
            _inner[-1] += took


def _watch(owner: Any, name: str, part: str) -> None:
    function: Callable[..., Any] = getattr(owner, name)
    setattr(owner, name, lambda *given, **named: _watched(part, lambda: function(*given, **named)))


def _watch_coroutine(owner: Any, name: str, part: str) -> None:
    """Each of its steps, not the time between them."""
    function: Callable[..., Any] = getattr(owner, name)

    class Steps:
        def __init__(self, *given: Any, **named: Any) -> None:
            self._coroutine = function(*given, **named)

        def __await__(self) -> Generator[Any, Any, Any]:
            while True:
                try:
                    awaited = _watched(part, lambda: self._coroutine.send(None))
                except StopIteration as end:
                    return end.value
                try:
                    yield awaited
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                    self._coroutine.throw(error)

    async def watched(*given: Any, **named: Any) -> Any:
        return await Steps(*given, **named)

    setattr(owner, name, watched)


def _profile_loop() -> None:
    run: Callable[[EventLoop], None] = EventLoop._run

    def profiled(loop: EventLoop) -> None:
        profile = cProfile.Profile(time.thread_time)
        profile.runcall(run, loop)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(50)

    EventLoop._run = profiled  # type: ignore[method-assign]


class _ThreadClocks:
    """The CPU seconds of threads by the beginning of their names; kept when they have ended."""

    def __init__(self) -> None:
        self._seen: dict[threading.Thread, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    @property
    def seen_s(self) -> dict[str, float]:
        return {
            name: sum(seen for thread, seen in self._seen.items() if thread.name.startswith(name))
            for name in _THREADS
        }

    def __enter__(self) -> "_ThreadClocks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            for thread in threading.enumerate():
                if thread.ident:
                    self._seen[thread] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


if __name__ == "__main__":
    main()
