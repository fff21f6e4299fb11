"""A report directory as an auditor sees it, and as somebody changes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.audit.check import audit
from tasks.audit.log import AUDIT_JSONL


def events(report_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report_dir / AUDIT_JSONL).read_text().splitlines()]


def faults(report_dir: Path) -> str:
    return "\n".join(audit(report_dir).faults)


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
