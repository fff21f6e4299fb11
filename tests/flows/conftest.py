"""What the tests of the shells share: studies, a real far side, and a Prefect server."""

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

import pytest

from deployments.sandbox.sandbox import Sandbox
from tests.conftest import Dicom, padded

Plant = Callable[..., dict[str, Path]]
Objects = Callable[[], set[str]]
_numbers = count(1)


@pytest.fixture(autouse=True)
def nobody_elses_settings(only_our_settings: None) -> None:
    """No setting of whoever runs the tests has a say in any of them."""


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A real far side: OAuth2, presigned URLs, an S3 endpoint."""
    with Sandbox.start(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
def at_sandbox(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, nobody_elses_settings: None
) -> Iterator[None]:
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
    from prefect.settings import PREFECT_HOME, PREFECT_SERVER_ANALYTICS_ENABLED, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect-harness")
    ours = {PREFECT_HOME: home, PREFECT_SERVER_ANALYTICS_ENABLED: False}
    database = Path(mkdtemp())  # which the harness makes and removes: here it is ready
    shutil.copy(new_prefect_home() / "prefect.db", database / "prefect-test.db")
    with temporary_settings(ours), pytest.MonkeyPatch.context() as patched:
        patched.setattr("prefect.testing.utilities.mkdtemp", lambda: str(database))
        with prefect_test_harness(server_startup_timeout=180):
            yield home
