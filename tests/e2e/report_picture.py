"""The picture of a report's page in README. From the repository's root:

dicom-ingest demo && python -m tests.e2e.report_picture demo/report deployments/pictures/report.png
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.e2e.test_report_page import CHROMIUM, FLAGS

ROOM = {"width": 1120, "height": 900}
MARGIN = 8


def take_picture(page_html: Path, picture: Path) -> None:
    """Verdict, totals, and the first of what needs a person."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_context(viewport=ROOM, color_scheme="light").new_page()
        page.goto(page_html.resolve().as_uri())
        page.locator(".search-table.loaded").first.wait_for()
        below = page.locator(".remedy").first.bounding_box()
        assert below is not None
        height = below["y"] + below["height"] + MARGIN
        page.screenshot(
            path=picture, full_page=True, clip={"x": 0, "y": 0, "width": ROOM["width"], "height": height}
        )
        chromium.close()


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]) / "report.html", Path(sys.argv[2]))
