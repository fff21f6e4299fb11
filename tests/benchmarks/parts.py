"""What each part of the way costs: CPU seconds by the threads' own clocks, in one process.

python -m tests.benchmarks.parts URL DIRECTORY
"""

import json
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tasks.remote.upload_api
import tasks.run.records
import tasks.source.file_content
from tasks.core.models import StudyEntry
from tasks.run.engine import ingest
from tasks.settings import load
from tests.benchmarks.senders import timed

if TYPE_CHECKING:
    from collections.abc import Callable

_lock = threading.Lock()
_spent: defaultdict[str, float] = defaultdict(float)


def measured(url: str, directory: Path) -> dict[str, float]:
    """CPU seconds by part of a whole run, in a process of its own; `other` is what no part accounts for."""
    told: dict[str, float] = json.loads(
        timed([sys.executable, "-m", "tests.benchmarks.parts", url, str(directory)]).said
    )
    return told


def main() -> None:
    """Prints the parts as JSON."""
    url, directory = sys.argv[1], Path(sys.argv[2])
    _watch(tasks.source.file_content, "examine", "header")
    _watch(tasks.source.file_content.Held, "__init__", "hashes")
    _watch(tasks.remote.upload_api.UploadClient, "presign", "presign")
    _watch(tasks.remote.upload_api.UploadClient, "put", "PUT")
    _watch(tasks.run.records.Records, "write", "report")
    settings = load(api_endpoint=url, report_dir=directory / "report-of-parts", processes=1)
    began = time.process_time()
    with _LedgerClock() as clock:
        ingest([StudyEntry(1, str(directory / "study"))], settings)
    all_s = time.process_time() - began
    _spent["ledger"] = clock.seen_s
    parts = {part: _spent[part] for part in ("header", "hashes", "presign", "PUT", "ledger", "report")}
    print(json.dumps(parts | {"other": all_s - sum(parts.values()), "all": all_s}))


def _watch(owner: Any, name: str, part: str) -> None:
    function: Callable[..., Any] = getattr(owner, name)

    def watched(*arguments: Any, **named: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            with _lock:
                _spent[part] += time.thread_time() - began

    setattr(owner, name, watched)


class _LedgerClock:
    """The CPU seconds of the ledger's thread, which also writes the audit trail; kept when it has ended."""

    def __init__(self) -> None:
        self.seen_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "_LedgerClock":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            for thread in threading.enumerate():
                if thread.name == "ledger" and thread.ident:
                    self.seen_s = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


if __name__ == "__main__":
    main()
