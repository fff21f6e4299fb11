"""Terminal sessions, recorded: what a person sees on one of 200, 80 and 40 columns, frame by frame."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from flows.orchestration.progress_display import bar_with_words
from tests.far_side import TOKEN, Deviation, FarSide, Request, Step, status
from tests.terminal import Session

COLUMNS = (200, 80, 40)
GOOD, PASSED = 40, 8  # of that many so many are stored before the platform is held


@dataclass(frozen=True)
class Scene:
    session: Session
    seen: threading.Event


def failing_once_then_holding(seen: threading.Event) -> Callable[[Request], Deviation | None]:
    def script(request: Request) -> Deviation | None:
        if request.step is Step.PUT and request.n == 1:
            return status(400)
        if request.step is Step.PUT and request.n > PASSED + 1:
            seen.wait(60)
        return None

    return script


@pytest.fixture(scope="module")
def scenes(
    tmp_path_factory: pytest.TempPathFactory, dicom: Callable[..., bytes]
) -> Iterator[dict[int, Scene]]:
    """All are played at once: each takes some seconds."""
    started: dict[int, Scene] = {}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("DICOM_INGEST_") or name.lower().endswith("_proxy"))
    }
    with ExitStack() as stack:
        for columns in COLUMNS:
            study = tmp_path_factory.mktemp("terminal") / "study"
            study.mkdir()
            for number in range(GOOD):
                (study / f"{number:03}").write_bytes(dicom(f"1.{number}"))
            (study / "cut").write_bytes(dicom("1.99")[:-10])
            far_side, seen = stack.enter_context(FarSide()), threading.Event()
            far_side.script = failing_once_then_holding(seen)
            command = [sys.executable, "-m", "flows.cli", "upload", "-p", str(study), "-u", far_side.url]
            session = Session(command, columns, study.parent, kept | {"DICOM_INGEST_TOKEN": TOKEN})
            stack.callback(session.kill)
            stack.callback(seen.set)
            started[columns] = Scene(session, seen)
        yield started


@pytest.mark.processes
@pytest.mark.parametrize("columns", COLUMNS)
def test_a_person_sees_the_upload(columns: int, scenes: dict[int, Scene]) -> None:
    """The bar with its percentage and time, files, bytes, failures, pace, time left and slots: all of it
    while the run is held, whatever the width; a warning stands above it; in the end the bar is gone, the
    result is there and the cursor, too."""
    scene = scenes[columns]
    session = scene.session
    frame = session.shows(
        r"━ \d+ % \d:\d\d:\d\d 10 of 41 files done, [\d.]+ of [\d.]+ KiB, 8 uploaded, 1 failed, 1 held back, "
        r"[\d.]+ files/s, [\d.]+ MiB/s, about \d+ s left, 20 of 20 slots in use$"
    )
    assert "failed: refused" in frame.partition("━")[0], "what is said stands above the bar"
    assert not session.screen.has_cursor
    scene.seen.set()
    assert session.ended() == 1
    text = session.screen.text
    assert session.screen.widest <= columns
    assert session.screen.has_cursor
    assert "━" not in text, "nothing of the bar is left"
    assert "".join(text.split()).count("41files:39uploaded") == 1
    assert "Report:" in text.splitlines()[-1] or columns == 40
    for one in session.frames:
        assert one.count(" % ") <= 1, "one bar at a time"


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_bar_fits_any_width(columns: int) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=columns, color_system=None)
    for total in (None, 0, 10):
        console.print(bar_with_words(3, total, 3661.0, "3 of 10 files done, 1 failed", is_bad=True))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(len(line) for line in lines) <= columns
    assert "30 %" in lines[-2 - (columns == 20)]
    assert "1:01:01" in lines[0]


@pytest.mark.long
@pytest.mark.processes
def test_a_person_sees_the_demo(tmp_path: Path, prefect_home: Path, only_our_settings: None) -> None:
    """Its commands one after another, on one terminal: each with its bar, all gone in the end."""
    command = [sys.executable, "-m", "flows.cli", "demo", "--directory", "new", "--slices", "400"]
    session = Session(command, 80, tmp_path, os.environ | {"PREFECT_HOME": str(prefect_home)})
    try:
        session.shows(r"━ .* of \d+ files done, .* uploaded, ")
        assert session.ended() == 0
    finally:
        session.kill()
    text = session.screen.text
    assert "━" not in text
    assert "Checked: each of the " in text
    assert session.screen.widest <= 80
