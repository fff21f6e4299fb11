"""What the page shows of a report that was written before: its rows, read back."""

from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tasks.core.models import Summary
from tasks.report.page_rows import ROW_COLUMNS, PageRows
from tasks.report.reader import read_cells

_TIMES: Final = ("started_at", "finished_at")
_ROWS_AT_ONCE: Final = 1000


def verified_rows(report_dir: Path, summary: Summary) -> PageRows:
    """All but the studies, which the verification tells one by one."""
    started_ns, finished_ns = _ns(summary.started_at) or 0, _ns(summary.finished_at) or 0
    rows = PageRows(started_ns, finished_ns, is_verified=True)
    cells = read_cells(report_dir, (*ROW_COLUMNS, *_TIMES))
    while chunk := list(islice(cells, _ROWS_AT_ONCE)):
        columns: dict[str, Any] = dict(zip((*ROW_COLUMNS, *_TIMES), zip(*chunk, strict=True), strict=True))
        for name, time in zip(("started_ns", "finished_ns"), _TIMES, strict=True):
            columns[name] = [_ns(text) for text in columns[time]]
        rows.add(columns)
    return rows


def _ns(text: str) -> int | None:
    """Of a time as the report has it; None for anything else."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1_000_000) * 1000 if text else None
    except ValueError:
        return None
