"""The picture of a report in README. From the repository's root:

dicom-ingest demo 2>&1 | python -m tests.e2e.report_picture demo/report > deployments/pictures/report.svg
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.terminal_theme import DIMMED_MONOKAI

from tasks.report.reader import read_report

WIDTH = 112
COLUMNS = ("study_no", "file_no", "path", "status", "reason", "key", "sop_instance_uid")
COLOURS = {"uploaded": "green", "duplicate": "green", "not_dicom": "white"}  # others end in exit code 1


def picture(said: list[str], report_dir: Path) -> str:
    """The summary at the terminal, then a row for each status and reason of the report."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    for line in said:
        console.print(line, markup=False)
    console.print("\n[bold]report/report.csv[/], some rows and columns")
    console.print(_rows(report_dir), "")  # fonts may reach below the last line
    svg = console.export_svg(title="dicom-ingest demo", theme=DIMMED_MONOKAI, unique_id="report")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # no font is fetched from anywhere


def _rows(report_dir: Path) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, no_wrap=True, min_width=len(name))
    rows = {(row["status"], row["reason"]): row for row in reversed(list(read_report(report_dir)))}
    for row in sorted(rows.values(), key=lambda row: (int(row["study_no"]), int(row["file_no"]))):
        shown = dict(row, path=f"…/{Path(row['path']).name}", key=_short(row["key"], 20))
        shown["sop_instance_uid"] = _short(row["sop_instance_uid"], 16)
        cells = [shown[name] for name in COLUMNS]
        table.add_row(*cells, style=COLOURS.get(row["status"], "yellow"))
    return table


def _short(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"…{text[1 - chars :]}"


if __name__ == "__main__":
    lines = [re.sub(r"(: ).*(/report/report.csv)", r"\1demo\2", line.rstrip()) for line in sys.stdin]
    starts = [number for number, line in enumerate(lines) if re.match(r"[\d,]+ files: ", line)]
    sys.stdout.write(picture(lines[starts[0] : lines.index("", starts[0])], Path(sys.argv[1])))
