"""Has what was uploaded arrived? What ingest and verify say is held against what was planted.

An image that names no study can't be registered anywhere: ingest has to say so, and verify has to miss it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from deployments.sandbox.samples import Planted
from tasks.core.escape import escape
from tasks.core.models import Status
from tasks.core.object_outcomes import ObjectReason, ObjectStatus
from tasks.core.signs import Sign
from tasks.sandbox_settings import DicomwebProgram

Row = Mapping[str, str]

# What a program refuses by STOW-RS: Orthanc 1.10 a file in RLE, tiny-pacs what is deflated.
_REFUSED: Final[Mapping[DicomwebProgram, str]] = {
    DicomwebProgram.ORTHANC: "rtdose_rle.dcm",
    DicomwebProgram.TINY_PACS: "image_dfl.dcm",
}
_REJECTED: Final = (ObjectStatus.REJECTED, ObjectReason.NONE)


def compare_chain(
    planted: Planted,
    program: DicomwebProgram | None,
    report: Iterable[Row],
    registration: Iterable[Row],
    verification: Iterable[Row],
) -> list[str]:
    """One sentence for each thing that does not agree; none when the chain is whole.

    `program`: which DICOMweb server it was; of another one it is not known what that refuses. `report` has
    paths unescaped; `registration` and `verification` are the rows of their files.
    """
    paths = {row["key"]: row["path"] for row in report if row["status"] == Status.UPLOADED}
    found = [*registration]
    refused = {row["key"] for row in found if row["status"] == ObjectStatus.REJECTED and program is None}
    expected = {
        key: _REJECTED if key in refused else _expected(planted, program, path) for key, path in paths.items()
    }
    return [
        *_registered(expected, paths, found),
        *_verified(expected, paths, verification),
    ]


def _expected(planted: Planted, program: DicomwebProgram | None, path: str) -> tuple[str, str]:
    if path in planted.without_study:
        return ObjectStatus.QUARANTINED, ObjectReason.NO_STUDY
    is_refused = program is not None and path.endswith(f"/{_REFUSED[program]}")
    return _REJECTED if is_refused else (ObjectStatus.REGISTERED, ObjectReason.NONE)


def _registered(
    expected: Mapping[str, tuple[str, str]], paths: Mapping[str, str], rows: Iterable[Row]
) -> Iterator[str]:
    """Each object has one row with the right outcome."""
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row["key"] in found or row["key"] not in expected:
            yield "An object has two rows in registration.csv, or was not uploaded."
        found[row["key"]] = (row["status"], row["reason"])
    for key, outcome in expected.items():
        if found.get(key) != outcome:
            said = " ".join(found.get(key, ("without a row",)))
            yield f"{escape(paths[key])} is {said} in registration.csv, and should be {' '.join(outcome)}."


def _verified(
    expected: Mapping[str, tuple[str, str]], paths: Mapping[str, str], rows: Iterable[Row]
) -> Iterator[str]:
    """Each uploaded instance is confirmed, but for what the server could not be given."""
    signs = {row["key"]: row["sign"] for row in rows}
    for key, (status, _) in expected.items():
        sign = Sign.EVERYWHERE if status == ObjectStatus.REGISTERED else Sign.NOT_REGISTERED
        if signs.get(key) != sign:
            yield f"{escape(paths[key])} has the sign {signs.get(key)} in verification.csv, not {sign}."
