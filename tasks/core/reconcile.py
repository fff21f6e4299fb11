"""One file one outcome, one study one result, one run one exit code: what a report says, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.core.models import EXIT_ONE, OnConflict, Status, StudyEntry

STORED: Final = frozenset({Status.UPLOADED, Status.ALREADY_UPLOADED, Status.DUPLICATE})


class Verdict(StrEnum):
    """What to do with a file whose SOP Instance UID is claimed."""

    SEND = "send"
    KEEP = "keep"
    REPLACE = "replace"
    WAIT = "wait"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    SEND_TWIN = "send_twin"


@dataclass(frozen=True, slots=True)
class Claim:
    """The ledger's claim on a SOP Instance UID, as the file asking for it sees it."""

    mine: bool
    stored_sha256: str  # empty: nothing is stored under this UID yet


def judge(claim: Claim, sha256: str, on_conflict: OnConflict) -> Verdict:
    """The verdict on a file with this digest.

    | claim     | stored      | on_conflict | verdict   |                                                  |
    | --------- | ----------- | ----------- | --------- | ------------------------------------------------ |
    | mine      | nothing     | any         | SEND      |                                                  |
    | mine      | same bytes  | any         | KEEP      | stored by this path before: nothing to send      |
    | mine      | other bytes | any         | REPLACE   | sent; `uploaded`, reason `replaced`              |
    | another's | nothing     | any         | WAIT      | until the claim settles                          |
    | another's | same bytes  | any         | DUPLICATE |                                                  |
    | another's | other bytes | report      | CONFLICT  | for a person                                     |
    | another's | other bytes | upload      | SEND_TWIN | sent although the UID is stored with other bytes |
    """
    if not claim.stored_sha256:
        return Verdict.SEND if claim.mine else Verdict.WAIT
    if claim.stored_sha256 == sha256:
        return Verdict.KEEP if claim.mine else Verdict.DUPLICATE
    if claim.mine:
        return Verdict.REPLACE
    return Verdict.SEND_TWIN if on_conflict is OnConflict.UPLOAD else Verdict.CONFLICT


@dataclass(frozen=True, slots=True)
class StudyResult:
    """One row of studies.csv: what the manifest said of a study and what became of its files."""

    study_no: int
    study_dir: str
    label: str
    study_instance_uid: str
    priority: int
    files: int  # rows of the report
    stored: int  # distinct SOP Instance UIDs
    failed: int  # rows whose status says exit 1
    expected: int | None
    complete: bool
    overlaps: int | None  # the earlier entry that has some or all of this one's files
    extra: tuple[tuple[str, str], ...]

    @property
    def covered(self) -> bool:
        """Whether an earlier entry has all its files and the manifest promises nothing more of it.

        Such an entry is neither complete nor incomplete. One with a count or a UID to prove is incomplete
        then: its promise was not checked.
        """
        promised = self.expected is not None or self.study_instance_uid
        return self.files == 0 and self.overlaps is not None and not promised

    @property
    def incomplete(self) -> bool:
        """Whether this study is a reason for exit 1."""
        return not self.complete and not self.covered


class StudyTally:
    """Counts the rows of one study as they come. Holds the study's SOP Instance UIDs, nothing else."""

    def __init__(self, entry: StudyEntry, overlaps: int | None = None) -> None:
        self._entry = entry
        self._overlaps = overlaps
        self._files = 0
        self._failed = 0
        self._foreign = 0  # stored, but of another study than the manifest says
        self._stored: set[str] = set()

    def add(self, status: str, sop_instance_uid: str, study_instance_uid: str) -> None:
        """Counts one row of the report."""
        self._files += 1
        if status in EXIT_ONE:
            self._failed += 1
        elif status in STORED:
            self._stored.add(sop_instance_uid)
            promised = self._entry.study_instance_uid
            self._foreign += bool(promised) and study_instance_uid != promised

    def result(self) -> StudyResult:
        """The study as counted so far."""
        entry = self._entry
        return StudyResult(
            study_no=entry.study_no,
            study_dir=entry.study_dir,
            label=entry.label,
            study_instance_uid=entry.study_instance_uid,
            priority=entry.priority,
            files=self._files,
            stored=len(self._stored),
            failed=self._failed,
            expected=entry.expected_instances,
            complete=self._complete(),
            overlaps=self._overlaps,
            extra=entry.extra,
        )

    def _complete(self) -> bool:
        """No failure, at least one instance, all of the promised study, exactly as many as expected."""
        stored = len(self._stored)
        if self._failed or self._foreign or not stored:
            return False
        return self._entry.expected_instances in (None, stored)


def exit_code(by_status: Mapping[str, int], incomplete_studies: int) -> int:
    """1 when a row's status says so or a study is incomplete, else 0."""
    return int(incomplete_studies > 0 or any(by_status.get(status, 0) for status in EXIT_ONE))
