"""Tables of a page: a small one as it is, and one of very many rows that is searched, sorted and scrolled.

The rows of a large one are in the page gzipped, column by column, a thousand at a time: 100,000 studies take
two megabytes, and no more memory while they are written. A browser draws those alone that are in view. On
paper, and without script, the excerpt stands in its place.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tasks.core.escape import printable
from tasks.report.page import Html, element

Cell: TypeAlias = str | int | None

_AT_ONCE: Final = 1000
_GZIP: Final = 31  # zlib's word for gzip's header
_MOST_ROWS: Final = 250_000  # a browser scrolls no farther
_EXCERPT: Final = 40


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `kind`: text, number, bytes (of a size), or word (of a few, to choose rows by)."""

    title: str
    kind: str = "text"
    width: str = "m"  # a class of the style sheet: xs, s, m, l
    is_narrow: bool = True  # also where there is little room
    words: dict[str, str] = field(default_factory=dict)  # of kind `word`: what each is called


class PackedRows:
    """Rows as they go into a page, and the first of them that are wanted on paper, too."""

    def __init__(self, columns: Sequence[Column], most: int = _MOST_ROWS) -> None:
        self.columns = columns
        self.count = 0
        self.left_out = 0
        self.excerpt: list[Sequence[Cell]] = []
        self._most = most
        self._zip = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
        self._packed: list[bytes] = []
        self._rows: list[Sequence[Cell]] = []

    def add(self, cells: Sequence[Cell], *, is_in_excerpt: bool = False) -> None:
        """The next row."""
        if is_in_excerpt and len(self.excerpt) < _EXCERPT:
            self.excerpt.append(cells)
        if self.count >= self._most:
            self.left_out += 1
            return
        self.count += 1
        self._rows.append(cells)
        if len(self._rows) >= _AT_ONCE:
            self._pack()

    def packed(self) -> str:
        """All of them, in base64. Nothing is added after."""
        self._pack()
        self._packed.append(self._zip.flush())
        return base64.b64encode(b"".join(self._packed)).decode()

    def _pack(self) -> None:
        if self._rows:
            columns = [list(map(_printable, cells)) for cells in zip(*self._rows, strict=True)]
            text = json.dumps(columns, ensure_ascii=False, separators=(",", ":")) + "\n"
            self._packed.append(self._zip.compress(text.encode()))
            self._rows = []


def search_table(name: str, caption: str, rows: PackedRows, said: str) -> Html:
    """A table of many rows. `said`: what stands below it, such as where all of them are."""
    if not rows.count:
        return Html("")
    counted = element("output", class_="shown", id=f"{name}-shown")
    body = element(
        "table", _head(rows.columns, is_sorted=True), element("tbody"), aria_labelledby=f"{name}-name"
    )
    scroller = element("div", element("div", body, class_="sizer"), class_="scroller")
    return element(
        "div",
        element("div", _search(name), *_choices(name, rows.columns), counted, class_="controls"),
        scroller,
        element("div", class_="detail", role="status"),
        plain_table(caption, rows.columns, rows.excerpt, "excerpt", f"{name}-name"),
        element("p", said, class_="note"),
        element("script", Html(rows.packed()), type="text/plain", data_rows=str(rows.count)),
        class_="search-table",
        data_name=name,
    )


def plain_table(
    caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], class_: str = "", name: str = ""
) -> Html:
    """A table as it is."""
    lines = (
        element("tr", *(_cell(column, cell) for column, cell in zip(columns, row, strict=True)))
        for row in rows
    )
    table = element(
        "table",
        element("caption", caption, id=name or None),
        _head(columns, is_sorted=False),
        element("tbody", *lines),
    )
    return element(
        "div", table, class_=f"plain-table {class_}".strip(), tabindex="0", role="region", aria_label=caption
    )


def _search(name: str) -> Html:
    field_id = f"{name}-search"
    return element(
        "div",
        element("label", "Search", for_=field_id),
        element("input", type="search", id=field_id, autocomplete="off", spellcheck="false"),
    )


def _choices(name: str, columns: Sequence[Column]) -> Iterable[Html]:
    for number, column in enumerate(columns):
        if column.kind != "word":
            continue
        field_id = f"{name}-choice-{number}"
        yield element(
            "div",
            element("label", column.title, for_=field_id),
            element("select", element("option", "all", value=""), id=field_id, data_column=str(number)),
        )


def _head(columns: Sequence[Column], *, is_sorted: bool) -> Html:
    cells = (
        element(
            "th",
            element("button", column.title, type="button") if is_sorted else column.title,
            scope="col",
            class_=_class(column),
            data_kind=column.kind,
            data_words=json.dumps(column.words) if column.words and is_sorted else None,
        )
        for column in columns
    )
    return element("thead", element("tr", *cells))


def _cell(column: Column, cell: Cell) -> Html:
    return element("td", cell_text(column, cell), class_=_class(column))


def cell_text(column: Column, cell: Cell) -> str:
    """A cell as it is read."""
    if cell is None:
        return ""
    if isinstance(cell, int):
        return in_bytes(cell) if column.kind == "bytes" else f"{cell:,}"
    return column.words.get(cell, cell)


def in_bytes(count: float) -> str:
    """A size in three digits, with decimal prefixes."""
    size, units = float(count), iter(("B", "kB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    while size >= 999.5 and unit != "PB":
        size, unit = size / 1000, next(units)
    digits = 0 if unit == "B" or size >= 99.95 else 1
    return f"{size:,.{digits}f} {unit}"


def in_count(count: float) -> str:
    """A number of whole things beside an axis; nothing for half a thing."""
    return f"{count:,.0f}" if count == int(count) else ""


def _printable(cell: Cell) -> Cell:
    return printable(cell) if isinstance(cell, str) else cell


def _class(column: Column) -> str:
    is_number = column.kind in ("number", "bytes")
    names = (f"w-{column.width}", "number" if is_number else "", "" if column.is_narrow else "wide")
    return " ".join(filter(None, names))
