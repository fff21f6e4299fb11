"""What a person sees while files move: the words, the pace, and when they come."""

import contextvars
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.orchestration.progress_display import bar, show_lines
from flows.orchestration.run_progress import Sampler, Snapshot, sentence
from tasks.core.object_outcomes import ObjectOutcome, ObjectStatus
from tasks.core.platform_state import PlatformState, Step
from tasks.core.progress import OBJECTS, PLANNED, Found, Progress
from tests.far_side import TOKEN, Deviation, FarSide, Request, Script, status
from tests.far_side import Step as Asked
from tests.flows.conftest import Plant

MIB, GIB = 1024**2, 1024**3
NOW = datetime(2026, 3, 1, 14, 0, 30, tzinfo=UTC)
HALF = Snapshot(files_listed=2000, files_done=1000, files_stored=990, files_failed=2, now=NOW, now_s=500.0)
MOVING = replace(HALF, files_per_s=5.0, bytes_per_s=2.5 * 1024 * 1024)
SLOTS = PlatformState(slots=20, slots_in_use=18)
DOWN = PlatformState(
    slots=20,
    slots_withheld=19,
    throttled_since=480,
    failing=Step.PUT,
    failing_since=470,
    is_down=True,
    http_status=503,
    next_try_at=512.4,
)

