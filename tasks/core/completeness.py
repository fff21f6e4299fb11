"""One study one result, one run one exit code: what the rows of a report add up to, and why."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.core.decisions import ACCEPTING
from tasks.core.models import EXIT_ONE, Reason, Status, StudyEntry
from tasks.core.words import counted, one_word

_MOST_DETAILS: Final = 3  # of one reason, in a sentence
STORED: Final = frozenset({Status.UPLOADED, Status.ALREADY_UPLOADED, Status.DUPLICATE})


class Completeness(StrEnum):
    """The cell `complete` of studies.csv; INCOMPLETE is a reason for exit 1."""

    COMPLETE = "true"
    INCOMPLETE = "false"
    NEITHER = ""
    WITH_EXCEPTIONS = "with_exceptions"  # but for rows that a person accepted


@dataclass(frozen=True, slots=True)
class StudyCounts:
    """What the rows of one study add up to, beside what the manifest expects of it."""

    files: int = 0  # rows of the report
    failed: int = 0  # rows whose status says exit 1, and that nobody accepted
    accepted: int = 0  # rows whose status says exit 1, and that a person accepted
    absent: int | None = 0  # instances that these may be in place of; None: any number, of a whole directory
    stored: int = 0  # distinct SOP Instance UIDs
    foreign: int = 0  # rows that are stored, but of another study than the manifest says
    expected: int | None = None  # distinct SOP Instance UIDs
    names_study: bool = False  # the manifest has its Study Instance UID
    overlaps: bool = False  # an earlier entry has some or all of its files

    @property
    def expects_images(self) -> bool:
        """Whether the manifest promises images: a number of them, or whose they are."""
        return bool(self.expected) or self.names_study

    @property
    def is_all_there(self) -> bool:
        """Whether there are as many instances as expected, but for those that are accepted as absent."""
        if self.expected is None:
            return True
        most = max(self.expected, self.stored) if self.absent is None else self.stored + self.absent
        return self.stored <= self.expected <= most


def completeness(counts: StudyCounts) -> Completeness:
    """Whether a study is complete.

    | files | exit 1 | stored       | expects images | overlaps | completeness |                             |
    | ----- | ------ | ------------ | -------------- | -------- | ------------ | --------------------------- |
    | none  |        |              | no             | yes      | NEITHER      | an earlier entry has them   |
    | none  |        |              | no             | no       | INCOMPLETE   | an unmounted share looks so |
    | none  |        |              | yes            | any      | INCOMPLETE   | the promise was not checked |
    | some  | some   | any          | any            | any      | INCOMPLETE   |                             |
    | some  | none   | none         | no             | any      | NEITHER      | none of them is an image    |
    | some  | none   | none         | yes            | any      | INCOMPLETE   |                             |
    | some  | none   | as promised  | any            | any      | COMPLETE     |                             |
    | some  | none   | other study  | yes            | any      | INCOMPLETE   |                             |
    | some  | none   | other number | any            | any      | INCOMPLETE   | 0 is a number, too          |

    Rows that a person accepted are not among those of exit 1. Where there are any, all that would not be
    INCOMPLETE is WITH_EXCEPTIONS; each may stand for one instance that is expected and not stored.
    """
    if counts.failed or counts.foreign:
        return Completeness.INCOMPLETE
    if counts.accepted:
        return Completeness.WITH_EXCEPTIONS if counts.is_all_there else Completeness.INCOMPLETE
    if counts.stored:
        as_many = counts.expected in (None, counts.stored)
        return Completeness.COMPLETE if as_many else Completeness.INCOMPLETE
    may_be_empty = counts.files or counts.overlaps
    return Completeness.NEITHER if may_be_empty and not counts.expects_images else Completeness.INCOMPLETE


def why_not_complete(counts: StudyCounts, failures: Mapping[str, int]) -> str:
    """What keeps a study from being complete: closed words and counts, joined by "; "; empty when it is.

    `failures`: the rows whose status says exit 1, counted by reason, or by status where there is none, with
    what the platform called it.

    | what                                              | said                                             |
    | ------------------------------------------------- | ------------------------------------------------ |
    | rows whose status says exit 1                     | 3 refused (AccessDenied); 1 truncated            |
    | of them, those that a person accepted             | 1 accepted                                       |
    | fewer instances stored than the manifest expects  | 98 fewer than expected                           |
    | more                                              | 2 more than expected                             |
    | instances of another study than the manifest says | another Study Instance UID than the manifest says |
    | files, and none of them an image                  | no image                                         |
    | no file, and no earlier entry that has its files  | no file                                          |
    """
    if completeness(counts) is Completeness.COMPLETE:
        return ""
    most_first = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    clauses = [f"{count} {what}" for what, count in most_first]
    clauses += [f"{counts.accepted} accepted"] if counts.accepted else []
    if counts.expected is not None and counts.stored != counts.expected:
        clauses.append(_other_number(counts.stored - counts.expected))
    if counts.foreign:
        clauses.append("another Study Instance UID than the manifest says")
    if counts.files and not counts.stored and not counts.failed + counts.accepted:
        clauses.append("no image")
    if not counts.files and completeness(counts) is Completeness.INCOMPLETE:
        clauses.append("no file")
    return "; ".join(clauses)


def _other_number(surplus: int) -> str:
    return f"{abs(surplus)} {'more' if surplus > 0 else 'fewer'} than expected"


@dataclass(frozen=True, slots=True)
class StudyResult:
    """One row of studies.csv: what the manifest said of a study and what became of its files."""

    study_no: int
    study_dir: str
    label: str
    study_instance_uid: str
    priority: int
    files: int  # rows of the report
    bytes: int  # of all its files whose size is known
    stored: int  # distinct SOP Instance UIDs
    failed: int  # rows whose status says exit 1, and that nobody accepted
    expected: int | None
    expected_bytes: int | None
    complete: Completeness
    why: str
    seen_study_instance_uids: str
    modalities: str
    overlaps: int | None  # the earlier entry that has some or all of this one's files
    extra: tuple[tuple[str, str], ...]

    @property
    def is_complete(self) -> bool:
        """Whether all that was promised, and at least one instance, is stored."""
        return self.complete is Completeness.COMPLETE

    @property
    def is_incomplete(self) -> bool:
        """Whether this study is a reason for exit 1."""
        return self.complete is Completeness.INCOMPLETE


class StudyTally:
    """Counts the rows of one study as they come.

    Holds the study's SOP Instance UIDs, and of its other values so many as can't be harmful.
    """

    def __init__(self, entry: StudyEntry, overlaps: int | None = None) -> None:
        self._entry = entry
        self._overlaps = overlaps
        self._files = 0
        self._bytes = 0
        self._foreign = 0  # stored, but of another study than the manifest says
        self._accepted = 0
        self._absent: int | None = 0
        self._failures: Counter[str] = Counter()  # by reason, or by status where there is none
        self._details: defaultdict[str, set[str]] = defaultdict(set)  # of these failures
        self._stored: set[str] = set()
        self._studies = DistinctValues()
        self._modalities = DistinctValues()

    @property
    def study_no(self) -> int:
        """The study's."""
        return self._entry.study_no

    def add(
        self,
        status: str,
        reason: str,
        sop_instance_uid: str,
        study_instance_uid: str,
        modality: str = "",
        size_bytes: int | None = None,
        detail: str = "",
        decision: str = "",
        is_study_dir: bool = False,
    ) -> None:
        """Counts one row of the report; `decision`: what a person decided about it.

        `is_study_dir`: it is of the study's directory as a whole, which is not there or can't be listed.
        """
        self._files += 1
        self._bytes += size_bytes or 0
        self._studies.add(study_instance_uid)
        self._modalities.add(modality)
        if decision in ACCEPTING:
            self._accept(status, reason, is_study_dir)
        elif status in EXIT_ONE:
            self._failures[reason or status] += 1
            if one_word(detail) and len(self._details[reason or status]) <= _MOST_DETAILS:
                self._details[reason or status].add(detail)
        elif status in STORED:
            self._stored.add(sop_instance_uid)
            promised = self._entry.study_instance_uid
            self._foreign += bool(promised) and study_instance_uid != promised

    def _accept(self, status: str, reason: str, is_study_dir: bool) -> None:
        """The instance of a conflict, or of a damaged file, is stored. A directory had any number."""
        self._accepted += 1
        if is_study_dir:
            self._absent = None
        elif self._absent is not None:
            is_stored = status == Status.CONFLICT or reason in (Reason.DAMAGED, Reason.ALTERED)
            self._absent += not is_stored

    def result(self) -> StudyResult:
        """The study as counted so far."""
        entry, counts = self._entry, self._counts()
        return StudyResult(
            study_no=entry.study_no,
            study_dir=entry.study_dir,
            label=entry.label,
            study_instance_uid=entry.study_instance_uid,
            priority=entry.priority,
            files=counts.files,
            bytes=self._bytes,
            stored=counts.stored,
            failed=counts.failed,
            expected=entry.expected_instances,
            expected_bytes=entry.expected_bytes,
            complete=completeness(counts),
            why=why_not_complete(counts, self._failures_in_words()),
            seen_study_instance_uids=str(self._studies),
            modalities=str(self._modalities),
            overlaps=self._overlaps,
            extra=entry.extra,
        )

    def _failures_in_words(self) -> dict[str, int]:
        """With the first few of their details in brackets."""
        words = {}
        for what, count in self._failures.items():
            details = sorted(self._details[what])
            first = ", ".join([*details[:_MOST_DETAILS], *(["..."] if details[_MOST_DETAILS:] else [])])
            words[f"{what} ({first})" if first else what] = count
        return words

    def _counts(self) -> StudyCounts:
        return StudyCounts(
            files=self._files,
            failed=self._failures.total(),
            accepted=self._accepted,
            absent=self._absent,
            stored=len(self._stored),
            foreign=self._foreign,
            expected=self._entry.expected_instances,
            names_study=bool(self._entry.study_instance_uid),
            overlaps=self._overlaps is not None,
        )


