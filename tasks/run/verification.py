"""Use case `verify`: a report held against bucket and registry; what repairs it, and what may be deleted.

    from tasks.declaration import load_as
    from tasks.run.verification import verify
    from tasks.verify_settings import VerifySettings

    found = verify(load_as(VerifySettings, report_dir="report", bucket="s3://b", dicomweb_url="https://..."))

What is found is written beside the report, all of it or nothing (`comparison/verification_files.py`);
`found.exit_code` is the command line's. Raises UsageError when there is nothing to be held against, and
StoppedError when it can't be written.
"""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from math import ceil
from typing import Any, BinaryIO, Final

from tasks.audit.certificate import signing_key, write_verification_certificate
from tasks.audit.log import Trail
from tasks.comparison.bucket_side import ask_bucket
from tasks.comparison.deep_side import DeepSide
from tasks.comparison.fresh_look import CELLS as LOOKED_AT
from tasks.comparison.fresh_look import FreshLook, real_path
from tasks.comparison.instance_table import CELLS, InstanceTable
from tasks.comparison.patience import Patience
from tasks.comparison.registry_side import RegistrySide
from tasks.comparison.study_verdicts import StudyVerdict, study_verdicts
from tasks.comparison.verification_files import (
    write_instances,
    write_keys,
    write_studies,
    write_summary,
    write_verified_page,
)
from tasks.core.audit_chain import Event
from tasks.core.comparison_progress import ComparisonProgress
from tasks.core.errors import CredentialsRefusedError, Fault, IngestError, UsageError
from tasks.core.escape import escape, unescape
from tasks.core.models import Summary
from tasks.core.object_outcomes import ObjectStatus
from tasks.core.pipeline_faults import REFUSALS, Side, ending_at
from tasks.core.signs import SafeToDelete, Sign, exit_code
from tasks.core.study_entries import StudyEntries
from tasks.core.verification_totals import Verification, totals_of
from tasks.core.words import counted
from tasks.ledger.database import sqlite_file
from tasks.ledger.verified_objects import SentInstance, VerifiedObjects
from tasks.remote.bucket import open_bucket
from tasks.report.directory import (
    AUDIT_JSONL,
    REPAIR_KEYS_TXT,
    VERIFICATION_JSON,
    Drafts,
    drafts,
    require_report_files,
)
from tasks.report.reader import opened_studies, read_cells, read_registration, read_summary
from tasks.report.studies_csv import WrittenStudy
from tasks.report.verified_rows import verified_rows
from tasks.run.preflight import known_beside
from tasks.run.sides import OpenBucket, OpenRegistry, opened_bucket, opened_registry
from tasks.setting_values import host_of, registry_of
from tasks.source.own_files import own_files
from tasks.source.scan import survey
from tasks.verify_settings import VerifySettings

log = logging.getLogger("dicom_ingest")

_DEFAULT_CAMPAIGN: Final = VerifySettings.campaign


def _difference(one: BinaryIO, other: BinaryIO) -> str:
    from tasks.comparison.instance_comparison import difference

    return difference(one, other)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyEdges:
    """What a verification has of the world around it. Tests pass others."""

    clock_ns: Callable[[], int] = time.time_ns
    patience: Callable[[], Patience] = Patience  # for each side one
    open_bucket: OpenBucket = open_bucket
    open_registry: OpenRegistry = opened_registry
    difference: Callable[[BinaryIO, BinaryIO], str] = _difference
    new_seed: Callable[[], int] = lambda: secrets.randbits(32)


REAL: Final = VerifyEdges()