SENTENCES = [
    (Snapshot(scanning=True), "0 of 0 files done, still listing, 0 uploaded, 0 failed"),
    (Snapshot(files_listed=1, files_done=1, files_stored=1), "1 of 1 file done, 1 uploaded, 0 failed"),
    (HALF, "1,000 of 2,000 files done, 990 uploaded, 2 failed"),
    (replace(HALF, files_held_back=3), "1,000 of 2,000 files done, 990 uploaded, 2 failed, 3 held back"),
    (MOVING, "..., 5 files/s, 2.5 MiB/s, about 4 min left"),
    (replace(MOVING, files_per_s=123.4), "..., 123 files/s, 2.5 MiB/s, about 9 s left"),
    (replace(MOVING, files_per_s=0.043), "..., 0.043 files/s, 2.5 MiB/s, about 6 h 28 min left"),
    (replace(MOVING, files_per_s=0.0), "..., 0 files/s, 2.5 MiB/s"),
    (
        replace(MOVING, files_done=2000),
        "2,000 of 2,000 files done, 990 uploaded, 2 failed, 5 files/s, 2.5 MiB/s",
    ),
    # Time left: of 1,000 small files 200 s, of 3 GiB at 5 MiB/s more, of 3 MiB less.
    (
        replace(MOVING, bytes_listed=4 * GIB, bytes_done=GIB, settled_bytes_per_s=5 * MIB),
        (
            "1,000 of 2,000 files done, 1.0 of 4.0 GiB, 990 uploaded, 2 failed, 5 files/s, 2.5 MiB/s, "
            "about 11 min left"
        ),
    ),
    (
        replace(MOVING, bytes_listed=4 * MIB, bytes_done=MIB, settled_bytes_per_s=5 * MIB),
        (
            "1,000 of 2,000 files done, 1.0 of 4.0 MiB, 990 uploaded, 2 failed, 5 files/s, 2.5 MiB/s, "
            "about 4 min left"
        ),
    ),
    (  # of plan, whose studies are known before their files are
        replace(MOVING, studies_listed=30, studies_done=10, studies_per_s=0.1, scanning=True, nouns=PLANNED),
        (
            "10 of 30 studies, 1,000 of 2,000 files done, still listing, 990 to upload, 2 failed, 5 files/s, "
            "2.5 MiB/s, about 4 min left"
        ),
    ),
    (
        replace(MOVING, studies_listed=30, studies_done=0, nouns=PLANNED),
        "0 of 30 studies, 1,000 of 2,000 files done, 990 to upload, 2 failed, 5 files/s, 2.5 MiB/s",
    ),
    (
        replace(HALF, bytes_listed=700, bytes_done=1),
        "1,000 of 2,000 files done, 1 of 700 bytes, 990 uploaded, 2 failed",
    ),
    (
        replace(MOVING, scanning=True),
        (
            "1,000 of 2,000 files done, still listing, 990 uploaded, 2 failed, 5 files/s, 2.5 MiB/s, "
            "at least 4 min left"
        ),
    ),
    (replace(HALF, waiting_for="upload slots"), "..., waiting for upload slots"),
    (replace(MOVING, waiting_for="upload slots"), "..., waiting for upload slots, 5 files/s, 2.5 MiB/s"),
    (replace(HALF, platform=SLOTS), "..., 18 of 20 slots in use"),
    (
        replace(HALF, platform=replace(SLOTS, rate=20 * 1024**2)),
        "..., 18 of 20 slots in use, at most 20 MiB/s",
    ),
    (replace(HALF, platform=PlatformState(slots=1)), "..., 0 of 1 slot in use"),
    (replace(HALF, platform=PlatformState()), "1,000 of 2,000 files done, 990 uploaded, 2 failed"),
    (
        replace(MOVING, platform=replace(SLOTS, slots_in_use=5, slots_withheld=15, throttled_since=440)),
        (
            "..., 5 files/s, 2.5 MiB/s, about 4 min left, 5 of 20 slots in use, "
            "the platform has been throttling since 13:59:30 UTC: slots reduced from 20 to 5"
        ),
    ),
    (
        replace(HALF, platform=PlatformState(slots=1, throttled_since=440)),
        "..., 0 of 1 slot in use, the platform has been throttling since 13:59:30 UTC",
    ),
    (
        replace(MOVING, platform=DOWN),
        (
            "..., 5 files/s, 2.5 MiB/s, 0 of 20 slots in use, "
            "the object store has been down since 14:00:00 UTC (it answers 503), next try at 14:00:42 UTC"
        ),
    ),
    (
        replace(HALF, platform=replace(DOWN, failing=Step.PRESIGN, http_status=429)),
        (
            "..., 0 of 20 slots in use, the upload API has throttled every request since 14:00:00 UTC "
            "(it answers 429), next try at 14:00:42 UTC"
        ),
    ),
    (
        replace(HALF, platform=replace(DOWN, http_status=None, next_try_at=None)),
        (
            "..., 0 of 20 slots in use, the object store has been down since 14:00:00 UTC (no answer), "
            "a try is under way"
        ),
    ),
    (
        replace(HALF, platform=replace(DOWN, next_try_at=499)),
        (
            "..., 0 of 20 slots in use, the object store has been down since 14:00:00 UTC (it answers 503), "
            "next try now"
        ),
    ),
    (
        replace(HALF, platform=replace(DOWN, is_down=False, throttled_since=None, http_status=500)),
        (
            "..., 0 of 20 slots in use, no request to the object store has worked since 14:00:00 UTC "
            "(it answers 500), next try at 14:00:42 UTC"
        ),
    ),
    (
        replace(HALF, platform=replace(DOWN, failing_since=500 - 86_400)),
        (
            "..., 0 of 20 slots in use, the object store has been down since 2026-02-28 14:00:30 UTC "
            "(it answers 503), next try at 14:00:42 UTC"
        ),
    ),
]


class TestSentence:
    @pytest.mark.parametrize(("seen", "words"), SENTENCES)
    def test_says(self, seen: Snapshot, words: str) -> None:
        """`...`: the counts as they always are."""
        counts = f"{seen.files_done:,} of {seen.files_listed:,} files done, 990 uploaded, 2 failed"
        assert sentence(seen) == words.replace("...", counts)


