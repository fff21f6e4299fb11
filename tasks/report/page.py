"""A page for people: one HTML file that holds all it needs and asks no network for anything.

A page is made of blocks, each of them `Html`. To make another one, such as a plan's:

    from tasks.report.page import Figure, Section, Tone, facts, figures, prose, remedy, verdict, write_page
    from tasks.report.page_plots import bars, course, stacked
    from tasks.report.page_tables import Column, PackedRows, plain_table, search_table

    with private_file(report_dir, "plan.html") as file:
        write_page(file, "Plan of default", [
            verdict(Tone.ATTENTION, "12 of 300 files would be held back.", "Plan · campaign default"),
            figures([Figure("300", "files"), Figure("1.2 GB", "to send")]),
        ], [
            Section("What needs a person", [remedy("truncated", "12 files", cause, action, command)]),
            Section("Forecast", [facts({"Ends": "27 Nov 2026, 18:40 UTC"})]),
            Section("Studies", [search_table("studies", "Studies", columns, rows.packed(), rows.excerpt)]),
        ])

Text is escaped where it is put into an element, for only `Html` is markup: no path or label can become any.
The Content-Security-Policy permits the page's own script and style by their hashes, and nothing else: no
style attribute, no handler in an attribute, no picture. Numbers come as they are to be read.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from html import escape as escape_markup
from typing import IO, Final

from tasks.core.escape import printable

_EMPTY: Final = frozenset({"br", "input", "meta", "path", "rect", "line", "circle"})
_CODE: Final = re.compile(r"`([^`]+)`")
_OF: Final = re.compile(r"(\d) of (?=\d)")  # no line ends there
_LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]*\)")


class Html(str):
    """Markup. Any other text is escaped where it is put into an element."""

    __slots__ = ()


class Tone(StrEnum):
    """How good the news is; always beside words that say it."""

    GOOD = "good"
    ATTENTION = "attention"
    STOPPED = "stopped"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number in large letters, and what it is of."""

    value: str
    name: str
    note: str = ""
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under a heading; it is in the page's list of contents."""

    title: str
    blocks: Sequence[Html]
    intro: str = ""

    @property
    def anchor(self) -> str:
        """Where links lead to it."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def element(name: str, /, *children: str, **attributes: str | bool | None) -> Html:
    """An element. A child that is no `Html` is text. `class_` is class, `data_x` data-x; None leaves out."""
    said = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    if name in _EMPTY:
        return Html(f"<{name}{said}>" if name in ("br", "input", "meta") else f"<{name}{said}/>")
    return Html(f"<{name}{said}>{''.join(map(markup, children))}</{name}>")


def markup(text: str) -> Html:
    """Text as markup that shows it; bytes that are no text, and what would turn it round, show as `\\xHH`."""
    return text if isinstance(text, Html) else Html(escape_markup(printable(text)))


def rich(text: str) -> Html:
    """A sentence in which `code` stands between backticks; of a link in Markdown its text alone."""
    pieces = _CODE.split(_LINK.sub(r"\1", text))
    return Html(
        "".join(element("code", each) if number % 2 else markup(each) for number, each in enumerate(pieces))
    )


def verdict(tone: Tone, sentence: str, context: str) -> Html:
    """What came of it, in one sentence. First of a page."""
    return element(
        "div",
        element("p", context, class_="context"),
        element("h1", _OF.sub("\\1\u00a0of\u00a0", sentence)),
        class_=f"verdict {tone}",
    )


def figures(each: Iterable[Figure]) -> Html:
    """The totals."""
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", one.name, *([element("span", one.note)] if one.note else [])),
                element("dd", element("b", one.value)),
                class_=f"figure {one.tone}",
            )
            for one in each
        ),
        class_="figures",
    )


def prose(text: str, class_: str | None = None) -> Html:
    """A paragraph, with `code` between backticks."""
    return element("p", rich(text), class_=class_)


def points(each: Iterable[str]) -> Html:
    """A list of sentences."""
    return element("ul", *(element("li", rich(one)) for one in each), class_="points")


def facts(rows: Mapping[str, str], class_: str = "") -> Html:
    """Names and what they are; a value that is `Html` goes in as it is."""
    pairs = (element("div", element("dt", name), element("dd", value or "-")) for name, value in rows.items())
    return element("dl", *pairs, class_=f"facts {class_}".strip())


def remedy(
    title: str,
    count: str,
    cause: str,
    action: str,
    command: str = "",
    more: str = "",
    seen: Html | None = None,
) -> Html:
    """What is wrong with how many, why, what was `seen`, what to do about it, and the command to copy."""
    lines = {"Cause": rich(cause), "Seen": seen, "What to do": rich(action)}
    return element(
        "article",
        element("h3", rich(title), " ", element("span", count, class_="count")),
        element(
            "dl",
            *(
                element("div", element("dt", name), element("dd", said))
                for name, said in lines.items()
                if said
            ),
        ),
        *([copyable(command)] if command else []),
        more,
        class_="remedy",
    )


def copyable(command: str) -> Html:
    """A command, with a button that copies it."""
    label = f"Copy the command: {printable(command)}"
    return element(
        "div",
        element("code", command),
        element("button", "Copy", type="button", hidden=True, aria_label=label, data_copy=True),
        class_="command",
    )


def write_page(file: IO[bytes], title: str, head: Sequence[Html], sections: Sequence[Section]) -> None:
    """Writes the page: `head` first, verdict and totals, then each section that has any block."""
    shown = [section for section in sections if section.blocks]
    links = (element("a", each.title, href=f"#{each.anchor}") for each in shown)
    parts = (
        *("<!doctype html>\n", '<html lang="en">', "<head>", element("meta", charset="utf-8")),
        element("meta", http_equiv="Content-Security-Policy", content=_policy()),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        *("<style>", _asset("page.css"), "</style>", "</head>\n", "<body>"),
        element("a", "To the contents", href="#contents", class_="skip"),
        element("header", *head),
        element("nav", *links, aria_label="Contents"),
        *('<main id="contents" tabindex="-1">', *map(_section, shown), "</main>"),
        *("<script>", _asset("page.js"), "</script>", "</body></html>\n"),
    )
    for part in parts:
        file.write(part.encode())


def _section(section: Section) -> Html:
    intro = [prose(section.intro, "intro")] if section.intro else []
    heading = element("h2", section.title, id=f"{section.anchor}-title")
    return element(
        "section",
        heading,
        *intro,
        *section.blocks,
        id=section.anchor,
        aria_labelledby=f"{section.anchor}-title",
    )


def _attribute(key: str, value: str | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{markup(str(value))}"'


def _policy() -> str:
    script, style = _source("page.js"), _source("page.css")
    return f"default-src 'none'; script-src {script}; style-src {style}; base-uri 'none'; form-action 'none'"


def _source(name: str) -> str:
    digest = hashlib.sha256(_asset(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _asset(name: str) -> str:
    from importlib.resources import files

    return (files("tasks.report") / name).read_text("utf-8")
