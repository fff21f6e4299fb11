"""Workbooks of Excel's, read back without a library of its own: what each cell holds, and as what."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET
from zipfile import ZipFile

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_PLACE = re.compile(r"([A-Z]+)(\d+)")
Cell = str | float


def sheets(path: Path) -> dict[str, list[dict[str, Cell]]]:
    """Of each sheet, by its name, the rows: text as str, numbers as float, by the names in the header."""
    with ZipFile(path) as book:
        names = [
            each.attrib["name"] for each in ET.fromstring(book.read("xl/workbook.xml")).iter(f"{_MAIN}sheet")
        ]
        grids = [_grid(book.read(f"xl/worksheets/sheet{number}.xml")) for number, _ in enumerate(names, 1)]
    return {name: _rows(grid) for name, grid in zip(names, grids, strict=True)}


def _rows(grid: dict[int, dict[str, Cell]]) -> list[dict[str, Cell]]:
    header = grid.pop(1)
    return [{str(header[column]): cell for column, cell in row.items()} for row in grid.values()]


def _grid(xml: bytes) -> dict[int, dict[str, Cell]]:
    found: dict[int, dict[str, Cell]] = {}
    for cell in ET.fromstring(xml).iter(f"{_MAIN}c"):
        place = _PLACE.fullmatch(cell.attrib["r"])
        assert place
        assert cell.find(f"{_MAIN}f") is None, "a formula"
        found.setdefault(int(place[2]), {})[place[1]] = _value(cell)
    return found


def _value(cell: ET.Element) -> Cell:
    if cell.get("t") == "inlineStr":
        return _decoded("".join(each.text or "" for each in cell.iter(f"{_MAIN}t")))
    assert cell.get("t") is None
    return float(cell.findtext(f"{_MAIN}v") or "")


def _decoded(text: str) -> str:
    return re.sub(r"_x([0-9A-Fa-f]{4})_", lambda match: chr(int(match[1], 16)), text)
