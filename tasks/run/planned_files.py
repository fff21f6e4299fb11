"""The files of a manifest as a run would find them: counted by what their report will say.

Every directory is listed. Opened is each file that a run would open, or some of each study: these stand for
the others. Memory: one study's SOP Instance UIDs, and of a sample its few files.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from random import Random
from typing import Final, TypeAlias, TypeVar

from tasks.core.completeness import StudyTally
from tasks.core.manifest import is_uid
from tasks.core.models import EXIT_ONE, Header, Listed, Reason, Rejected, Status, StudyEntry, Unwalked
from tasks.core.plan import Known, Rules, Standing, standing
from tasks.core.platform_state import PlatformState
from tasks.core.progress import PLANNED, Found, Progress
from tasks.ledger.known_files import KnownFile, KnownFiles
from tasks.plan_settings import PlanSettings
from tasks.run.foreseen import Foreseen, Foresight, Held, examine
from tasks.source.expected_instances import READERS, Reply, await_answer, header_readers
from tasks.source.file_content import MAX_PUT_BYTES
from tasks.source.gone_files import with_gone
from tasks.source.scan import Ownership, walk_study

_AT_ONCE: Final = 500  # rows that are looked up, and headers that are asked for
_NEW: Final = Known(0, "", None, None)
_MOST_NAMES: Final = 100  # of modalities and transfer syntaxes that have a count of their own
_OTHER: Final = "other"
_UNKNOWN: Final = "unknown"  # the file does not say it
_TIMED: Final = 48  # files that are kept to measure how fast they are read

Ask: TypeAlias = Callable[[str], Reply]
_T = TypeVar("_T")


@dataclass(slots=True)
class FileCounts:
    """What the files add up to. Of a sample, each file that was opened counts for those that were not."""

    files: int = 0  # rows of the report
    found_bytes: int = 0  # of all files
    bytes: int = 0  # that would be sent
    known_files: int = 0  # that the ledger says to be stored, and nothing speaks against it
    known_bytes: int = 0
    opened: int = 0  # files whose header was read
    by_status: Counter[str] = field(default_factory=Counter)
    by_reason: Counter[str] = field(default_factory=Counter)  # status/reason
    modalities: Counter[str] = field(default_factory=Counter)
    transfer_syntaxes: Counter[str] = field(default_factory=Counter)
    largest_bytes: int = 0
    studies: int = 0
    complete_studies: int = 0
    incomplete_studies: int = 0
    to_send: list[str] = field(default_factory=list)  # paths of some of them, to measure by

    def add(self, seen: Foreseen, files: int, size_bytes: int) -> None:
        """So many files, and bytes, of which this one is."""
        self.by_status[seen.status] += files
        if seen.reason or seen.status in EXIT_ONE:
            self.by_reason["/".join(filter(None, (seen.status, seen.reason)))] += files
        if seen.status is Status.UPLOADED:
            self.bytes += size_bytes
        if seen.sop_instance_uid:
            _count(self.modalities, _modality(seen.modality), files)
            syntax = seen.transfer_syntax_uid
            _count(self.transfer_syntaxes, syntax if is_uid(syntax) else _OTHER, files)


def _modality(text: str) -> str:
    """A code as PS3.3 C.7.3.1.1.1 has them; whatever else stands there may be anything."""
    if not text:
        return _UNKNOWN
    return text if text.isascii() and text.isalnum() and text.isupper() and len(text) <= 16 else _OTHER


def _count(counter: Counter[str], name: str, files: int) -> None:
    """What stands in a file may be anything, and of any number."""
    is_new = name not in counter and len(counter) >= _MOST_NAMES
    counter[_OTHER if is_new else name] += files


@dataclass(frozen=True, slots=True)
class _Open:
    """A file that a run would open."""

    listed: Listed
    known: KnownFile | None


@dataclass(slots=True)
class _Sample:
    """Some files of a study by chance, each as likely as any other (Vitter's algorithm R)."""

    most: int
    dice: Random
    files: list[_Open] = field(default_factory=list)
    seen: int = 0
    seen_bytes: int = 0

    def add(self, file: _Open) -> None:
        self.seen += 1
        self.seen_bytes += file.listed.size_bytes
        if len(self.files) < self.most:
            self.files.append(file)
        elif (place := self.dice.randrange(self.seen)) < self.most:
            self.files[place] = file

    def shares(self) -> Iterator[tuple[_Open, int, int]]:
        """Each file in the plan's order, with how many files and bytes it stands for: all, in the end."""
        files = sorted(self.files, key=lambda file: file.listed.file_no)
        for number, file in enumerate(files):
            ends = (number, number + 1)
            counts = [total * end // len(files) for total in (self.seen, self.seen_bytes) for end in ends]
            yield file, counts[1] - counts[0], counts[3] - counts[2]


class PlannedFiles:
    """Goes through the studies of one manifest, in the plan's order."""

    def __init__(
        self,
        settings: PlanSettings,
        rules: Rules,
        ownership: Ownership,
        known: KnownFiles,
        foresight: Foresight,
        progress: Progress,
    ) -> None:
        self.counts = FileCounts()
        self._settings = settings
        self._rules = rules
        self._ownership = ownership
        self._known = known
        self._foresight = foresight
        self._progress = progress
        self._asked = 0  # headers that are waited for
        self._gone: list[tuple[StudyTally, list[Unwalked]]] = []

    def count(self, entries: Sequence[StudyEntry]) -> FileCounts:
        """All of them."""
        progress = self._progress
        progress.nouns, progress.studies_listed, progress.platform = PLANNED, len(entries), self._readers
        with header_readers(partial(examine, archives=self._ownership.archives)) as ask:
            for entry in entries:
                self._study(entry, ask)
                progress.studies_done += 1
            self._count_gone()
        progress.scanning = False
        return self.counts

    def _readers(self) -> PlatformState:
        """How many are at work."""
        return PlatformState(slots=READERS, slots_in_use=min(READERS, self._asked))

    def _study(self, entry: StudyEntry, ask: Ask) -> None:
        study_no, is_full = entry.study_no, self._settings.full
        expects = entry if is_full else replace(entry, expected_instances=None)
        tally = StudyTally(expects, self._ownership.overlaps.get(study_no))
        sample = _Sample(self._settings.files_per_study, Random(study_no))  # noqa: S311 - no secret
        gone: list[Unwalked] = []
        rows = with_gone(
            walk_study(entry, self._ownership),
            self._known.left_under(entry.study_dir),
            study_no,
            self._ownership,
        )
        for chunk in _pages(rows):
            self._chunk(chunk, tally, sample, gone, ask)
        if sample.files:
            self._judge(list(sample.shares()), tally, ask)
        if gone:
            self._gone.append((tally, gone))
        else:
            self._close(tally)

    def _chunk(
        self,
        rows: Sequence[Listed | Unwalked],
        tally: StudyTally,
        sample: _Sample,
        gone: list[Unwalked],
        ask: Ask,
    ) -> None:
        """In full mode each row is counted in its place: who comes first has the SOP Instance UID."""
        known = self._known.of([row.path for row in rows if isinstance(row, Listed)])
        size_bytes = sum(row.size_bytes for row in rows if isinstance(row, Listed))
        self._progress.count_listed(Found(len(rows), len(rows), size_bytes, size_bytes))
        stored = [found for found in known.values() if found.status == Status.DUPLICATE]
        held = self._held([found.sop_instance_uid for found in stored])
        to_open: list[tuple[_Open, int, int]] = []
        for row in rows:
            if isinstance(row, Unwalked):
                if row.is_file and row.reason is Reason.NOT_FOUND:
                    gone.append(row)
                else:
                    self._add(tally, Foreseen(row.status, row.reason), 1, 0)
                continue
            self._note(row)
            found = known.get(row.path)
            match standing(found.known if found else _NEW, row, self._rules):
                case Standing.SETTLED:
                    assert found is not None
                    self._add_settled(tally, row, found, held)
                case Standing.TOO_YOUNG:
                    young = Foreseen(Status.NOT_ATTEMPTED, Reason.TOO_YOUNG)
                    self._add(tally, young, 1, row.size_bytes)
                case _ if self._settings.full or not 0 < row.size_bytes <= MAX_PUT_BYTES:
                    to_open.append((_Open(row, found), 1, row.size_bytes))
                case _:
                    sample.add(_Open(row, found))
        self._judge(to_open, tally, ask)

    def _judge(self, files: Sequence[tuple[_Open, int, int]], tally: StudyTally, ask: Ask) -> None:
        """Opens them, and counts what a run would say of each: so many files, and bytes."""
        self._asked = len(files)
        headers = [*self._answers([ask(file.listed.path) for file, *_ in files])]
        held = self._held([uid for found in headers if (uid := _uid(found))])
        for (file, count, size_bytes), found in zip(files, headers, strict=True):
            stored = file.known.stored if file.known else None
            seen = self._foresight.judged(file.listed, stored, found, held)
            self.counts.opened += 1
            self._add(tally, seen, count, size_bytes)
            if seen.status is Status.UPLOADED and len(self.counts.to_send) < _TIMED:
                self.counts.to_send.append(file.listed.path)

    def _answers(self, replies: Sequence[Reply]) -> "Iterator[Header | Rejected]":
        for reply in replies:
            yield await_answer(reply)[0]
            self._asked -= 1

    def _held(self, uids: Sequence[str]) -> Held:
        if not uids:
            return Held()
        return Held(self._known.holders(uids), self._known.other_holders(uids))

    def _note(self, row: Listed) -> None:
        counts = self.counts
        counts.found_bytes += row.size_bytes
        counts.largest_bytes = max(counts.largest_bytes, row.size_bytes)

    def _add_settled(self, tally: StudyTally, row: Listed, found: KnownFile, held: Held) -> None:
        is_duplicate = found.status == Status.DUPLICATE
        status = self._foresight.settled(found.sop_instance_uid, found.sha256, is_duplicate, held)
        names = (found.sop_instance_uid, found.study_instance_uid, found.modality, found.transfer_syntax_uid)
        self.counts.known_files += 1
        self.counts.known_bytes += row.size_bytes
        self._add(tally, Foreseen(status, Reason.NONE, *names, row.size_bytes), 1, row.size_bytes)

    def _add(self, tally: StudyTally, seen: Foreseen, files: int, size_bytes: int) -> None:
        names = (seen.sop_instance_uid, seen.study_instance_uid, seen.modality, size_bytes)
        tally.add(seen.status, seen.reason, *names)
        self.counts.files += files
        self.counts.add(seen, files, size_bytes)
        self._progress.count_planned(seen.status, files, size_bytes)

    def _close(self, tally: StudyTally) -> None:
        result = tally.result()
        self.counts.studies += 1
        self.counts.complete_studies += result.is_complete
        self.counts.incomplete_studies += result.is_incomplete

    def _count_gone(self) -> None:
        """What is gone has no row when the run stores its bytes, or its UID, from elsewhere."""
        for tally, rows in self._gone:
            for page in _pages(iter(rows)):
                known = self._known.of([row.path for row in page])
                for row in page:
                    if not self._is_stored_elsewhere(known.get(row.path)):
                        self._add(tally, Foreseen(row.status, row.reason), 1, 0)
            self._close(tally)

    def _is_stored_elsewhere(self, found: KnownFile | None) -> bool:
        if found is None:
            return False
        was = found.last_status if found.status == Status.MISSING else found.status
        return self._foresight.has_stored(
            found.sop_instance_uid, found.sha256, as_conflict=was == Status.CONFLICT
        )


def _uid(found: Header | Rejected) -> str:
    header = found if isinstance(found, Header) else found.header
    return header.sop_instance_uid if header else ""


def _pages(rows: Iterator[_T]) -> Iterator[list[_T]]:
    while page := list(islice(rows, _AT_ONCE)):
        yield page