def verify(
    settings: VerifySettings, progress: ComparisonProgress | None = None, edges: VerifyEdges = REAL
) -> Verification:
    """Holds the report of a directory against what was given, and writes what was found."""
    report_dir = settings.report_dir
    summary = read_summary(report_dir)
    _require_campaign(settings, summary)
    if not (report_dir / AUDIT_JSONL).exists():
        raise UsageError(
            "There is no audit.jsonl in the report directory, so it is no run's own, or that of an earlier "
            "report: name the report directory of a run. Nothing was written."
        )
    require_report_files(report_dir)
    key = signing_key(settings.signing_key)
    with ExitStack() as stack:
        trail = stack.enter_context(closing(Trail(report_dir, known_beside(settings))))
        table = stack.enter_context(InstanceTable())
        ledger = VerifiedObjects.at(settings.ledger_at, summary.campaign)
        if ledger:
            stack.callback(ledger.close)
        work = _Work(settings, summary, table, ledger, progress or ComparisonProgress(), edges)
        work.read_report()
        work.ask_bucket()
        work.ask_registry()
        work.take_down()
        with drafts(report_dir, VERIFICATION_JSON) as written:
            found = work.write(written)
        facts = asdict(found)
        trail.record(Event.VERIFIED, user_id=settings.user_id, **_in_trail(facts), sha256=written.sha256)
        trail.flush()
        write_verification_certificate(report_dir, facts, written.sha256, trail.chain, trail.size_bytes, key)
    return found


def _require_campaign(settings: VerifySettings, summary: Summary) -> None:
    if settings.campaign not in (_DEFAULT_CAMPAIGN, summary.campaign):
        raise UsageError(
            "The report is of another campaign than --campaign says. Nothing was written. Leave it out: the "
            "report says which it is."
        )


def _in_trail(facts: dict[str, object]) -> dict[str, object]:
    names = ("run_id", "campaign", "bucket", "dicomweb_host", "instances", "confirmed", "by_sign", "unknown")
    return {name: facts[name] for name in (*names, "deep", "seed", "taken_down", "exit_code")}


