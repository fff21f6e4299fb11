"""Plots of a page: small SVG, drawn here. Their words are HTML beside them, so that these never shrink.

Each has its values in words for whoever can't see it, and colours by classes of the style sheet.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.report.page import Html, element

_HEIGHT: Final = 100.0
_MOST_GAPS: Final = 60  # bars that stand apart
_STEPS: Final = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one kind. `class_` is its colour: a, b, c, good, attention, stopped, none."""

    name: str
    values: Sequence[float]
    class_: str = "a"


def course(
    title: str,
    said: str,
    series: Series,
    ticks: Sequence[str],
    value_text: Callable[[float], str],
    *,
    is_stepped: bool = False,
) -> Html:
    """One value over time, as an area. `ticks`: what stands below it, from its beginning to its end."""
    values = series.values
    if not values:
        return Html("")
    top = ceiling(max(values))
    points = _steps(values, top) if is_stepped else _peaks(values, top)
    line = " ".join(f"{'L' if number else 'M'}{x:.4g} {y:.4g}" for number, (x, y) in enumerate(points))
    width = points[-1][0]
    area = f"{line} L{width:.4g} {_HEIGHT:g} L0 {_HEIGHT:g} Z"
    shapes = [
        element("path", d=area, class_=f"area {series.class_}"),
        element("path", d=line, class_=f"line {series.class_}"),
    ]
    return _figure(title, said, _canvas(shapes, width, _levels(top, value_text), said), _ticks(ticks))


def stacked(
    title: str,
    said: str,
    series: Sequence[Series],
    ticks: Sequence[str],
    value_text: Callable[[float], str],
    *,
    is_labelled: bool = False,
) -> Html:
    """Bars, one upon another. `is_labelled`: each has its tick; else these are of the first to the last."""
    count = max((len(each.values) for each in series), default=0)
    if not count:
        return Html("")
    top = ceiling(max(sum(each.values[number] for each in series) for number in range(count)))
    gap = 0.16 if count <= _MOST_GAPS else 0.0
    base, shapes = [0.0] * count, []
    for each in series:
        bars = []
        for number, value in enumerate(each.values):
            if value:
                y, height = _y(base[number] + value, top), _HEIGHT * value / top
                bars.append(f"M{number + gap / 2:g} {y:.4g}h{1 - gap:g}v{height:.4g}h{gap - 1:g}z")
                base[number] += value
        if bars:
            shapes.append(element("path", d="".join(bars), class_=f"bar {each.class_}"))
    key = [_key(series)] if len(series) > 1 else []
    below = _ticks(ticks, "labels" if is_labelled else "")
    return _figure(title, said, *key, _canvas(shapes, count, _levels(top, value_text), said), below)


def proportions(title: str, parts: Sequence[tuple[str, int, str]]) -> Html:
    """One bar of parts, each with name, number and class; the names stand below with their numbers."""
    total = sum(count for _, count, _ in parts)
    if not total:
        return Html("")
    shapes, x = [], 0.0
    for _, count, class_ in parts:
        width = 1000 * count / total
        shapes.append(
            element("rect", x=f"{x:.5g}", y="0", width=f"{width:.5g}", height="10", class_=f"bar {class_}")
        )
        x += width
    words = ", ".join(f"{count:,} {name}" for name, count, _ in parts)
    drawing = _svg(shapes, "0 0 1000 10", f"{title}: {words}")
    entries = (
        element(
            "li",
            _swatch(class_),
            element("b", f"{count:,}"),
            f" {name}",
            element("span", _share(count, total)),
        )
        for name, count, class_ in parts
    )
    return element("figure", drawing, element("ul", *entries, class_="legend"), class_="proportions")


def time_ticks(started_s: float, wall_s: float, text: Callable[[float], str], count: int = 5) -> list[str]:
    """What stands below a course of `wall_s`, which began at `started_s`."""
    return [text(started_s + wall_s * number / (count - 1)) for number in range(count)]


def ceiling(most: float) -> float:
    """The next round number: where an axis ends."""
    if most <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(most))
    return next(step * unit for step in _STEPS if step * unit >= most * 0.999999)


def _figure(title: str, said: str, *parts: Html) -> Html:
    caption = element("figcaption", element("b", title), element("span", said))
    return element("figure", caption, *parts, class_="plot")


def _canvas(shapes: Sequence[Html], width: float, levels: Sequence[Html], said: str) -> Html:
    grid = element("path", d=f"M0 0H{width:g}M0 50H{width:g}M0 100H{width:g}", class_="grid")
    drawing = _svg([grid, *shapes], f"0 0 {width:g} {_HEIGHT:g}", said)
    return element(
        "div", element("div", *levels, class_="levels", aria_hidden="true"), drawing, class_="canvas"
    )


def _svg(shapes: Sequence[Html], box: str, said: str) -> Html:
    return element("svg", *shapes, viewBox=box, preserveAspectRatio="none", role="img", aria_label=said)


def _levels(top: float, text: Callable[[float], str]) -> list[Html]:
    return [element("span", text(level)) for level in (top, top / 2, 0.0)]


def _ticks(ticks: Sequence[str], class_: str = "") -> Html:
    return element("div", *(element("span", each) for each in ticks), class_=f"ticks {class_}".strip())


def _key(series: Sequence[Series]) -> Html:
    entries = (element("li", _swatch(each.class_), each.name) for each in series)
    return element("ul", *entries, class_="key")


def _swatch(class_: str) -> Html:
    return element("span", class_=f"swatch {class_}", aria_hidden="true")


def _share(count: int, total: int) -> str:
    share = 100 * count / total
    if 0 < share < 0.1:
        return "< 0.1 %"
    return "100 %" if count == total else f"{min(share, 99.9):.1f} %"


def _y(value: float, top: float) -> float:
    return _HEIGHT * (1 - value / top)


def _peaks(values: Sequence[float], top: float) -> list[tuple[float, float]]:
    points = [(number + 0.5, _y(value, top)) for number, value in enumerate(values)]
    return [(0.0, points[0][1]), *points, (float(len(values)), points[-1][1])]


def _steps(values: Sequence[float], top: float) -> list[tuple[float, float]]:
    return [(float(number + side), _y(value, top)) for number, value in enumerate(values) for side in (0, 1)]
