"""A report directory as an auditor sees it, and as somebody changes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.audit.check import audit
from tasks.report.directory import AUDIT_JSONL
from tests.conftest import NearSide


def events(report_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report_dir / AUDIT_JSONL).read_text().splitlines()]


def faults(report_dir: Path) -> str:
    return "\n".join(audit(report_dir).faults)


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


def killed(near_side: NearSide, *, before_its_first_file: bool = False, **options: Any) -> str:
    """A run of which a kill leaves neither an end nor a report, nor a lock; its run_id."""
    engine = near_side.engine(**options)
    if not before_its_first_file:
        for batch_no in engine.plan(engine.scan()):
            engine.upload(batch_no)
    with engine.draining():
        pass
    engine.close()
    return engine.run_id