@dataclass
class Watched:
    """A run by a clock that the test sets."""

    progress: Progress = field(default_factory=Progress)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.progress, lambda: self.now_s, lambda: NOW + timedelta(seconds=self.now_s))

    def moves(self, seconds: int, files_per_s: int) -> Snapshot:
        for _ in range(seconds):
            self.now_s += 1
            self.progress.files_settled += files_per_s
            self.progress.files_done += files_per_s
            self.progress.bytes_stored += 10 * files_per_s
            seen = self.sampler.snapshot()
        return seen


def _drawn(seen: Snapshot, elapsed_s: float) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=100)
    console.print(bar(seen, elapsed_s))


class TestPace:
    def test_is_that_of_the_last_minute(self) -> None:
        """However fast or slow it was before."""
        watched = Watched()
        assert watched.moves(100, files_per_s=50).files_per_s == 50
        assert watched.moves(60, files_per_s=2).files_per_s == pytest.approx(2)
        assert watched.moves(1, files_per_s=2).bytes_per_s == pytest.approx(20)

    def test_is_unknown_until_a_file_is_settled_and_nothing_when_none_is_any_more(self) -> None:
        watched = Watched()
        assert watched.moves(30, files_per_s=0).files_per_s is None
        watched.moves(1, files_per_s=4)
        assert watched.moves(61, files_per_s=0).files_per_s == 0

    def test_counts_no_file_that_was_known_when_it_was_listed(self) -> None:
        """A second run lists a million stored files in seconds: that is no pace for the new ones."""
        watched = Watched()
        watched.progress.files_listed, watched.progress.files_done = 1_000_100, 1_000_000
        seen = watched.moves(10, files_per_s=5)
        assert (seen.files_per_s, seen.files_done) == (5, 1_000_050)

    def test_begins_anew_when_a_shard_counts_anew(self) -> None:
        """One that was started again: the sum of all falls, and no pace is negative."""
        watched = Watched()
        watched.moves(10, files_per_s=5)
        watched.progress.files_settled = 20
        assert watched.moves(1, files_per_s=3).files_per_s is None
        assert watched.moves(5, files_per_s=3).files_per_s == 3

    def test_keeps_one_sample_a_second_however_often_it_is_asked(self) -> None:
        watched = Watched()
        for _ in range(1000):
            watched.now_s += 0.2
            watched.sampler.snapshot()
        assert len(watched.sampler.samples) < 70

    def test_is_none_of_a_run_that_is_over(self) -> None:
        """Nor is a slot in use, or a next try to come."""
        watched = Watched()
        watched.progress.platform = lambda: DOWN
        assert watched.moves(5, files_per_s=5).platform == DOWN
        assert sentence(watched.sampler.counts()) == "25 of 25 files done, 0 uploaded, 0 failed"


@pytest.mark.parametrize(("draw", "per_s"), [(sentence, 1), (partial(_drawn, elapsed_s=75.0), 2)])
def test_showing_it_takes_less_than_2_percent_of_a_core(
    draw: Callable[[Snapshot], object], per_s: int
) -> None:
    """As often as it is done: a line is thought of each second, a bar drawn twice."""
    watched = Watched()
    began_s = time.thread_time()
    for _ in range(100):
        watched.now_s += 1 / per_s
        draw(watched.sampler.snapshot())
    assert (time.thread_time() - began_s) / 100 * per_s < 0.02


class Ticking(threading.Event):
    """An event that never comes, until so many seconds are waited for: by a clock of its own."""

    def __init__(self, seconds: float, look: Callable[[float], None]) -> None:
        super().__init__()
        self.now_s = 0.0
        self._until_s = seconds
        self._look = look

    def wait(self, timeout: float | None = None) -> bool:
        self._look(self.now_s)
        self.now_s += timeout or 0
        return self.now_s > self._until_s


def test_a_line_comes_within_five_seconds_then_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    at: list[float] = []
    ticking = Ticking(100, lambda now_s: at.extend([now_s] * capsys.readouterr().err.count("files done")))
    show_lines(Progress(), ticking, lambda: ticking.now_s)
    assert at[0] <= 5
    assert [later - earlier for earlier, later in pairwise(at)] == [30, 30, 30]


