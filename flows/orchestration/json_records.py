"""With --json-logs: log records, Prefect's among them, and what Python itself would write to standard error.

With --quiet: records below WARNING are left out. In plain text both are as they always were.
"""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flows.orchestration.standard_streams import Kind, Output, json_line, write_line

_OURS: Final = ("dicom_ingest", "prefect")


class JsonRecords(logging.Handler):
    """Writes each record as a JSON line. It has a formatter, so that Prefect leaves the root logger to it."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """One line, whatever the message has in it."""
        try:
            line = json_line(_words(record), Kind.LOG, record.levelname.lower(), logger=record.name)
        except Exception:  # noqa: BLE001 - as logging does: a record that can't be said stops nothing
            self.handleError(record)
            return
        write_line(line)


class JsonConsole(JsonRecords):
    """For Prefect's own configuration of logging, in place of its console: of a process that it starts."""

    def __init__(self, **_console: object) -> None:
        super().__init__(logging.INFO)


def _words(record: logging.LogRecord) -> str:
    """Its message; never a traceback, nor what another library says: both may quote a request or a path."""
    if record.name.partition(".")[0] not in _OURS:
        return "A library logged something: what it says may name a patient, and is not repeated."
    kind = record.exc_info[0] if record.exc_info else None
    return f"{record.getMessage()} ({kind.__name__})" if kind else record.getMessage()


@contextmanager
def recorded_in_json(output: Output) -> Iterator[None]:
    """Until the block ends, log records are JSON lines, where that was asked for."""
    if not output.is_json:
        yield
        return
    root, records = logging.getLogger(), JsonRecords(logging.WARNING if output.is_quiet else logging.INFO)
    before, hooks = root.handlers[:], (threading.excepthook, sys.unraisablehook)
    root.handlers[:] = [records]
    logging.captureWarnings(True)
    threading.excepthook = _log_end_of_thread
    sys.unraisablehook = _log_unraisable
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        logging.captureWarnings(False)
        root.handlers[:] = before


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    """Its kind alone: its text may quote a request."""
    name = ended.thread.name if ended.thread else "unknown"
    logging.getLogger("dicom_ingest").error("The thread %s ended: %s", name, ended.exc_type.__name__)


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    kind = unraisable.exc_type.__name__ if unraisable.exc_type else "unknown"
    logging.getLogger("dicom_ingest").error("An exception was ignored: %s", kind)
