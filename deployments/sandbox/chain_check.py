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
from tasks.dicomweb_settings import DicomwebServer

Row = Mapping[str, str]

# What a server refuses (HTTP 400, without a word which instance): of Orthanc 1.10, by STOW-RS alone.
_REFUSED: Final[Mapping[DicomwebServer, frozenset[str]]] = {
    DicomwebServer.ORTHANC: frozenset({"rtdose_rle.dcm"})
}


def compare_chain(
    planted: Planted,
    server: DicomwebServer,
    report: Iterable[Row],
    registration: Iterable[Row],
    verification: Iterable[Row],
) -> list[str]:
    """One sentence for each thing that does not agree; none when the chain is whole.

    `report` has paths unescaped; `registration` and `verification` are the rows of their files.
    """
    paths = {row["key"]: row["path"] for row in report if row["status"] == Status.UPLOADED}
    expected = {key: _expected(planted, server, path) for key, path in paths.items()}
    return [
        *_registered(expected, paths, registration),
        *_verified(expected, paths, verification),
    ]


def _expected(planted: Planted, server: DicomwebServer, path: str) -> tuple[str, str]:
    if path in planted.without_study:
        return ObjectStatus.QUARANTINED, ObjectReason.NO_STUDY
    if path.rpartition("/")[2] in _REFUSED.get(server, ()):
        return ObjectStatus.REJECTED, ObjectReason.NONE
    return ObjectStatus.REGISTERED, ObjectReason.NONE


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
