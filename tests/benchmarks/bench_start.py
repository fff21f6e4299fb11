"""What a command costs before it does anything, beside importing the packages that it can't do without."""

import sys
from collections.abc import Iterator

from tests.benchmarks.archives import archive
from tests.benchmarks.far_process import far_process
from tests.benchmarks.senders import BIN, ours, rounds, timed
from tests.benchmarks.table import Row
from tests.far_side import TOKEN

ROUNDS = 10
_NEEDED = """
import sys, pathlib, cyclopts, httpx, pydicom, sqlalchemy
api, path, token = sys.argv[1:]
client = httpx.Client(headers={"Authorization": "Bearer " + token})
client.head(api + "/")
url = client.get(api + "/upload/").json()["url"]
httpx.put(url, content=pathlib.Path(path).read_bytes(), headers={"Content-Type": "application/dicom"})
"""


def rows(scale: float) -> Iterator[Row]:
    times = rounds(ROUNDS, scale)
    library = _best(times, [sys.executable, "-c", "import cyclopts"])
    shown = _best(times, [str(BIN / "dicom-ingest"), "--help"])
    yield _row("dicom-ingest --help", shown, "import cyclopts", library)
    with archive(1, 33 * 1024) as directory, far_process() as far:
        file = next((directory / "study").iterdir())
        needed = _best(times, [sys.executable, "-c", _NEEDED, far.url, str(file), TOKEN])
        sent = min(timed(ours(far.url, directory)).wall_s for _ in range(times))
    yield _row("upload of one file", sent, "imports and requests alone", needed)


def _best(times: int, command: list[str]) -> float:
    return min(timed(command).wall_s for _ in range(times))


def _row(what: str, seconds: float, beside: str, other: float) -> Row:
    return Row(what, f"{seconds * 1e3:.0f} ms", f"{beside} {other * 1e3:.0f}", seconds / other, "at most 1.5")