@dataclass(slots=True)
class _Work:
    """One verification, step by step; what one leaves to the next is in the table."""

    settings: VerifySettings
    summary: Summary
    table: InstanceTable
    ledger: VerifiedObjects | None
    progress: ComparisonProgress
    edges: VerifyEdges
    problems: list[str] = field(default_factory=list)
    stopped: IngestError | None = None
    seed: int | None = None
    taken_down: int = 0
    started_ns: int = 0

    def read_report(self) -> None:
        """The report's rows, what ingest said of their objects, and what was sent again since."""
        self.started_ns = self.edges.clock_ns()
        self.progress.begin("rows of the report", self.summary.files)
        self.table.add_report(self._counted(read_cells(self.settings.report_dir, CELLS)))
        if self.ledger:
            newer = self.ledger.newer_keys(self._sent(self.table.stored()))
            self.table.add_newer_keys([(escape(key), escape(now)) for key, now in newer])
        self.table.add_registration(read_registration(self.settings.report_dir))
        if self.ledger:  # it is newer than any file
            known = self.ledger.registrations()
            self.table.add_registration((escape(key), status, escape(to)) for key, status, to in known)
            done = [*self.ledger.registered(self._registry, self._sent(self.table.conflicts()))]
            self.table.add_registration((escape(key), ObjectStatus.REGISTERED, "") for key in done)

    def ask_bucket(self) -> None:
        """What the bucket says of every instance; UsageError when it can't be used, or is another one."""
        address = self.settings.bucket_at
        if address is None:
            return
        patience = self.edges.patience()
        bucket = opened_bucket(address, patience, self.edges.open_bucket)
        try:
            ask_bucket(self.table, bucket, patience, self.progress)
        except Fault as fault:
            patience.last = fault
        self._note_trouble(Side.BUCKET, self.table.end_bucket(), patience)

    def ask_registry(self) -> None:
        """What the registry says of every instance, and what its copies of some of them are."""
        if not self.settings.dicomweb_url:
            return
        patience = self.edges.patience()
        try:
            with self.edges.open_registry(self.settings) as (loop, registry):
                side = RegistrySide(self.table, loop, registry, patience, self.progress)
                side.ask()
                self._note_miscounted(side.miscounted)
                if count := self._sample_size():
                    deep = DeepSide(
                        self.table, loop, registry, patience, self.progress, self.edges.difference
                    )
                    deep.compare(count, self._new_seed())
                    self._note_not_retrieved(patience)
        except CredentialsRefusedError as refused:
            self.stopped = refused
            self.problems.append(str(refused))
        self._note_trouble(Side.REGISTRY, self.table.end_registry(), patience)
        self._doubt_names()

    def _doubt_names(self) -> None:
        """A UID is there, and it may be that of other bytes: as the ledger knows of ingest, or the report."""
        several = [*self._sent(self.table.ambiguous())]
        known: set[str] = set()
        if self.ledger:
            other = [*self.ledger.registered_otherwise(self._registry, self._sent(self.table.registered()))]
            self.table.add_registration((escape(key), ObjectStatus.CONFLICT, "") for key in other)
            known = {*self.ledger.registered(self._registry, several)}
        self.table.set_ambiguous(escape(each.key) for each in several if each.key not in known)

    @property
    def _registry(self) -> str:
        """As the ledger names it; empty when none is asked."""
        return registry_of(self.settings.dicomweb_url) if self.settings.dicomweb_url else ""

    @staticmethod
    def _sent(rows: Iterator[tuple[str, str, str]]) -> Iterator[SentInstance]:
        return (SentInstance(uid, unescape(key), sha256) for uid, key, sha256 in rows)

    def take_down(self) -> None:
        """Has the ledger know what is lost: so a run sends it again, and ingest registers it again."""
        if self.ledger and self.settings.dicomweb_url:
            self.ledger.forget_registrations(self._registry, self.table.unregistered())
        if not self.table.count_lacking():
            return
        if self.ledger is None:
            self.problems.append(
                "The ledger was not found, so nothing was taken down in it: run sends nothing again. Name it "
                "with --ledger."
            )
            return
        lacking, count = self.table.lacking(), self.table.count_lacking()
        lost = (SentInstance(each.uid, unescape(each.current_key), each.sha256) for each in lacking)
        self.taken_down, without_file = self.ledger.take_down(lost)
        if self.taken_down < count:
            rest = counted(count - self.taken_down, "instance")
            self.problems.append(
                f"{rest} that the bucket lacks: the ledger has no such object as its current one. Name the "
                "run's --ledger, or run its manifest again."
            )
        if without_file:
            were = f"{counted(without_file, 'instance')} that the bucket lacks"
            self.problems.append(f"{were} can't be sent again, for no file of it is there: restore it.")

    def write(self, written: Drafts) -> Verification:
        """Everything but the trail's line and the certificate."""
        write_instances(written, self.table)
        to_register, left_out = write_keys(written, self.table)
        if left_out:
            self.problems.append(f"Keys that can be no line of {REPAIR_KEYS_TXT}: {left_out:,}.")
        safe: Counter[str] = Counter({str(each): 0 for each in SafeToDelete})
        self.progress.begin("studies", self.summary.studies)
        page = verified_rows(self.settings.report_dir, self.summary)
        with opened_studies(self.settings.report_dir) as studies:
            verdicts = self._verdicts(studies.rows)
            asked = bool(self.settings.dicomweb_url)
            lacking = self.table.lacking_studies()
            for each in write_studies(written, studies.carried, verdicts, lacking, registry_asked=asked):
                safe[each.safe] += 1
                page.add_verified_study(each.written(registry_asked=asked).cells)
                self.progress.count()
        found = self._found(safe, to_register)
        write_summary(written, found)
        write_verified_page(written, self.settings.report_dir, self.summary, page, found)
        return found

    def _verdicts(self, studies: Iterator[WrittenStudy]) -> Iterator[StudyVerdict]:
        report_dir, ledger_file = self.settings.report_dir, sqlite_file(self.settings.ledger_at)
        with opened_studies(report_dir) as again:
            entries = StudyEntries(each.entry() for each in again.rows)
        ownership = survey(entries, unescape(self.summary.root) or None)
        own = own_files([report_dir], ledger_file if ledger_file and ledger_file.exists() else None)
        look = FreshLook(
            replace(ownership, own=own),
            self.ledger,
            _ns(self.summary.started_at),
            [real_path(each) for each in (report_dir, *([ledger_file.parent] if ledger_file else []))],
        )
        cells = read_cells(report_dir, LOOKED_AT)
        asked = self.settings.bucket_at is not None
        return study_verdicts(self.table, studies, look, cells, bucket_asked=asked)

    def _found(self, safe: Counter[str], to_register: int) -> Verification:
        totals = totals_of(self.table.counts(), self.table.count_extra())
        stopped = self.stopped.exit_code if self.stopped else None
        finished_ns, address = self.edges.clock_ns(), self.settings.bucket_at
        return Verification(
            run_id=self.summary.run_id,
            campaign=self.summary.campaign,
            bucket=str(address or ""),
            dicomweb_host=host_of(self.settings.dicomweb_url) if self.settings.dicomweb_url else "",
            started_at=_iso(self.started_ns),
            finished_at=_iso(finished_ns),
            wall_s=round(max(0, finished_ns - self.started_ns) / 1e9, 3),
            instances=totals.stored,
            confirmed=totals.by_sign[Sign.EVERYWHERE],
            by_sign={each.value: totals.by_sign[each] for each in Sign if totals.by_sign[each]},
            unknown=totals.unknown,
            in_bucket=totals.in_bucket,
            registered=totals.registered,
            compared_in_bucket=totals.compared_in_bucket,
            deep=self.settings.deep,
            seed=self.seed,
            retrieved=dict(totals.retrieved),
            studies=safe.total(),
            safe_to_delete=dict(safe),
            taken_down=self.taken_down,
            to_send=totals.by_sign[Sign.NOT_IN_BUCKET],
            to_register=to_register,
            exit_code=exit_code(totals.by_sign, totals.unknown, stopped),
            problems=self.problems,
        )

    def _counted(self, rows: Iterator[list[Any]]) -> Iterator[list[Any]]:
        for row in rows:
            self.progress.count()
            yield row

    def _sample_size(self) -> int:
        sample = self.settings.sample
        return sample.instances or ceil(self.table.count_registered() * sample.percent / 100)

    def _new_seed(self) -> int:
        given = self.settings.seed
        self.seed = self.edges.new_seed() if given is None else given
        return self.seed

    def _note_miscounted(self, studies: int) -> None:
        if studies:
            self.problems.append(
                f"The registry says of {counted(studies, 'study')} that it has another number of instances "
                "than could be found there."
            )

    def _note_not_retrieved(self, patience: Patience) -> None:
        if count := self.table.count_not_retrieved():
            copies = counted(count, "instance")
            self.problems.append(
                f"{copies} could not be retrieved from the registry, the last: {patience.last}."
            )

    def _note_trouble(self, side: Side, unknown: int, patience: Patience) -> None:
        """Why something is not known; who is refused from the start has wrong credentials."""
        fault = patience.last
        if not unknown or fault is None:
            return
        count = counted(unknown, "instance")
        self.problems.append(
            f"The {side.value.name} gave no certain answer about {count}, the last: {fault}."
        )
        if fault.kind in REFUSALS and not patience.answered:
            self.stopped = ending_at(side, fault)
            self.problems.append(str(self.stopped))


def _iso(ns: int) -> str:
    at = datetime.fromtimestamp(ns // 10**9, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{ns % 10**9 // 1000:06d}Z"


def _ns(at: str) -> int:
    """The time that a summary has; of one that has none, none is earlier."""
    try:
        return int(datetime.fromisoformat(at).timestamp()) * 10**9
    except ValueError:
        return 0
