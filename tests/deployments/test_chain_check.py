"""The demo's check of the chain: it finds what ingest or verify says wrongly."""

from pathlib import Path
from typing import Any

import pytest

from deployments.sandbox.chain_check import compare_chain
from deployments.sandbox.samples import Planted
from tasks.sandbox_settings import DicomwebProgram

ORTHANC = DicomwebProgram.ORTHANC
REPORT = [
    {"status": "uploaded", "key": "k1", "path": "/a/one.dcm"},
    {"status": "uploaded", "key": "k2", "path": "/a/no_study.dcm"},
    {"status": "uploaded", "key": "k3", "path": "/a/rtdose_rle.dcm"},
    {"status": "invalid", "key": "", "path": "/a/cut.dcm"},
]
REGISTRATION = [
    {"key": "k1", "status": "registered", "reason": ""},
    {"key": "k2", "status": "quarantined", "reason": "no_study"},
    {"key": "k3", "status": "rejected", "reason": ""},
]
VERIFICATION = [{"key": "k1", "sign": "="}, {"key": "k2", "sign": "-"}, {"key": "k3", "sign": "-"}]
PLANTED = Planted(Path("/a/manifest.csv"), {}, (), frozenset({"/a/no_study.dcm"}))


def compared(
    program: DicomwebProgram | None = ORTHANC,
    registration: Any = REGISTRATION,
    verification: Any = VERIFICATION,
) -> list[str]:
    return compare_chain(PLANTED, program, REPORT, registration, verification)


def changed(rows: list[dict[str, str]], key: str, **cells: str) -> list[dict[str, str]]:
    return [row | cells if row["key"] == key else row for row in rows]


def test_a_whole_chain_agrees() -> None:
    """Also at a server of which nobody knows what it refuses."""
    assert compared() == compared(None) == []


def test_what_another_program_takes_has_to_be_registered() -> None:
    assert len(compared(DicomwebProgram.TINY_PACS)) == 2


@pytest.mark.parametrize(
    "registration",
    [
        changed(REGISTRATION, "k1", status="failed", reason="network"),
        changed(REGISTRATION, "k2", status="registered", reason=""),
        changed(REGISTRATION, "k2", reason="no_uid"),
        REGISTRATION[1:],
        [*REGISTRATION, REGISTRATION[0]],
        [*REGISTRATION, {"key": "k4", "status": "registered", "reason": ""}],
    ],
    ids=["failed", "registered", "another reason", "no row", "two rows", "of no upload"],
)
def test_what_ingest_says_wrongly_is_found(registration: list[dict[str, str]]) -> None:
    assert compared(registration=registration)


@pytest.mark.parametrize(
    "verification",
    [changed(VERIFICATION, "k1", sign="-"), changed(VERIFICATION, "k2", sign="="), VERIFICATION[1:], []],
    ids=["missing", "confirmed", "no row", "none"],
)
def test_what_verify_says_wrongly_is_found(verification: list[dict[str, str]]) -> None:
    assert compared(verification=verification)


def test_the_sentence_names_the_file() -> None:
    (sentence,) = compared(verification=changed(VERIFICATION, "k1", sign="!"))
    assert sentence == "/a/one.dcm has the sign ! in verification.csv, not =."
