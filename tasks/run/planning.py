"""`dicom-ingest plan`: what a run of this manifest would find, say and take, before it is begun.

    from tasks.run.planning import plan

    facts = plan(Path("manifest.csv"), load(api_endpoint="https://api.example.org"), PlanSettings())

No file is sent. One URL is asked for, as at a run's start: its key goes to the audit trail of the report
directory and into `unused_keys`. What is found stays in plan.json there, for the summary of the run.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from tasks.bucket_settings import BucketSettings
from tasks.core.audit_chain import Event
from tasks.core.bandwidth import bandwidth_of
from tasks.core.completeness import exit_code
from tasks.core.errors import CredentialsRefusedError, Fault, IngestError, UsageError
from tasks.core.forecast import Limits, Rates, Source, Work, forecast, in_numbers, limits_of
from tasks.core.models import EXIT_ONE, Rejected, Status, StudyEntry, Target
from tasks.core.progress import Progress
from tasks.core.words import counted
from tasks.dicomweb_settings import DicomwebSettings
from tasks.ledger.database import sqlite_file
from tasks.ledger.earlier_runs import begins
from tasks.ledger.known_files import EarlierPace, is_of_this_version, known_files
from tasks.ledger.platforms import require_same_platform
from tasks.plan_settings import PlanSettings
from tasks.report.plan_file import write_plan
from tasks.report.tables import iso
from tasks.run import edges as all_edges
from tasks.run.edges import Edges
from tasks.run.foreseen import Foresight
from tasks.run.planned_files import FileCounts, PlannedFiles
from tasks.run.preflight import open_trail, read_manifest, target_of
from tasks.run.probes import (
    PlatformFacts,
    Probe,
    ProbeResult,
    probe_bucket,
    probe_dicomweb,
    probe_platform,
    room_for,
)
from tasks.run.run_rules import problems_of, rules_of
from tasks.settings import Settings
from tasks.source.archives import Archives
from tasks.source.member_content import read_source
from tasks.source.own_files import own_files, require_none_in
from tasks.source.scan import Ownership, survey
from tasks.source.study_order import ordered

Watch: TypeAlias = Callable[[Progress], AbstractContextManager[object]]

_MEASURED_S: Final = 2.0  # that files are read for, to know how fast they are
_SENDING_CPU_S: Final = 0.002  # of a file's way but for its bytes (tests/benchmarks/README.md)
_LEAST_SLOT_S: Final = 0.02  # that a PUT holds a slot
_SLOT_BOUND: Final = 0.7  # of what the slots could do: who came so near was bound by them
_MOST_MEASURED_BYTES: Final = 64 * 1024 * 1024
_NO_RATE: Final = (
    "The network's rate is not known, for nothing was sent: the forecast holds where the network is no "
    "bound. Name its rate by --rate, or plan again after a first run."
)
_INCOMPLETE: Final = "Every file would be stored, and a study would not be complete"
_OLD_LEDGER: Final = (
    "The ledger is of another version of dicom-ingest: what it has is not known to this plan. The next run "
    "brings it to this one."
)


@dataclass(frozen=True, slots=True)
class Sides:
    """What is tried out besides the platform, where it is given."""

    bucket: BucketSettings = field(default_factory=BucketSettings)
    dicomweb: DicomwebSettings = field(default_factory=DicomwebSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """A plan: what has a name in summary.json has it here, and is what the summary would say."""

    campaign: str
    api_host: str
    storage_hosts: list[str]
    manifest_sha256: str
    root: str
    files: int
    bytes: int  # that would be sent
    by_status: dict[str, int]
    studies: int
    complete_studies: int | None  # None: a sample does not tell
    exit_code: int
    problems: list[str]
    unused_keys: list[str]
    made_at: str
    is_full: bool  # every file that a run would open was opened; else a sample stands for all
    files_opened: int
    found_bytes: int  # of all files
    largest_bytes: int
    by_reason: dict[str, int]  # status/reason of what is not sent
    modalities: dict[str, int]
    transfer_syntaxes: dict[str, int]
    known_files: int  # that the ledger has as stored
    known_bytes: int
    overlapping_studies: int
    free_bytes: int
    needed_bytes: int
    probes: list[Probe]
    forecast: dict[str, Any]

    @property
    def verdict(self) -> str:
        """What a run comes to, in one sentence."""
        failed = ", ".join(probe.name for probe in self.probes if probe.result is ProbeResult.FAILED)
        if self.exit_code in (UsageError.exit_code, CredentialsRefusedError.exit_code):
            return f"A run would not begin (exit code {self.exit_code}): {failed}."
        if failed:
            return f"A run would not come to a good end: {failed}."
        if self.forecast["duration_s"] is None:
            return "A run would not end: the times at which files may be sent do not suffice."
        if self.exit_code:
            bad = sum(self.by_status.get(status, 0) for status in EXIT_ONE)
            files = f"{bad:,} of {counted(self.files, 'file')} would not be stored" if bad else _INCOMPLETE
            return f"{files}{'' if self.is_full else ', as far as a sample shows'}: exit code 1."
        return "Nothing is in the way of a run."

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`."""
        return asdict(self)


