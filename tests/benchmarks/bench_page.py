"""report.html: how large, how soon it is there and can be searched, and what it costs a run.

Opened by headless Chromium from the disk, from nothing to the moment at which both tables can be used; the
best of three. A stutter is a long time without a new picture: while somebody scrolls through all studies (of
those times the longest but for one in twenty: on a busy machine any program waits now and then), and while a
word is typed that is searched for in each (the longest).
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tasks.core.models import Summary
from tasks.report import tables
from tasks.report.page_rows import PageRows
from tasks.report.report_page import Certified, PageFacts, page_rows, write_report_page
from tests.benchmarks.archives import scratch
from tests.benchmarks.table import Row
from tests.tasks.report.sample_archive import Archive

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ROUNDS = 3
AT_ONCE = 1000
OF_A_RUN = 100_000  # files

_LOADED = "document.querySelectorAll('.search-table.loaded').length === 2"
# The times between two pictures while it scrolls from the first row to the last, and back.
_SCROLL = """
async () => {
  const scroller = document.querySelector('#studies .scroller');
  const picture = () => new Promise(requestAnimationFrame);
  const waits = [];
  let before = await picture();
  for (let step = 0; step <= 120; step += 1) {
    const share = step <= 60 ? step / 60 : (120 - step) / 60;
    scroller.scrollTop = share * scroller.scrollHeight;
    const now = await picture();
    waits.push(now - before);
    before = now;
  }
  return waits.sort((one, other) => one - other)[Math.floor(waits.length * 0.95)];
}
"""


@dataclass(frozen=True, slots=True)
class Written:
    """A page, and how long the rows and the page itself took."""

    path: Path
    seconds: float


def rows(scale: float) -> Iterator[Row]:
    with scratch() as directory, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for files, studies, bar in ((1_000_000, 10_000, "3 MB"), (1_000_000, 100_000, "12 MB")):
            archive = Archive(max(200, int(files * scale)), max(20, int(studies * scale)))
            page = write(archive, directory / f"{studies}.html").path
            what = f"report.html of {archive.files:,} files, {archive.studies:,} studies"
            yield Row(f"{what}: size", f"{page.stat().st_size / 1e6:.2f} MB", "", None, f"under {bar}")
            opened = min(opening_s(chromium, page) for _ in range(ROUNDS))
            yield Row(f"{what}: opens in", f"{opened:.2f} s", "", None, "under 2 s")
        scrolled, searched = stutters_ms(chromium, page)
        yield Row(f"{what}: wait for a picture, scrolled", f"{scrolled:.0f} ms")
        yield Row(f"{what}: wait for a picture, a word typed", f"{searched:.0f} ms")
        chromium.close()
        yield cost(directory, max(200, int(OF_A_RUN * scale)))


def cost(directory: Path, files: int) -> Row:
    """CPU of the page beside that of the whole report of a run, which writes it."""
    archive = Archive(files, max(1, files // 100))
    began = time.process_time()
    archive.write(directory / "report")
    whole = time.process_time() - began
    page = write(archive, directory / "page.html").seconds
    what = f"report.html of {files:,} files: CPU of a run for it"
    beside = f"the whole report: {whole:.2f} s"
    return Row(what, f"{page:.2f} s", beside, page / whole)


def write(archive: Archive, path: Path) -> Written:
    """The page alone, from rows that are there."""
    facts, page = archive.facts(), page_rows(archive.facts())
    totals = tables.Totals(archive.entries(), {}, page.add_study)
    seconds, source = 0.0, archive.rows()
    while chunk := list(islice(source, AT_ONCE)):
        columns = tables._columns(chunk)
        began = time.process_time()
        page.add(columns)
        seconds += time.process_time() - began
        totals.add(columns)
    totals.close()
    began = time.process_time()
    _write(path, page, tables.summary(facts, totals))
    return Written(path, seconds + time.process_time() - began)


def _write(path: Path, page: PageRows, summary: Summary) -> None:
    with path.open("wb") as file:
        certified = Certified("certificate.json", {"report.csv": "0" * 64})
        write_report_page(file, PageFacts(path.parent, summary, page, [certified]))


def opening_s(chromium: Browser, path: Path) -> float:
    """From nothing to tables that can be used."""
    page = _new_page(chromium)
    began = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_function(_LOADED)
    took = time.perf_counter() - began
    page.context.close()
    return took


def stutters_ms(chromium: Browser, path: Path) -> tuple[float, float]:
    """The wait for a picture while it is scrolled, and while a word is typed."""
    page = _new_page(chromium)
    page.goto(path.as_uri())
    page.wait_for_function(_LOADED)
    scrolled: float = page.evaluate(_SCROLL)
    return scrolled, max(_typed(page, letter) for letter in "krankenhaus")


def _typed(page: Page, letter: str) -> float:
    """From a letter to the rows that it leaves, without the moment that the page waits for another one."""
    took: Any = page.evaluate(
        """async (letter) => {
          const field = document.querySelector('#studies-search');
          const picture = () => new Promise(requestAnimationFrame);
          field.value += letter;
          field.dispatchEvent(new Event('input'));
          let longest = 0, before = await picture();
          for (const until = performance.now() + 400; performance.now() < until;) {
            const now = await picture();
            longest = Math.max(longest, now - before);
            before = now;
          }
          return longest;
        }""",
        letter,
    )
    return float(took)


def _new_page(chromium: Browser) -> Page:
    return chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
