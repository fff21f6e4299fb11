"""What a plan said of a run, beside what came of it: the rows of a table."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from tasks.core.models import Summary
from tasks.report.page_tables import in_bytes
from tasks.report.page_words import took, when

_RESULT: Final = "result"
_FORECAST: Final = "forecast"
# What a plan may call by another name than summary.json does.
_SAME: Final = {
    "duration_s": "wall_s",
    "ends_at": "finished_at",
    "end_at": "finished_at",
    "slots": "peak_parallel",
}


def forecast_rows(summary: Summary) -> list[tuple[str, str, str]]:
    """Name, forecast and result of each number; names that this version does not know are shown as they are.

    What came of it is under the same name in the forecast's own `result`, or else in the summary.
    """
    forecast = dict(summary.forecast)
    came = forecast.pop(_RESULT, None)
    said = forecast.pop(_FORECAST, None)
    planned = dict(_flat(said if isinstance(said, Mapping) else forecast))
    results = dict(_flat(came)) if isinstance(came, Mapping) else {}
    known = dict(_flat(asdict(summary)))
    rows = []
    for name, value in planned.items():
        result = results.get(name, known.get(_SAME.get(name, name)))
        rows.append((_title(name), _text(name, value), _text(name, result)))
    return rows


def _flat(values: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        full = f"{before} {name}".strip()
        if isinstance(value, Mapping):
            yield from _flat(value, full)
        else:
            yield full, value


def _title(name: str) -> str:
    for unit in ("_s", "_bytes", "_at"):
        name = name.removesuffix(unit) if not name.endswith("per_s") else name
    words = name.replace("_per_s", " a second").replace("_", " ")
    return words[:1].upper() + words[1:]


def _text(name: str, value: Any) -> str:
    """A value as it is read, by the unit in its name."""
    if value is None or value == "":
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(_text(name, each) for each in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return when(str(value)) if name.endswith("_at") else str(value)
    if name.endswith("bytes_per_s"):
        return f"{in_bytes(value)}/s"
    if name.endswith("bytes"):
        return in_bytes(value)
    if name.endswith("_s") and not name.endswith("per_s"):
        return took(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