# -- through the commands --------------------------------------------------------------------------------


class Held:
    """A run of `upload` whose platform does as a script says until the test has seen what it waits for."""

    def __init__(self, far_side: FarSide, study: Path, *, terminal: bool = False) -> None:
        self.far_side = far_side
        ours, theirs = pty.openpty() if terminal else os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "upload", "-p", str(study), "-u", far_side.url],
            cwd=study.parent,
            env=os.environ | {"DICOM_INGEST_TOKEN": TOKEN, "COLUMNS": "400", "TERM": "xterm"},
            stderr=theirs,
        )
        os.close(theirs)
        self._err = ours
        self._text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._err, 65536)
            except OSError:  # of a terminal whose other side is closed
                return
            if not piece:
                return
            self._text += piece.decode()

    def says(self, pattern: str) -> "re.Match[str]":
        """The first that is said so; the run is still held then."""
        until = time.monotonic() + 60
        while not (found := re.search(pattern, self._text)):
            assert time.monotonic() < until, self._text
            time.sleep(0.05)
        assert self._process.poll() is None, "it is told while it runs"
        return found

    def ended(self) -> tuple[int, str]:
        code = self._process.wait(240)
        self._reader.join(10)
        return code, self._text

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        os.close(self._err)


def holding(seen: threading.Event) -> Script:
    """The first ten PUTs work at once, the others wait."""

    def script(request: Request) -> None:
        if request.step is Asked.PUT and request.n > 10:
            seen.wait(60)

    return script


def failing(step: Asked, deviation: Deviation, seen: threading.Event) -> Script:
    return lambda request: None if seen.is_set() or request.step != step else deviation


def throttling_once(seen: threading.Event) -> Script:
    """One PUT of many is refused; the others wait."""

    def script(request: Request) -> Deviation | None:
        if request.step is not Asked.PUT or seen.is_set():
            return None
        if request.n == 1:
            return status(429, retry_after="2")
        seen.wait(60)
        return None

    return script


TIME = r"\d\d:\d\d:\d\d UTC"
NEXT_TRY = rf"(next try at {TIME}|next try now|a try is under way)"


@dataclass(frozen=True)
class Play:
    """What the platform does until the test has seen what is said."""

    script: Callable[[threading.Event], Script]
    words: str
    files: int = 40
    on_terminal: bool = False


PLAYS = {
    "slow": Play(
        holding,
        r"10 of 40 files done, [\d.]+ of [\d.]+ KiB, 10 uploaded, 0 failed, [\d.]+ files/s, [\d.]+ MiB/s, "
        r"about \d+ s left, 20 of 20 slots in use",
    ),
    "down": Play(
        partial(failing, Asked.PUT, status(503)),
        rf"0 of 40 files done, 0.0 of [\d.]+ KiB, 0 uploaded, 0 failed, \d+ of 20 slots in use, "
        rf"the object store has been down since {TIME} \(it answers 503\), {NEXT_TRY}",
    ),
    "throttling": Play(
        partial(failing, Asked.PRESIGN, status(429, retry_after="3")),
        rf"0 of 20 slots in use, the upload API has throttled every request since {TIME} "
        rf"\(it answers 429\), {NEXT_TRY}",
    ),
    "throttling now and then": Play(
        throttling_once,
        rf"\d+ of 20 slots in use, the platform has been throttling since {TIME}: "
        rf"slots reduced from 20 to 10",
    ),
    "throttling one file": Play(  # of which the platform is not said to be down
        partial(failing, Asked.PUT, status(429, retry_after="6")),
        rf"0 of 1 file done, .* slots reduced from 20 to \d+, "
        rf"no request to the object store has worked since {TIME} \(it answers 429\), next try at {TIME}",
        files=1,
    ),
}
PLAYS["a terminal"] = replace(PLAYS["slow"], on_terminal=True)


@dataclass(frozen=True)
class Scene:
    run: Held
    seen: threading.Event
    words: str


