"""The report's page as people see it: in a browser, by the keyboard, on paper, and as axe-core judges it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tasks.core.verification_totals import Verification
from tasks.plan_settings import PlanSettings
from tasks.report.page_rows import ROW_COLUMNS, PageRows
from tasks.report.report_page import Certified, PageFacts, write_report_page
from tasks.run.planning import plan
from tests.conftest import Dicom, NearSide
from tests.tasks.report.sample_archive import FORECAST, Archive, verification
from tests.tasks.report.test_page import HOSTILE

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
AXE = "axe-core@4.14.1"
PATIENCE_MS = 60_000
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
expect.set_options(timeout=PATIENCE_MS)

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an archive of which some is not stored; it was planned."""
    report_dir = tmp_path_factory.mktemp("report")
    Archive(7200, 240).write(report_dir)
    return report_dir / "report.html"


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all that one may have, and names that were made to do harm."""
    report_dir = tmp_path_factory.mktemp("verified")
    archive = Archive(720, 24)
    summary = replace(archive.write(report_dir), forecast=FORECAST, accepted=2, problems=HOSTILE)
    found = verification(summary)
    page = report_dir / "verified.html"
    with page.open("wb") as file:
        certified = Certified("verification-certificate.json", {"studies.csv": "0" * 64})
        write_report_page(
            file, PageFacts(report_dir, summary, hostile_rows(archive, found), [certified], found)
        )
    return page


def hostile_rows(archive: Archive, found: Verification) -> PageRows:
    facts = archive.facts()
    rows = PageRows(facts.started_ns, facts.finished_ns, is_verified=True)
    for number, text in enumerate(HOSTILE, 1):
        row = (number, 1, "failed", "refused", text, text, text, 1000)
        columns = {name: [cell] for name, cell in zip(ROW_COLUMNS, row, strict=True)}
        rows.add(columns | {"started_ns": [facts.started_ns], "finished_ns": [facts.finished_ns]})
        cells = dict.fromkeys(("files", "stored", "failed", "expected", "bytes", "overlaps"), "1")
        texts = dict.fromkeys(("study_dir", "label", "modalities", "why"), text)
        verdict = {"registered": "1", "confirmed": "1", "safe_to_delete": "no", "complete": "false"}
        rows.add_verified_study({"study_no": str(number), **cells, **texts, **verdict})
    return rows


@contextmanager
def opened(browser: Browser, path: Path, wait: bool = True, **options: object) -> Iterator[Page]:
    """The page; whatever it wants from a network, and whatever the browser complains of, is a fault."""
    faults: list[str] = []
    context = browser.new_context(**{"viewport": WIDE, **options})  # type: ignore[arg-type]
    page = context.new_page()
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("request", lambda asked: faults.append(asked.url) if asked.url != path.as_uri() else None)
    page.goto(path.as_uri())
    if wait:
        expect(page.locator(".search-table.loaded")).to_have_count(2)
    yield page
    context.close()
    assert faults == []


def studies(page: Page) -> list[str]:
    return page.locator("#studies .scroller tbody th").all_inner_texts()


class TestThePage:
    def test_says_first_what_came_of_it(self, browser: Browser, report: Path) -> None:
        """One heading of the first rank, then totals, then the sections, each of them linked."""
        with opened(browser, report) as page:
            heading = page.locator("h1").inner_text().replace("\u00a0", " ")
            assert heading == "8 of 7,200 files are not stored; 13 of 240 studies are not complete."
            titles = page.locator("main h2").all_inner_texts()
            assert page.locator("nav a").all_inner_texts() == titles
            assert titles[0] == "What needs a person"
            assert page.locator(".plot").count() == 5

    def test_searches_sorts_and_chooses(self, browser: Browser, report: Path) -> None:
        with opened(browser, report) as page:
            search = page.locator("#studies-search")
            search.fill("krankenhaus a-000046")
            expect(page.locator("#studies-shown")).to_have_text("1 of 240 rows")
            assert studies(page) == ["46"]
            search.fill("")
            expect(page.locator("#studies-shown")).to_have_text("240 rows")
            for _ in range(2):
                page.get_by_role("button", name="Failed", exact=True).click(timeout=PATIENCE_MS)
            failed = page.locator("#studies .scroller tbody tr td:nth-child(7)").all_inner_texts()
            assert failed == sorted(failed, key=int, reverse=True)
            assert int(failed[0]) > 0
            page.get_by_role("link", name="Show the studies").click()
            outcomes = page.locator("#studies .scroller tbody tr td:nth-child(4)").all_inner_texts()
            assert set(outcomes) == {"not complete"}
            page.get_by_role("link", name="Show the files").first.click()
            expect(page.locator("#files-shown")).to_contain_text(" of ")
            statuses = page.locator(
                "#files-that-are-not-fine .scroller tbody tr td:nth-child(3)"
            ).all_inner_texts()
            assert len(set(statuses)) == 1

    def test_is_used_by_the_keyboard_alone(self, browser: Browser, report: Path) -> None:
        """Each link, field and button is reached by Tab; of a table's rows one, the others by arrows."""
        with opened(browser, report) as page:
            reached = []
            for _ in range(200):
                page.keyboard.press("Tab")
                what = page.evaluate(
                    "(() => { const on = document.activeElement; if (on === document.body) return '';"
                    "return on.id || on.getAttribute('aria-label') || on.textContent; })()"
                )
                if not what or (reached and what == reached[0]):
                    break
                reached.append(what)
            expected = {"To the contents", "Studies", "studies-search", "files-search", "1", "studies.csv"}
            assert expected <= set(reached)
            assert any(each.startswith("Copy the command: dicom-ingest retry ") for each in reached)
            assert "2" not in reached
            page.locator("#studies .scroller tbody button").first.focus()
            for key in ("ArrowDown", "End"):
                page.keyboard.press(key)
            page.keyboard.press("Enter")
            expect(page.locator("#studies .detail")).to_contain_text("A-000240")

    def test_copies_a_command(self, browser: Browser, report: Path) -> None:
        with opened(browser, report, permissions=["clipboard-read", "clipboard-write"]) as page:
            button = page.locator("button[data-copy]").first
            command = button.locator("xpath=preceding-sibling::code").inner_text()
            assert command.startswith("dicom-ingest retry ")
            button.click()
            expect(button).to_have_text("Copied")
            assert page.evaluate("navigator.clipboard.readText()") == command

    def test_shows_names_that_were_made_to_do_harm_as_text(self, browser: Browser, verified: Path) -> None:
        """Nothing of them runs; the page has what it has without them."""
        with opened(browser, verified) as page:
            expect(page.locator("#files-shown")).to_have_text(f"{len(HOSTILE)} rows")
            assert page.locator("img, iframe, main b:not(dd b, figcaption b, .legend b)").count() == 0
            paths = page.locator(
                "#files-that-are-not-fine .scroller tbody tr td:nth-child(6)"
            ).all_inner_texts()
            assert HOSTILE[0] in paths
            assert "a\\xe2\\x80\\xaegnp.exe\\xe2\\x81\\xa6" in paths
            titles = page.locator("main h2").all_inner_texts()
            assert {"Bucket and registry", "Forecast and result"} <= set(titles)
            assert "dicom-ingest ingest --keys" in page.locator("#bucket-and-registry").inner_text()

    def test_of_very_many_studies_draws_those_in_view(self, browser: Browser, tmp_path: Path) -> None:
        """The last one is an End away."""
        Archive(20_000, 20_000).write(tmp_path)
        with opened(browser, tmp_path / "report.html") as page:
            page.locator("#studies .scroller tbody button").first.focus()
            page.keyboard.press("End")
            expect(page.locator("#studies .scroller tbody")).to_contain_text("A-020000")
            assert page.locator("#studies .scroller tbody tr").count() < 60

    def test_without_script_shows_the_studies_that_are_not_complete(
        self, browser: Browser, report: Path
    ) -> None:
        """As does a browser that is too old."""
        with opened(browser, report, wait=False, java_script_enabled=False) as page:
            expect(page.locator("#studies .excerpt tbody tr")).to_have_count(13)
            expect(page.locator("#studies .excerpt")).to_be_visible()
            assert page.locator("#studies .controls").is_hidden()
            assert page.locator("button[data-copy]").first.is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("room", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing(
    browser: Browser, verified: Path, axe: str, room: dict[str, int], scheme: str
) -> None:
    """Contrast, names, roles, order: on a page that has everything."""
    with opened(browser, verified, viewport=room, color_scheme=scheme) as page:
        page.locator("#studies .scroller tbody button").first.click()
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_plan(
    browser: Browser, tmp_path: Path, near_side: NearSide, dicom: Dicom, axe: str, scheme: str
) -> None:
    """That has files which would not be stored, notes, and a forecast."""
    near_side.put("a/1.dcm", dicom("1.2.1"))
    near_side.put("a/cut.dcm", dicom("1.2.2")[:-60])
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"study_dir\n{near_side.archive}/a\n{near_side.archive}/gone\n")
    plan(manifest, near_side.settings(), PlanSettings(full=True))
    with opened(browser, near_side.report_dir / "plan.html", wait=False, color_scheme=scheme) as page:
        heading = page.locator("h1").inner_text().replace("\u00a0", " ")
        assert heading == "2 of 3 files would not be stored: exit code 1."
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []


