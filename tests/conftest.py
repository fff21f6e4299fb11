"""What many tests share: a far side that follows a script, and a near side that sends an archive to it.

Besides, what takes long to start: a sandbox, PostgreSQL, Prefect. Several workers run tests at the same time,
each with its own; a home of Prefect with a database that is ready is made once for all of them.
"""

import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from deployments.sandbox.sandbox import Sandbox
from tasks.core.models import StudyEntry, Summary
from tasks.report.reader import read_report
from tasks.run.early_end import early_end
from tasks.run.edges import Edges
from tasks.run.engine import Engine, ingest
from tasks.settings import Settings, load
from tests.databases import PostgreSQL, server
from tests.far_side import TOKEN, FarSide, Request, Step
from tests.prefect_server import make_ready_home

Row = dict[str, str]
MIB = 1024 * 1024

# A shell ignores SIGINT for what it runs in the background; what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Whoever has one of these has processes beside him.
_STARTING = {"postgresql", "sandbox", "new_prefect_home", "new_archive", "browser"}
_quick: str | None = None  # the test that runs, when it may start none


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test-fast` leaves out what takes its time."""
    for item in items:
        if isinstance(item, pytest.Function):
            parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
            named = {value for value in parameters if isinstance(value, str)}
            if "e2e" in item.path.parts or _STARTING & {*item.fixturenames, *named}:
                item.add_marker("processes")
    items.sort(key=_begins)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing skips: `.ci/run` has installed what the tests start."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"In CI nothing skips: {report.longreprtext}"
    return report


def _begins(item: pytest.Item) -> int:
    """What takes long begins first, so that in the end no worker waits for another's; leases longest."""
    return 0 if item.path.name == "test_migrate.py" else 1 if item.get_closest_marker("processes") else 2


@pytest.fixture(autouse=True)
def no_process_unless_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    global _quick
    _quick = None if request.node.get_closest_marker("processes") else request.node.nodeid
    yield
    _quick = None


def _refuse_a_process(event: str, arguments: tuple[Any, ...]) -> None:
    """A Python or one of its programs; what Unix has, as `rm`, takes no time."""
    if not _quick or event != "subprocess.Popen":
        return
    if Path(arguments[0]).parent == Path(sys.executable).parent:
        pytest.fail(f"{_quick} starts a process: it needs @pytest.mark.processes")


sys.addaudithook(_refuse_a_process)


@pytest.fixture
def only_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither settings nor a proxy of whoever runs the tests has a say."""
    for name in list(os.environ):
        if name.startswith("DICOM_INGEST_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def far_side(only_our_settings: None) -> Iterator[FarSide]:
    """Works as it should until a test gives it a script."""
    with FarSide() as far_side:
        yield far_side


@pytest.fixture
def let_go(far_side: FarSide) -> Iterator[threading.Event]:
    """Until it is set no PUT is answered: whoever sends is at work."""
    let_go = threading.Event()

    def script(request: Request) -> None:
        if request.step is Step.PUT:
            let_go.wait(240)

    far_side.script = script
    yield let_go
    let_go.set()


# Full jitter's shortest draw, each time: only what the far side asks for is waited.
NOT_WAITING = Edges(jitter=lambda: 0.0, longest_pause_s=0.0)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server: ask it for a new database."""
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what all workers of a test run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def new_prefect_home(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """`new_prefect_home()`: a home of Prefect's of one's own, with a database that is ready."""

    def new_prefect_home() -> Path:
        ready = run_directory / "ready-prefect-home"
        with (run_directory / "ready-prefect-home.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one worker makes it, the others wait
            if not ready.exists():
                make_ready_home(ready)
        home = tmp_path_factory.mktemp("prefect-home")
        return Path(shutil.copytree(ready, home, dirs_exist_ok=True))

    return new_prefect_home


@pytest.fixture(scope="session")
def prefect_home(new_prefect_home: Callable[[], Path]) -> Path:
    """One for all commands that start a Prefect server of their own, one after another."""
    return new_prefect_home()


@pytest.fixture
def ledger() -> str:
    """Where runs keep their ledger: nothing is in the report directory. A test module may say otherwise."""
    return ""


@pytest.fixture
def near_side(far_side: FarSide, tmp_path: Path, ledger: str) -> "NearSide":
    """An archive to fill, and an engine that does not wait before it tries again."""
    return NearSide(far_side, tmp_path, {"ledger": ledger})


@dataclass(frozen=True, slots=True)
class Run:
    """What a run said: its summary, and its report's rows by their path within the archive."""

    summary: Summary
    rows: dict[str, Row]

    def row(self, name: str) -> Row:
        return self.rows[name]

    @property
    def exit_code(self) -> int:
        return self.summary.exit_code

    @property
    def statuses(self) -> dict[str, str]:
        """Status and reason in one word, by path."""
        return {
            name: "/".join(filter(None, (row["status"], row["reason"]))) for name, row in self.rows.items()
        }

    @property
    def keys_told(self) -> set[str]:
        """Every key that the report names, superseded and unused ones too."""
        told = {key for row in self.rows.values() for key in (row["key"], *superseded(row)) if key}
        return told | set(self.summary.unused_keys)


def superseded(row: Row) -> list[str]:
    return list(filter(None, row["superseded_keys"].split(";")))


@dataclass(slots=True)
class NearSide:
    """An archive of studies, each a directory, and the runs that send them."""

    far_side: FarSide
    directory: Path
    options: dict[str, Any] = field(default_factory=dict)
    edges: Edges = NOT_WAITING

    @property
    def archive(self) -> Path:
        return self.directory / "archive"

    @property
    def report_dir(self) -> Path:
        return self.directory / "report"

    def put(self, name: str, body: bytes) -> Path:
        """A file of the archive, new or anew; `study/image.dcm`."""
        path = self.archive / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        earlier_ns = time.time_ns() - 3600 * 10**9  # one that was written just now is read twice
        os.utime(path, ns=(earlier_ns, earlier_ns))
        return path

    def put_many(self, count: int, study: str = "study") -> dict[str, bytes]:
        """So many instances of one study, by their names."""
        root = "".join(str(ord(letter)) for letter in study)
        bodies = {f"{study}/{number:04}": instance(f"1.{root}.{number}") for number in range(count)}
        for name, body in bodies.items():
            self.put(name, body)
        return bodies

    def entries(self) -> list[StudyEntry]:
        """Each directory of the archive, in the order of names."""
        studies = sorted(path for path in self.archive.iterdir() if path.is_dir())
        return [StudyEntry(number, str(path)) for number, path in enumerate(studies, 1)]

    def settings(self, **options: Any) -> Settings:
        given = {"api_endpoint": self.far_side.url, "report_dir": self.report_dir, "token": TOKEN}
        return load(**{**given, **self.options, **options})

    def run(self, **options: Any) -> Run:
        """A whole run, and its report."""
        return self.told(ingest(self.entries(), self.settings(**options), edges=self.edges))

    def engine(self, **options: Any) -> Engine:
        """For runs that a test steers: give it to `finished`."""
        return Engine(self.entries(), self.settings(**options), edges=self.edges)

    def finished(self, engine: Engine) -> Run:
        """The engine's run, batch by batch, and its report."""
        with early_end(engine) as end:
            for batch_no in engine.plan(engine.scan()):
                engine.upload(batch_no)
        return self.told(engine.finish(end.why))

    def told(self, summary: Summary) -> Run:
        rows = {os.path.relpath(row["path"], self.archive): row for row in read_report(self.report_dir)}
        return Run(summary, rows)


Dicom = Callable[..., bytes]


@pytest.fixture(scope="session")
def dicom() -> Dicom:
    """`dicom("1.2.3")`: a small instance with this SOP Instance UID; `text` makes its bytes differ."""
    return instance


def instance(uid: str, text: str = "", pixel_bytes: int = 128) -> bytes:
    """A CT image in Explicit VR Little Endian; `pixel_bytes`: multiples of 64, from a MiB on of 2048."""
    return _template(pixel_bytes).replace(_UID, padded(uid).encode()).replace(_TEXT, text.ljust(16).encode())


def padded(uid: str) -> str:
    """The UID that `instance` writes for this one: always of the same length."""
    return f"{uid}.1".ljust(len(_UID), "0")


_UID = b"1.2.826.0.1.3680043.10.9999.1234567890123456"
_TEXT = b"TEXT-IN-HERE-16B"


@cache
def _template(pixel_bytes: int) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = _UID.decode()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.PatientName = dataset.PatientID = "Nobody"
    dataset.ImageComments = _TEXT.decode()
    dataset.Columns = 32 if pixel_bytes < MIB else 1024
    dataset.Rows = pixel_bytes // 2 // dataset.Columns
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = bytes(pixel_bytes)
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


Plant = Callable[..., dict[str, Path]]
Objects = Callable[[], set[str]]
_numbers = count(1)


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A real far side: OAuth2, presigned URLs, an S3 endpoint."""
    with Sandbox.start(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
def at_sandbox(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, only_our_settings: None) -> Iterator[None]:
    """The settings of whoever may upload to it."""
    monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", sandbox.api_url)
    monkeypatch.setenv("DICOM_INGEST_TOKEN_URL", sandbox.token_url)
    monkeypatch.setenv("DICOM_INGEST_CLIENT_ID", sandbox.client_id)
    monkeypatch.setenv("DICOM_INGEST_CLIENT_SECRET", sandbox.client_secret)
    yield


@pytest.fixture
def objects(sandbox: Sandbox) -> Objects:
    """The keys that are in the bucket now."""
    bucket = sandbox.bucket_dir
    assert bucket is not None
    return lambda: {path.relative_to(bucket).as_posix() for path in bucket.rglob("*") if path.is_file()}


@pytest.fixture
def plant(dicom: Dicom) -> Plant:
    """`plant(directory, 3)` writes that many instances; gives each one's path by SOP Instance UID."""

    def plant(directory: Path, instances: int = 1, text: str = "") -> dict[str, Path]:
        directory.mkdir(parents=True, exist_ok=True)
        planted = {}
        for number in range(1, instances + 1):
            uid = f"1.2.826.{next(_numbers)}"
            planted[padded(uid)] = path = directory / f"IM{number:04}.dcm"
            path.write_bytes(dicom(uid, text))
        return planted

    return plant


def cut(path: Path) -> None:
    """Ends in its pixel data, as an interrupted copy does."""
    path.write_bytes(path.read_bytes()[:-40])


@pytest.fixture(scope="session")
def prefect_server(
    tmp_path_factory: pytest.TempPathFactory, new_prefect_home: Callable[[], Path]
) -> Iterator[Path]:
    """Prefect's own harness: a server with a database of its own. Gives Prefect's home, which is empty."""
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_HOME, PREFECT_SERVER_ANALYTICS_ENABLED, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    setup_logging()  # the first time takes away what handlers there are, such as a test's own
    home = tmp_path_factory.mktemp("prefect-harness")
    ours = {PREFECT_HOME: home, PREFECT_SERVER_ANALYTICS_ENABLED: False}
    database = Path(mkdtemp())  # which the harness makes and removes: here it is ready
    shutil.copy(new_prefect_home() / "prefect.db", database / "prefect-test.db")
    with temporary_settings(ours), pytest.MonkeyPatch.context() as patched:
        patched.setattr("prefect.testing.utilities.mkdtemp", lambda: str(database))
        with prefect_test_harness(server_startup_timeout=180):
            yield home
