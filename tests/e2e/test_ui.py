"""A person and a browser: `dicom-ingest serve`, the form in Prefect's UI filled in by hand, the report."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as NotInTimeError

from deployments.sandbox.demo_check import compare
from deployments.sandbox.samples import Planted, build
from deployments.sandbox.sandbox import Sandbox
from flows.backfill import backfill
from flows.orchestration.parameters import Options
from tasks.core.models import EXIT_ONE, OnConflict
from tasks.report.reader import read_report, read_summary
from tests.far_side import TOKEN, FarSide, Step
from tests.served import Served, served

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
# Root in a container, and no traffic but ours.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SLICES = 20
PATIENCE_MS = 120_000
expect.set_options(timeout=PATIENCE_MS)

pytestmark = pytest.mark.skipif(
    not shutil.which("chromium"), reason="needs Chromium: apt-get install chromium"
)


@dataclass(frozen=True, slots=True)
class Site:
    """A far side, an archive, and whoever serves the deployments there."""

    directory: Path
    planted: Planted
    sandbox: Sandbox
    served: Served
    deployment_id: str

    def runs(self) -> int:
        """How many there are of the deployment."""
        of_it = {"deployments": {"id": {"any_": [self.deployment_id]}}}
        counted: int = self.served.asked("POST", "/flow_runs/count", of_it)
        return counted


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    planted = build(directory / "archive", SLICES)
    theirs = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith("DICOM_INGEST_") and not name.lower().endswith("_proxy")
    }
    with Sandbox.start(directory / "sandbox") as sandbox:
        settings = {
            "DICOM_INGEST_API_ENDPOINT": sandbox.api_url,
            "DICOM_INGEST_TOKEN_URL": sandbox.token_url,
            "DICOM_INGEST_CLIENT_ID": sandbox.client_id,
            "DICOM_INGEST_CLIENT_SECRET": sandbox.client_secret,
            "DICOM_INGEST_LEDGER": "elsewhere.sqlite",
        }
        with served(directory, prefect_home, theirs | settings) as serving:
            deployment = serving.asked("GET", "/deployments/name/backfill/manual")
            yield Site(directory, planted, sandbox, serving, deployment["id"])


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """With a profile of its own, of which nothing is kept."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        context = chromium.new_context(viewport={"width": 1280, "height": 800}, timezone_id="UTC")
        context.set_default_timeout(PATIENCE_MS)
        yield context
        chromium.close()


@pytest.fixture
def page(browser: BrowserContext, tmp_path: Path) -> Iterator[Page]:
    """What was last seen on it is kept beside the test's files."""
    page = browser.new_page()
    yield page
    page.screenshot(path=tmp_path / "last.png")
    page.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures are kept: PICTURES, or else with pytest's temporary files."""
    directory = Path(os.environ.get("PICTURES") or tmp_path_factory.getbasetemp() / "pictures")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
def form(page: Page, site: Site) -> Page:
    """The form of the sandbox's worker."""
    return find_form(page, site.served.ui)