@pytest.fixture(scope="module")
def axe(request: pytest.FixtureRequest) -> str:
    """Its source; it is installed once for all runs of the tests."""
    if not shutil.which("npm"):
        pytest.skip("no npm: install Node.js")
    directory = Path(request.config.cache.mkdir("npm-axe"))  # type: ignore[union-attr]
    source = directory / "node_modules" / "axe-core" / "axe.min.js"
    if not source.is_file():
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(directory)]
        if subprocess.run(["npm", "install", *options, AXE], capture_output=True).returncode:
            pytest.skip("npm reaches no registry that has axe-core")
    return source.read_text("utf-8")


@pytest.mark.parametrize("look", ["wide", "narrow", "dark", "print"])
def test_pictures_are_taken(
    browser: Browser, report: Path, look: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """To be looked at: PICTURES names where they are kept, else with pytest's temporary files."""
    directory = Path(os.environ.get("PICTURES") or tmp_path_factory.getbasetemp() / "pictures")
    directory.mkdir(parents=True, exist_ok=True)
    scheme = "dark" if look == "dark" else "light"
    with opened(browser, report, viewport=NARROW if look == "narrow" else WIDE, color_scheme=scheme) as page:
        if look == "print":
            page.pdf(path=directory / "report-print.pdf", format="A4")
            page.emulate_media(media="print")
            assert page.locator("#studies .excerpt").is_visible()
            assert page.locator("nav").is_hidden()
        page.screenshot(path=directory / f"report-{look}.png", full_page=True)
