"""plan.json: what `plan` said last in this report directory. It stays where it is; a run's summary repeats
the forecast of its own manifest, and of no other.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tasks.ledger.private_files import read_private, require_ours
from tasks.report.directory import private_file

PLAN_JSON: Final = "plan.json"
_MOST_BYTES: Final = 1 << 20


def write_plan(report_dir: Path, plan: Mapping[str, Any]) -> None:
    """In place of an earlier one. StoppedError when the disk is full or the directory can't be written."""
    require_ours(report_dir / PLAN_JSON, f"{PLAN_JSON} in the report directory")
    with private_file(report_dir, PLAN_JSON) as file:
        file.write(json.dumps(plan, indent=2).encode() + b"\n")


def read_forecast(report_dir: Path, manifest_sha256: str) -> dict[str, Any]:
    """The forecast of the last plan of this manifest; empty when there is none that can be read."""
    path = report_dir / PLAN_JSON
    if not manifest_sha256:
        return {}
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size > _MOST_BYTES:
            return {}
        plan = json.loads(read_private(path))
        if isinstance(plan, dict) and plan.get("manifest_sha256") == manifest_sha256:
            forecast = plan.get("forecast")
            return forecast if isinstance(forecast, dict) else {}
    return {}