def find_form(page: Page, ui: str) -> Page:
    """As a person finds it."""
    page.goto(ui)
    page.get_by_role("link", name="manual", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_role("textbox", name="Manifest").wait_for()
    return page


def number(form: Page, name: str) -> Locator:
    return form.get_by_role("spinbutton", name=name)


def text(form: Page, name: str) -> Locator:
    return form.get_by_role("textbox", name=name)


def submit(form: Page) -> None:
    form.get_by_role("button", name="Submit").click()


class TestTheForm:
    def test_has_a_name_and_a_help_text_for_each_field(self, form: Page) -> None:
        """The flow's parameters and each option; none of them is a secret."""
        headers = form.locator("div:has(> div > label):has(> div > button[aria-haspopup=menu])")
        told = {
            header.locator("label").inner_text().removesuffix(" (Optional)"): header.locator("p").inner_text()
            for header in headers.all()
        }
        assert set(told) == {
            *("Manifest", "API Endpoint", "Report Directory", "API Block", "Options", "Verify"),
            *("Parallel", "Campaign", "Ledger", "Root", "Rehash", "On Conflict", "Min Age"),
            *("Dead After", "Max Outage", "Retries", "Allow Storage Host", "Allow HTTP"),
            *("Same Platform", "Trust Ctime", "Accept", "Archives", "Bandwidth", "Window"),
            *("Max Files", "Max Duration", "Order"),
        }
        assert len(told) == len(backfill.parameters.properties) + len(Options.model_fields)
        assert all(told.values())
        assert [name for name in told if re.search("(?i)token|secret|client|password|key", name)] == []
        assert told["Parallel"].endswith("Default: 20.")

    def test_has_menus_and_switches(self, form: Page) -> None:
        """Where there is a choice nobody has to know the words."""
        form.get_by_role("button", name="Select On Conflict").click()
        assert form.get_by_role("option").all_text_contents() == list(OnConflict)
        form.keyboard.press("Escape")
        for name in ("Rehash", "Allow HTTP"):
            expect(form.get_by_role("switch", name=name)).not_to_be_checked()

    def test_takes_nothing_out_of_bounds(self, form: Page, site: Site) -> None:
        """Whether the browser checks it or the server: no run is made."""
        before = site.runs()
        text(form, "Manifest").fill("archive/manifest.csv")
        for name, wrong in (
            ("Parallel", "21"),
            ("Parallel", "0"),
            ("Min Age", "-1"),
            ("Dead After", "1"),
            ("Max Outage", "-1"),
        ):
            field = number(form, name)
            field.fill(wrong)
            submit(form)
            assert field.evaluate("it => !it.validity.valid && it === document.activeElement"), name
            field.fill("")
        wrong_texts = {
            "Campaign": "Jane Doe",
            "Ledger": "postgresql://user:hidden@host/database",
            "API Endpoint": "https://user:hidden@api.example.org",
        }
        for name, wrong in wrong_texts.items():
            text(form, name).fill(wrong)
        with form.expect_response(re.compile("create_flow_run$")) as answer:
            submit(form)
        assert answer.value.status == 409
        for wrong in wrong_texts.values():
            refusal = form.locator("p").get_by_text(f"'{wrong}' does not match")
            expect(refusal).to_be_visible()
        assert site.runs() == before


def test_a_form_filled_in_by_hand_runs_to_a_true_report(form: Page, site: Site, pictures: Path) -> None:
    """The samples, of which not all can be stored: final state, summary and report say so."""
    text(form, "Manifest").fill("archive/manifest.csv")
    text(form, "Report Directory").fill("report")
    number(form, "Parallel").fill("8")
    text(form, "Campaign").fill("spring")
    form.get_by_role("button", name="Select On Conflict").click()
    form.get_by_role("option", name="report").click()
    expect(form.get_by_role("button", name="Select On Conflict")).to_have_text("report")
    text(form, "Manifest").scroll_into_view_if_needed()
    form.screenshot(path=pictures / "form.png")
    with form.expect_response(re.compile("create_flow_run$")) as answer:
        submit(form)
    run: dict[str, Any] = answer.value.json()
    assert run["parameters"] == {
        "manifest": "archive/manifest.csv",
        "api_endpoint": "",
        "report_dir": "report",
        "api": "",
        "options": {"parallel": 8, "campaign": "spring", "on_conflict": "report"},
        "verify": False,
    }, "what was left empty is left to the settings"

    page = form
    page.locator(f"a[href*='/runs/flow-run/{run['id']}']").first.click()
    page.wait_for_url(f"**/{run['id']}*")
    page.get_by_role("tab", name="Details").click()
    expect(page.get_by_text(message(site.planted))).to_be_visible()
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    expect(page.get_by_text(re.compile(r"^spring 2\d{3}-")).first).to_be_visible()
    summary = read_summary(site.directory / "report")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link", name="backfill-summary").wait_for()
    page.screenshot(path=pictures / "run.png")

    page.get_by_role("link", name="backfill-summary").click()
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    expect(page.get_by_role("heading", name="spring: exit code 1")).to_be_visible()
    for status, count in summary.by_status.items():
        expect(page.get_by_role("row", name=f"{status} {count}", exact=True)).to_be_visible()
    below = page.locator("p").get_by_text("The report is in").bounding_box()
    assert below, "it names a directory of this machine, so it is in no picture"
    page.screenshot(
        path=pictures / "summary.png", clip={"x": 256, "y": 0, "width": 1024, "height": below["y"] - 8}
    )

    page.goto(f"{site.served.ui.removesuffix('/deployments')}/runs/flow-run/{run['id']}")
    expect(page.get_by_text(re.compile("Finished in state Failed"))).to_be_visible()
    assert page.get_by_text("Traceback").count() == 0, "files that fail are no error of the program"

    assert summary.campaign == "spring"
    assert (site.directory / "elsewhere.sqlite").exists()
    bucket = site.sandbox.bucket_dir
    assert bucket is not None
    keys = {path.relative_to(bucket).as_posix() for path in bucket.rglob("*") if path.is_file()}
    rows = read_report(site.directory / "report")
    assert compare(site.planted, rows, site.sandbox.object_path, keys) == []


@pytest.fixture
def slow(far_side: FarSide, new_prefect_home: Callable[[], Path], tmp_path: Path) -> Iterator[Served]:
    """A worker of its own, whose platform takes a second for a PUT."""
    far_side.script = lambda request: time.sleep(1) if request.step is Step.PUT else None
    settings = {"DICOM_INGEST_API_ENDPOINT": far_side.url, "DICOM_INGEST_TOKEN": TOKEN}
    with served(tmp_path, new_prefect_home(), os.environ | settings) as slow:
        yield slow


@pytest.mark.long
def test_a_cancelled_run_shows_no_failure_and_has_the_name_that_was_typed(
    page: Page, site: Site, slow: Served, far_side: FarSide
) -> None:
    """Ended from its menu: no batch is red, and nobody reads a traceback or an error in its logs."""
    form = find_form(page, slow.ui)
    text(form, "Run Name").fill("night-run")
    for name, filled_in in {
        "Manifest": str(site.directory / "archive" / "manifest.csv"),
        "Report Directory": "cancelled",
        "Ledger": "cancelled.sqlite",
    }.items():
        text(form, name).fill(filled_in)
    with form.expect_response(re.compile("create_flow_run$")) as answer:
        submit(form)
    page.goto(f"{slow.ui.removesuffix('/deployments')}/runs/flow-run/{answer.value.json()['id']}")
    assert far_side.wait_for_puts(1, timeout_s=120)
    page.reload()
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    page.locator("button[aria-haspopup=menu]").last.click()
    page.get_by_role("menuitem", name="Cancel").click()
    dialog = page.get_by_role("dialog").or_(page.get_by_role("alertdialog"))
    dialog.get_by_role("button", name="Cancel Flow Run").click()
    expect(page.get_by_text("Cancelled", exact=True).first).to_be_visible()
    expect(page.get_by_text("night-run", exact=True).first).to_be_visible()
    await_log(page, "Finished in state Cancelled")
    expect(page.get_by_text(re.compile("Finished in state Interrupted"))).to_be_visible()
    for alarm in ("Traceback", "Failed", "Crashed", "ERROR", "CRITICAL"):
        assert page.get_by_text(alarm).count() == 0, alarm
    page.get_by_role("tab", name="Task Runs").click()
    expect(page.get_by_text("batch 1", exact=True).first).to_be_visible()
    expect(page.get_by_text("Interrupted", exact=True).first).to_be_visible()
    assert page.get_by_text("Failed", exact=True).count() == 0


def await_log(page: Page, line: str) -> None:
    """Logs come on reload, some time after what they tell of; what follows this line is there, too."""
    until = time.monotonic() + PATIENCE_MS / 1000
    while True:
        time.sleep(3)
        page.reload()
        try:
            page.get_by_text(line).first.wait_for(timeout=5000)
        except NotInTimeError:
            assert time.monotonic() < until, line
        else:
            return


def message(planted: Planted) -> re.Pattern[str]:
    """Of the final state: one of the two in conflict is in a study that is incomplete anyway."""
    outcomes = [expected.status for expected in planted.expected.values()]
    outcomes += [pair.loser for pair in planted.pairs]
    bad = sum(status in EXIT_ONE for status in outcomes)
    files = len(planted.expected) + 2 * len(planted.pairs)
    return re.compile(f"^{bad} of {files} files, [56] studies incomplete, see report$")