def plan(
    manifest: Path,
    settings: Settings,
    plan_settings: PlanSettings | None = None,
    sides: Sides | None = None,
    watch: Watch = nullcontext,
    limits: Limits | None = None,
    edges: Edges | None = None,
) -> PlanFacts:
    """The plan of one manifest. `limits`: when files may be sent, and how fast; by default as settings say.

    Raises UsageError for a manifest or settings that are wrong; what is wrong with the platform is a probe.
    """
    edges, plan_settings = edges or all_edges.REAL, plan_settings or PlanSettings()
    entries = read_manifest(manifest, settings)
    target = target_of(settings, entries)
    ownership = survey(entries, settings.root or None)
    require_none_in(ownership.real_dirs, [settings.report_dir])
    platform, has_trail = _probe_platform(settings, target, edges)
    made_ns = edges.clock_ns()
    with watch(progress := Progress()):
        counts, pace = _count(entries, settings, plan_settings, ownership, made_ns, progress)
    room = room_for(counts.files, settings.report_dir, settings.ledger_at)
    probes = [*platform.probes, *_probe_sides(settings, sides or Sides()), room.probe]
    rates = _rates(counts, platform, pace, settings, plan_settings)
    said = _forecast(counts, rates, made_ns, limits or _limits(settings))
    facts = PlanFacts(
        campaign=settings.campaign,
        api_host=target.api_host,
        storage_hosts=[platform.storage_host] if platform.storage_host else [],
        manifest_sha256=target.manifest_sha256,
        root=target.root,
        exit_code=_exit_code(counts, probes) or int(said["duration_s"] is None),
        problems=_problems(settings, ownership, is_rate_known=rates.network_from is not Source.UNKNOWN),
        unused_keys=[platform.answer.key] if platform.answer and platform.answer.key else [],
        made_at=iso(made_ns),
        overlapping_studies=len(ownership.overlaps),
        **asdict(room),
        probes=probes,
        forecast=said,
        **_of_files(counts, is_full=plan_settings.full),
    )
    if has_trail:
        write_plan(settings.report_dir, facts.as_json(), facts.verdict)
    return facts


def _count(
    entries: Sequence[StudyEntry],
    settings: Settings,
    plan_settings: PlanSettings,
    ownership: Ownership,
    now_ns: int,
    progress: Progress,
) -> tuple[FileCounts, EarlierPace | None]:
    """The files, and how fast an earlier run was."""
    own = own_files([settings.report_dir], sqlite_file(settings.ledger_at))
    ownership = replace(ownership, own=own, archives=Archives() if settings.archives else None)
    with (
        known_files(settings.ledger_at, settings.campaign) as known,
        closing(Foresight(settings.accepted, settings.on_conflict, ownership)) as foresight,
    ):
        files = PlannedFiles(plan_settings, rules_of(settings, now_ns), ownership, known, foresight, progress)
        return files.count(ordered(entries, settings.order, ownership)), known.pace()


def _probe_platform(settings: Settings, target: Target, edges: Edges) -> tuple[PlatformFacts, bool]:
    """What is known of the platform; whether the report directory has a line of it, and so may have more.

    The API is asked once its key can be accounted for. Without a key no directory stays.
    """
    with ExitStack() as undo:
        try:
            require_same_platform(settings.ledger_at, settings.campaign, target)
            trail = open_trail(undo, settings)
        except IngestError as error:
            names = ("api", "credentials", "presign", "clock", "storage")
            refused = Probe("records", ProbeResult.FAILED, str(error), error.exit_code)
            return PlatformFacts([refused, *(Probe(name, ProbeResult.NOT_TRIED) for name in names)]), False
        facts = probe_platform(settings, edges)
        facts.probes.insert(0, Probe("records", ProbeResult.OK, "Ledger and audit trail go on."))
        if not (facts.answer and facts.answer.key):
            return facts, False
        trail.record(
            Event.PLANNED,
            campaign=settings.campaign,
            user_id=settings.user_id,
            api_host=target.api_host,
            manifest_sha256=target.manifest_sha256,
            key=facts.answer.key,
        )
        trail.flush()
        undo.pop_all()
        trail.close()
        return facts, True