class DistinctValues:
    """The distinct values of a column, for one cell: sorted, joined with ';', the first of very many.

    Of no more than `HELD` it is known whether they were seen before; those beyond are not counted.
    """

    LISTED: Final = 20
    HELD: Final = 10_000

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._overflows = False

    def add(self, value: str) -> None:
        """Adds a value, unless it is empty."""
        if not value or value in self._values:
            return
        if len(self._values) < self.HELD:
            self._values.add(value)
        else:
            self._overflows = True

    def __len__(self) -> int:
        return len(self._values)

    def __str__(self) -> str:
        listed = sorted(self._values)[: self.LISTED]
        if more := len(self._values) - len(listed):
            listed.append(f"and {'more than ' if self._overflows else ''}{more} more")
        return ";".join(listed)


def not_stored(by_status: Mapping[str, int], accepted: int = 0) -> str:
    """What was not stored, in words: "92 of 2,080 files are not stored"; empty when nothing is missing."""
    bad, files = sum(by_status.get(status, 0) for status in EXIT_ONE), sum(by_status.values())
    if not bad:
        return ""
    by_a_person = f" ({accepted:,} accepted)" if accepted else ""
    return f"{bad:,} of {counted(files, 'file')} {'is' if bad == 1 else 'are'} not stored{by_a_person}"


def exit_code(by_status: Mapping[str, int], incomplete_studies: int, accepted: int = 0) -> int:
    """1 when a row's status says so, and nobody accepted it, or a study is incomplete, else 0."""
    bad = sum(by_status.get(status, 0) for status in EXIT_ONE)
    return int(incomplete_studies > 0 or bad > accepted)