@pytest.fixture(scope="module")
def scenes(
    tmp_path_factory: pytest.TempPathFactory, dicom: Callable[..., bytes]
) -> Iterator[dict[str, Scene]]:
    started: dict[str, Scene] = {}
    with ExitStack() as stack, pytest.MonkeyPatch.context() as monkeypatch:
        for name in list(os.environ):
            if name.startswith("DICOM_INGEST_") or name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)
        for name, play in PLAYS.items():
            study = tmp_path_factory.mktemp("scene") / "study"
            study.mkdir()
            for number in range(play.files):
                (study / f"{number:03}").write_bytes(dicom(f"1.{number}"))
            far_side, seen = stack.enter_context(FarSide()), threading.Event()
            far_side.script = play.script(seen)
            run = Held(far_side, study, terminal=play.on_terminal)
            stack.callback(run.kill)
            stack.callback(seen.set)
            started[name] = Scene(run, seen, play.words)
        yield started


class TestWhileItRuns:
    """The scenes are played all at once, for each takes some seconds."""

    @pytest.mark.parametrize("name", PLAYS)
    def test_it_says(self, scenes: dict[str, Scene], name: str) -> None:
        """In the first line, long before half a minute is over; the run is held until then and ends well."""
        scene = scenes[name]
        scene.run.says(scene.words)
        scene.seen.set()
        code, err = scene.run.ended()
        assert code == 0, err
        assert "Traceback" not in err


@pytest.mark.usefixtures("prefect_server")
def test_the_artifact_in_the_ui_says_the_same(
    tmp_path: Path, plant: Plant, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the run is held; in the end the counts alone."""
    from prefect.client.orchestration import get_client

    from flows.backfill import backfill
    from flows.orchestration.artifacts import publish_progress

    often = partial(publish_progress, every_s=0.2)
    monkeypatch.setattr("flows.orchestration.lifecycle.publish_progress", often)
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    plant(tmp_path / "study", 40)
    (tmp_path / "manifest.csv").write_text("study_dir\nstudy\n")
    seen, told = threading.Event(), list[str]()

    def descriptions() -> list[str]:
        with get_client(sync_client=True) as client:
            answer: Any = client.request(
                "POST",
                "/artifacts/filter",
                json={
                    "artifacts": {"key": {"any_": ["backfill-progress"]}},
                    "sort": "CREATED_DESC",
                    "limit": 1,
                },
            )
        return [str(each["description"]) for each in answer.json()]

    def look() -> None:
        until = time.monotonic() + 60
        while not seen.is_set() and time.monotonic() < until:
            told.extend(text for text in descriptions() if re.fullmatch(PLAYS["slow"].words, text))
            if told:
                seen.set()
            time.sleep(0.1)

    far_side.script = holding(seen)
    context = contextvars.copy_context()  # of the harness
    looking = threading.Thread(target=context.run, args=(look,))
    looking.start()
    state = backfill(
        manifest=str(tmp_path / "manifest.csv"),
        report_dir=str(tmp_path / "report"),
        api_endpoint=far_side.url,
        return_state=True,
    )
    looking.join()
    assert state.is_completed()
    assert told
    (last,) = descriptions()
    assert re.fullmatch(r"40 of 40 files done, ([\d.]+) of \1 KiB, 40 uploaded, 0 failed", last)


def test_a_run_of_ingest_speaks_of_objects() -> None:
    progress = Progress(nouns=OBJECTS, scanning=False)
    progress.count_listed(Found(3, 3, 21, 21))
    for became in (ObjectStatus.REGISTERED, ObjectStatus.QUARANTINED, ObjectStatus.FAILED):
        progress.count_object(ObjectOutcome(status=became, size_bytes=7))
    said = sentence(Sampler(progress).counts())
    assert said == "3 of 3 objects done, 21 of 21 bytes, 1 registered, 1 failed, 1 held back"
    assert progress.bytes_stored == 7
