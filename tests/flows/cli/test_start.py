"""What `upload` has imported when the first byte of a file leaves: what it needs, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.far_side import CLIENT_ID, CLIENT_SECRET, TOKEN, FarSide
from tests.flows.conftest import Plant

# The command, and at its first PUT the packages that there are.
_SAYING_WHAT_IS_IMPORTED = """
import gc, sys
from flows.cli.__main__ import main
from tasks.remote.upload_api import UploadClient

async def put(self, *arguments, **more):
    print(*{name.partition(".")[0] for name in sys.modules}, *sys.modules, file=sys.stderr)
    print("FROZEN" if gc.get_freeze_count() > 50_000 else "COLLECTED", file=sys.stderr)
    return await usual(self, *arguments, **more)

usual, UploadClient.put = UploadClient.put, put
main()
"""
# Of the start of a run without Prefect; Alembic when the schema has to change, pandas for the report.
NOT_NEEDED = {
    "prefect",
    "pydicom",
    "numpy",
    "pandas",
    "pyarrow",
    "alembic",
    "httpx",
    "oauthlib",
    "rich",
    "pygments",
    "click",
    "cryptography",
}
NOT_NEEDED |= {
    "sqlalchemy.dialects.postgresql",
    "psycopg",
    "boto3",
    "fastapi",
    "pydantic_settings",
    "httptools",
}


@pytest.fixture
def study(plant: Plant, tmp_path: Path, only_our_settings: None) -> Path:
    plant(tmp_path / "study")
    return tmp_path / "study"


def imported(far_side: FarSide, study: Path, **settings: str) -> set[str]:
    where = ["-u", far_side.url, "-p", str(study), "--report-dir", str(study.parent / "report")]
    process = subprocess.run(
        [sys.executable, "-c", _SAYING_WHAT_IS_IMPORTED, "upload", *where],
        env=os.environ | {f"DICOM_INGEST_{name}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return set(process.stderr.split())


@pytest.mark.processes
def test_nothing_is_imported_that_is_not_needed(far_side: FarSide, study: Path) -> None:
    found = imported(far_side, study, TOKEN=TOKEN)
    assert {"sqlalchemy", "pycurl", "awscrt"} <= found, "else the test would hold for nothing"
    assert found & NOT_NEEDED == set()
    assert "FROZEN" in found, "what is imported is looked through for garbage"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("status", []),
        ("verify", ["--dicomweb-url", "http://127.0.0.1:9"]),
        ("retry", []),
        ("resolve", []),
        ("report", []),
        ("audit", []),
        ("plan", ["-u", "http://127.0.0.1:9"]),
    ],
)
def test_what_needs_no_prefect_does_not_wait_for_its_import(
    command: str, more: list[str], tmp_path: Path, only_our_settings: None
) -> None:
    """Nor say what Prefect thinks of a home directory that can't be written."""
    code = "import sys; from flows.cli.__main__ import execute; execute(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, command, "none", *more], capture_output=True, text=True, cwd=tmp_path
    )
    found = done.stdout.split()
    assert "tasks.core.errors" in found, "else the test would hold for nothing"
    assert "prefect" not in found


@pytest.mark.processes
def test_what_is_imported_is_not_looked_through_once_more_at_the_end() -> None:
    code = "import atexit, gc, sys; from flows.cli.__main__ import main; sys.argv[1:] = ['--help']; "
    code += "atexit.register(lambda: print('FROZEN', gc.get_freeze_count() > 1000)); main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "FROZEN True" in done.stdout


@pytest.mark.processes
def test_httpx_comes_with_oauth2(far_side: FarSide, study: Path) -> None:
    client = {"CLIENT_ID": CLIENT_ID, "CLIENT_SECRET": CLIENT_SECRET}
    assert {"httpx", "oauthlib"} <= imported(far_side, study, TOKEN_URL=far_side.token_url, **client)