def _probe_sides(settings: Settings, sides: Sides) -> list[Probe]:
    allow_http = settings.allow_http
    found = (
        probe_bucket(sides.bucket, allow_http=allow_http),
        probe_dicomweb(sides.dicomweb, settings.ca_bundle, allow_http=allow_http),
    )
    return [probe for probe in found if probe]


def _of_files(counts: FileCounts, *, is_full: bool) -> dict[str, Any]:
    by_status = {status.value: counts.by_status[status] for status in Status if counts.by_status[status]}
    named = ("by_reason", "modalities", "transfer_syntaxes")
    names = ("files", "bytes", "studies", "found_bytes", "largest_bytes", "known_files", "known_bytes")
    return {
        **{name: getattr(counts, name) for name in names},
        **{name: dict(getattr(counts, name).most_common()) for name in named},
        "by_status": by_status,
        "complete_studies": counts.complete_studies if is_full else None,
        "is_full": is_full,
        "files_opened": counts.opened,
    }


def _exit_code(counts: FileCounts, probes: list[Probe]) -> int:
    """That of a run: what ends it before its scan wins."""
    codes = {probe.exit_code for probe in probes}
    for code in (CredentialsRefusedError.exit_code, UsageError.exit_code):
        if code in codes:
            return code
    return exit_code(counts.by_status, counts.incomplete_studies) or max(codes, default=0)


def _problems(settings: Settings, ownership: Ownership, *, is_rate_known: bool) -> list[str]:
    problems = problems_of(ownership)
    if not is_of_this_version(settings.ledger_at):
        problems.append(_OLD_LEDGER)
    if sentence := begins(settings.ledger_at, settings.campaign).sentence(settings.campaign):
        problems.append(sentence)
    return problems if is_rate_known else [*problems, _NO_RATE]


def _limits(settings: Settings) -> Limits:
    """What the run's own windows and bandwidth let through."""
    return limits_of(settings.windows, bandwidth_of(settings.bandwidth) if settings.bandwidth else None)


def _forecast(counts: FileCounts, rates: Rates, made_ns: int, limits: Limits) -> dict[str, Any]:
    sent = counts.by_status[Status.UPLOADED]
    work = Work(sent, counts.bytes, max(0, counts.files - counts.known_files - sent))
    found = forecast(work, rates, made_ns / 1e9, limits)
    ends_at = iso(int(found.ends_at_s * 1e9)) if math.isfinite(found.ends_at_s) else None
    return {"made_at": iso(made_ns), "ends_at": ends_at, **in_numbers(found, work, rates)}


def _rates(
    counts: FileCounts,
    platform: PlatformFacts,
    pace: EarlierPace | None,
    settings: Settings,
    plan_settings: PlanSettings,
) -> Rates:
    """From what was measured, what was given, and what an earlier run of the campaign did."""
    slot_s = max(_LEAST_SLOT_S, (platform.presign_s or 0.0) + (platform.reach_s or 0.0))
    rates = Rates(
        slots=settings.parallel,
        slot_s_per_file=slot_s,
        cpu_s_per_file=_SENDING_CPU_S,
        cpu_s_per_byte=_cpu_s_per_byte(counts.to_send),
    )
    if pace and pace.files_per_s >= _SLOT_BOUND * pace.slots / slot_s:
        rates = replace(rates, slot_s_per_file=pace.slots / pace.files_per_s, slots_from=Source.EARLIER_RUN)
    elif pace:
        rates = replace(rates, bytes_per_s=pace.bytes_per_s, network_from=Source.EARLIER_RUN)
    if given := plan_settings.bytes_per_s:
        rates = replace(rates, bytes_per_s=given, network_from=Source.GIVEN)
    return rates


def _cpu_s_per_byte(paths: list[str]) -> float:
    """Of reading, parsing and hashing some files as a run does, for a second or two."""
    until, began_s, read_bytes = time.monotonic() + _MEASURED_S, time.process_time(), 0
    for path in paths:
        content = read_source(path, lambda _: False, None)
        if isinstance(content, Rejected):
            continue
        try:
            if content.size_bytes <= _MOST_MEASURED_BYTES:
                content.compute_digests()
                read_bytes += content.size_bytes
        except (OSError, Fault):  # it changes: what a run says of that is its affair
            continue
        finally:
            content.close()
        if time.monotonic() > until:
            break
    return (time.process_time() - began_s) / read_bytes if read_bytes else 0.0
