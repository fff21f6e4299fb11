"""The rows of `make bench`: what was measured, beside what, and the bar it has to pass."""

from dataclasses import dataclass

HEADINGS = ("what", "ours", "beside", "ratio", "bar")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ratio` is ours to what stands beside it; `bar` as issue and README say it."""

    what: str
    ours: str
    beside: str = ""
    ratio: float | None = None
    bar: str = ""

    def cells(self) -> tuple[str, ...]:
        return (
            self.what,
            self.ours,
            self.beside,
            "" if self.ratio is None else f"{self.ratio:.2f}",
            self.bar,
        )


def markdown(rows: list[Row]) -> str:
    """As README has it."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]

    def written(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([written(lines[0]), rule, *map(written, lines[1:])])
