"""What a page is made of: markup that no text can become, and a policy that permits the page's own alone."""

import base64
import gzip
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import pytest

from tasks.report.page import (
    Figure,
    Html,
    Section,
    Tone,
    element,
    facts,
    figures,
    remedy,
    rich,
    verdict,
    write_page,
)
from tasks.report.page_plots import Series, ceiling, course, proportions, stacked
from tasks.report.page_tables import Column, PackedRows, in_bytes, search_table

HOSTILE = [
    '</script><script>alert(1)</script>"onload="x',
    "<img src=x onerror=alert(1)>",
    "a\u202egnp.exe\u2066",
    "byte \udcff and \x00 and \x1b[31m",
    "`</code><b>`",
    "[click](javascript:alert(1))",
    "--><!-- ]]> &lt;",
    "' onmouseover='x",
]


class _Elements(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""


def page(*blocks: Html, title: str = "Report") -> str:
    file = io.BytesIO()
    write_page(file, title, [verdict(Tone.GOOD, title, title)], [Section("One", blocks, intro=title)])
    return file.getvalue().decode()


def blocks_with(text: str) -> list[Html]:
    """Every kind of block."""
    rows = PackedRows([Column("Path"), Column("Outcome", "word")])
    rows.add([text, text], is_in_excerpt=True)
    return [
        figures([Figure(text, text, text)]),
        facts({text: text}),
        remedy(text, text, text, text, text),
        search_table("t", text, rows, text),
        course(text, text, Series(text, [1, 2]), [text], lambda _: text),
        stacked(text, text, [Series(text, [1]), Series(text, [2])], [text], lambda _: text),
        proportions(text, [(text, 1, "good")]),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text: str) -> None:
    """A page with it has the elements and attributes that one with a plain word has."""
    plain, hostile = (_Elements(page(*blocks_with(each), title=each)) for each in ("word", text))
    of_code = ("code",)  # which backticks are for
    assert [each for each in hostile.names if each not in of_code] == [
        each for each in plain.names if each not in of_code
    ]
    assert sorted(set(hostile.attributes)) == sorted(set(plain.attributes))
    page(*blocks_with(text), title=text).encode("utf-8")
    assert not re.search("[\u202e\u2066\x00\x1b]", page(*blocks_with(text), title=text))


def test_only_html_is_markup() -> None:
    assert element("p", "<b>", Html("<i></i>"), class_="x", data_at='a"b', hidden=True) == (
        '<p class="x" data-at="a&quot;b" hidden>&lt;b&gt;<i></i></p>'
    )
    assert rich("run `a < b`, see [there](#x)") == "run <code>a &lt; b</code>, see there"


def test_the_policy_permits_its_own_script_and_style_alone() -> None:
    """By the hashes of what stands in it; it has no attribute that such a policy stops."""
    text = page(*blocks_with("word"))
    found = _Elements(text)
    (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    sources = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in (script, style)]
    assert found.policy == (
        f"default-src 'none'; script-src 'sha256-{sources[0]}'; style-src 'sha256-{sources[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not {name for name in found.attributes if name.startswith("on") or name in ("style", "src")}
    assert {"img", "iframe", "link", "object", "form"} & set(found.names) == set()
    assert not re.search(r"url\(|@import|https?://", text)


def test_many_rows_are_packed_and_those_beyond_are_counted() -> None:
    rows = PackedRows([Column("Study", "number"), Column("Path")], most=2500)
    for number in range(3000):
        rows.add([number, f"/archive/{number}"], is_in_excerpt=number % 2 == 0)
    lines = gzip.decompress(base64.b64decode(rows.packed())).decode().splitlines()
    assert [len(json.loads(line)[0]) for line in lines] == [1000, 1000, 500]
    assert json.loads(lines[2])[1][-1] == "/archive/2499"
    assert (rows.count, rows.left_out, len(rows.excerpt)) == (2500, 500, 40)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_960, "100 kB"),
        (999_999, "1.0 MB"),
        (3 * 10**15, "3.0 PB"),
    ],
)
def test_a_size_is_read_in_three_digits(count: int, text: str) -> None:
    assert in_bytes(count) == text


@pytest.mark.parametrize(("most", "end"), [(0, 1), (1, 1), (1.1, 2), (4.9, 5), (51, 100), (0.03, 0.05)])
def test_an_axis_ends_at_a_round_number(most: float, end: float) -> None:
    assert ceiling(most) == pytest.approx(end)
