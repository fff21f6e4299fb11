"""The engine: from checked study entries to a report. Two shells run it: Prefect's flow, and `ingest` here.

    from tasks.run.engine import ingest
    from tasks.source.manifest_reader import load_manifest
    from tasks.settings import load

    summary = ingest(load_manifest(Path("manifest.csv")), load(api_endpoint="https://api.example.org"))

`ingest` returns the Summary that is also in summary.json; `summary.exit_code` is the command line's. It
raises UsageError when nothing was attempted, CredentialsRefusedError when it was because of credentials, and
StoppedError when no report could be written.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from tasks.audit.certificate import sha256_of, signing_key, write_certificate
from tasks.audit.log import Trail
from tasks.core.audit_chain import Event
from tasks.core.errors import (
    Fault,
    FaultKind,
    IngestError,
    InternalError,
    InterruptedRunError,
    UsageError,
    ending,
)
from tasks.core.models import Listed, RunFacts, StudyEntry, Summary, Unwalked
from tasks.core.plan import Rules, batch_target
from tasks.core.words import counted
from tasks.ledger.ledger import Ledger
from tasks.ledger.runs import Begins, begins
from tasks.report.directory import REPORT_CSV, write_report
from tasks.run.preflight import NOT_ASKED, FirstAnswer, first_answer, open_trail
from tasks.settings import Settings
from tasks.source.scan import Ownership, survey, walk_study
from tasks.upload.assembly import carrier, connect
from tasks.upload.slots import Slots
from tasks.upload.uploader import Progress, Uploader

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = logging.getLogger("dicom_ingest")

BATCHES_IN_FLIGHT: Final = 3  # so that no slot waits at a batch's edge
# The main thread never waits for longer without looking up: a signal that comes in the moment before a wait
# begins interrupts nothing, and is heeded only when the thread runs again.
LOOK_UP_S: Final = 0.5
_ENROLLED_AT_ONCE: Final = 1000
Scan: TypeAlias = Callable[[StudyEntry, Ownership], Iterator[Listed | Unwalked]]
Watch: TypeAlias = Callable[[Progress], AbstractContextManager[object]]
_MAX_PROBLEMS: Final = 20


class Stoppable(Protocol):
    """What work is done by, as far as its end is concerned."""

    def stop(self, why: IngestError) -> None:
        """Begins nothing any more."""
        ...


@dataclass(frozen=True, slots=True)
class Records:
    """Where a run is written down, open for it alone, and what was found out before that began."""

    trail: Trail
    ledger: Ledger
    key: "Ed25519PrivateKey | None"  # that signs the certificate
    begins: Begins
    first: FirstAnswer


class Engine:
    """One run in one process. `batches` scans and plans, `upload` sends one batch, `finish` reports.

    The three may be called from different threads; what carries a run from one to the next is the ledger.
    """

    def __init__(
        self,
        entries: Sequence[StudyEntry],
        settings: Settings,
        run_id: str = "",
        scan: Scan = walk_study,
        shard: Collection[int] | None = None,
    ) -> None:
        """Asks the API for one URL, then opens the ledger: what is wrong is raised before anything is made.

        A shard does not ask, for its migration has: what is wrong since then is its report's, and a platform
        that is down is waited for.
        `shard`: the study_nos that are this run's, of all entries; the ledger has it (`tasks/run/shards.py`).
        """
        self.run_id = run_id or uuid.uuid4().hex
        self.settings = settings
        self.progress = Progress()
        self._scan = scan
        ours = entries if shard is None else [entry for entry in entries if entry.study_no in shard]
        self._entries = sorted(ours, key=lambda entry: (-entry.priority, entry.study_no))
        self._started_ns = time.time_ns()
        self._stopping = threading.Event()
        self._territory: Ownership = survey(entries, settings.root or None)
        self._rules = _rules(settings, self._started_ns)
        self._began = time.monotonic()
        with ExitStack() as undo:
            self._client = connect(settings)
            undo.callback(self._client.close)
            ask = (lambda: NOT_ASKED) if shard is not None else partial(first_answer, settings, self._client)
            records = open_records(undo, settings, self.run_id, len(ours), ask, self.progress.counters)
            self._trail, self._ledger = records.trail, records.ledger
            self._key, self.begins = records.key, records.begins
            self._begin(entries, is_shard=shard is not None)
            refusal = keep_unused(self._ledger, records.first)
            undo.pop_all()
        self._any_granted = bool(records.first.key)
        self._uploader = self._new_uploader()
        self._is_drained = False
        if refusal:
            self._uploader.stop(refusal)

    def limit_parallel(self, parallel: int) -> None:
        """So many uploads at once and no more, of those that the settings allow. Before `batches`."""
        before = self._uploader
        self.settings = replace(self.settings, parallel=parallel)
        self._uploader = self._new_uploader()
        try:
            before.raise_if_stopped()
        except IngestError as why:  # somebody stopped the run a moment ago
            self._uploader.stop(why)

    def batches(self) -> Iterator[int]:
        """Scans lazily; yields the number of each batch that has files to send, as soon as it is full."""
        batch_no, todo = 1, 0
        for rows, scanned in _chunks(self._rows()):
            to_do = self._ledger.enrol(batch_no, rows, scanned, self._rules)
            self._uploader.count_listed(len(rows), to_do)
            todo += to_do
            self._uploader.raise_if_stopped()
            if todo >= batch_target(batch_no):
                yield batch_no
                batch_no, todo = batch_no + 1, 0
        self.progress.scanning = False
        if todo:
            yield batch_no

    def upload(self, batch_no: int) -> None:
        """Sends what is not settled of a batch; raises IngestError when the run stops."""
        self._trail.record(Event.BATCH_STARTED, batch_no=batch_no)
        self._uploader.upload(self._ledger.todo(batch_no))

    def stop(self, why: IngestError) -> None:
        """Starts no file any more. Safe from any thread, and from a signal handler's."""
        self._uploader.stop(why)

    def raise_if_stopped(self) -> None:
        """Why the run stops, when it does."""
        self._uploader.raise_if_stopped()

    def drain(self) -> None:
        """Ends the workers: no PUT is under way any more. Nothing follows but `finish`."""
        if not self._is_drained:
            self._uploader.drain()
            self._is_drained = True

    def finish(self, why: IngestError | None = None) -> Summary:
        """Ends the workers and writes the report; `why` is what stopped the run before its end."""
        try:
            self.drain()
            if why is not None:
                self._ledger.enrol_unscanned()
            facts = RunFacts(
                self.run_id,
                self.settings.campaign,
                self._started_ns,
                time.time_ns(),
                peak_parallel=self._uploader.peak,
                parallel_course=self._uploader.course,
                problems=self._problems(why),
                stopped_exit_code=why.exit_code if why else None,
            )
            self._ledger.end(facts)
            return write(
                self.settings.report_dir, facts, self._ledger, self._trail, Event.RUN_ENDED, self._key
            )
        finally:
            self._ledger.close()
            self._trail.close()
            self._client.close()

    def _begin(self, entries: Sequence[StudyEntry], *, is_shard: bool) -> None:
        """The ledger knows from here on that the run is at work."""
        at = self._started_ns, self.settings.report_dir
        if not is_shard:
            self._ledger.begin(*at, entries, self._territory.overlaps)
        elif not self._ledger.take_up(*at):
            raise UsageError(
                f"This shard is at work, or was killed less than {self.settings.dead_after:.0f} s ago. "
                "Nothing was sent."
            )

    def _new_uploader(self) -> Uploader:
        slots = Slots(self.settings.parallel, began=self._began)
        the_carrier = carrier(self.settings, self._client, self._ledger, slots, self._stopping)
        the_carrier.any_granted = self._any_granted
        return Uploader(the_carrier, self._ledger, slots, self._stopping, self.progress, self.settings)

    def _rows(self) -> Iterator[tuple[Listed | Unwalked | None, int]]:
        """The scan's rows, each with its study_no; after a study's last row comes None."""
        for entry in self._entries:
            for row in self._scan(entry, self._territory):
                yield row, entry.study_no
            yield None, entry.study_no

    def _problems(self, why: IngestError | None) -> list[str]:
        return ([str(why)] if why else []) + problems_of(self._territory)


def ingest(
    entries: Sequence[StudyEntry],
    settings: Settings,
    watch: Watch = nullcontext,
    scan: Scan = walk_study,
    announce: Callable[[Begins], None] | None = None,
) -> Summary:
    """A whole run without Prefect; `watch` may show its progress meanwhile, `announce` what begins anew."""
    engine = Engine(entries, settings, scan=scan)
    if announce:
        announce(engine.begins)
    elif sentence := engine.begins.sentence(settings.campaign):
        log.warning(sentence)
    with watch(engine.progress):
        return engine.finish(ended_by(engine, lambda: _upload_all(engine)))


def report_again(
    report_dir: Path, ledger_at: str | Path, campaign: str, key_at: Path | None = None
) -> Summary:
    """Writes the report of a directory's newest run from the ledger alone: after a kill, or a full disk."""
    key = signing_key(key_at)
    with ExitStack() as stack:
        ledger = Ledger.of_last_run(ledger_at, campaign, report_dir)
        stack.callback(ledger.close)
        trail = Trail(report_dir)
        stack.callback(trail.close)
        account_for_all(ledger, ledger_at)
        return write(report_dir, ledger.facts(), ledger, trail, Event.REPORT_WRITTEN, key)


def write(
    report_dir: Path,
    facts: RunFacts,
    ledger: Ledger,
    trail: Trail,
    event: Event,
    key: "Ed25519PrivateKey | None",
) -> Summary:
    """The report, the trail's last line, and the certificate over both."""
    facts = replace(facts, unused_keys=ledger.unused_keys())
    summary = write_report(report_dir, facts, ledger.studies(), ledger.overlaps(), ledger.report_rows())
    trail.record(
        event,
        run_id=summary.run_id,
        files=summary.files,
        by_status=summary.by_status,
        exit_code=summary.exit_code,
        report_sha256=sha256_of(report_dir / REPORT_CSV),
    )
    trail.flush()
    write_certificate(report_dir, summary, trail.chain, key)
    return summary


def open_records(
    undo: ExitStack,
    settings: Settings,
    run_id: str,
    studies: int,
    ask: Callable[[], FirstAnswer],
    counters: Callable[[], dict[str, int]] = dict,
) -> Records:
    """Opens what a run is written down in, and `ask`s the platform before there is a ledger of it.

    `undo` takes all of it back: whatever refuses the run leaves nothing. The ledger is opened last, for a new
    one may be another run's by the time that it would be removed.
    """
    key = signing_key(settings.signing_key)
    trail = open_trail(undo, settings.report_dir)
    anew = begins(settings.ledger_at, settings.campaign)
    first = ask()
    ledger = Ledger(settings.ledger_at, settings.campaign, run_id, settings.dead_after, trail, counters)
    undo.callback(ledger.close)
    tell_start(trail, run_id, settings, studies)
    return Records(trail, ledger, key, anew, first)


def tell_start(trail: Trail, run_id: str, settings: Settings, studies: int) -> None:
    """The trail's first lines about a run."""
    trail.record(
        Event.RUN_STARTED,
        run_id=run_id,
        campaign=settings.campaign,
        version=version("dicom-ingest"),
        user_id=settings.user_id,
        settings_sha256=settings.digest,
        studies=studies,
    )
    trail.record(Event.CREDENTIAL, credential=settings.credential)


def keep_unused(ledger: Ledger, answer: FirstAnswer) -> IngestError | None:
    """Makes the key durable that was handed out at the start; the run's end when it is an old one."""
    if not answer.key or ledger.issue_unused(answer.key, answer.asked_ns):
        return None
    return ending(Fault(FaultKind.KEY_REUSED, "the API handed out a key that it had handed out before"))


def account_for_all(ledger: Ledger, ledger_at: str | Path) -> None:
    """A row for every study directory that nobody walked to its end, of the run or of each of its shards."""
    shards = ledger.shards()
    if not shards:
        ledger.enrol_unscanned()
    for shard in shards:
        with closing(Ledger(ledger_at, ledger.campaign, shard.run_id)) as each:
            each.enrol_unscanned()


def problems_of(territory: Ownership) -> list[str]:
    """What is odd about a manifest's directories, for the summary."""
    overlaps = territory.overlaps
    told = [
        f"study {study_no} lies in or around study {earlier}: each file is reported once"
        for study_no, earlier in list(overlaps.items())[:_MAX_PROBLEMS]
    ]
    if len(overlaps) > _MAX_PROBLEMS:
        told.append(f"and {counted(len(overlaps) - _MAX_PROBLEMS, 'more overlap')}: see studies.csv")
    return told


def ended_by(engine: Stoppable, work: Callable[[], object]) -> IngestError | None:
    """Does the work. When it ends early, stops the engine and returns why, as an error safe to show."""
    try:
        work()
    except IngestError as error:
        why = error
    except Exception as error:  # noqa: BLE001 - the report is due whatever happened
        why = InternalError.hiding(error)
    except BaseException:  # noqa: BLE001 - Ctrl-C, and the signals that Prefect raises
        why = InterruptedRunError("Interrupted. Run the same command again to go on: nothing is sent twice.")
    else:
        return None
    engine.stop(why)
    return why


@contextmanager
def safe_errors() -> Iterator[None]:
    """Lets errors of ours pass, and hides what others say: their text may name a patient."""
    try:
        yield
    except IngestError:
        raise
    except Exception as error:  # noqa: BLE001
        raise InternalError.hiding(error) from None


def _upload_all(engine: Engine) -> None:
    """Some batches in flight at a time, in the order of the plan."""
    with ThreadPoolExecutor(BATCHES_IN_FLIGHT, thread_name_prefix="batch") as pool:
        in_flight: set[Future[None]] = set()
        try:
            for batch_no in engine.batches():
                in_flight.add(pool.submit(engine.upload, batch_no))
                while len(in_flight) >= BATCHES_IN_FLIGHT:
                    in_flight = _without_done(in_flight)
            while in_flight:
                in_flight = _without_done(in_flight)
        except BaseException:
            engine.stop(InterruptedRunError("Interrupted."))  # or the pool would wait for all of it
            raise


def _without_done(futures: set[Future[None]]) -> set[Future[None]]:
    done, pending = wait(futures, LOOK_UP_S, FIRST_COMPLETED)
    for future in done:
        future.result()
    return pending


def _rules(settings: Settings, now_ns: int) -> Rules:
    if not settings.min_age:
        return Rules(settings.rehash)
    return Rules(settings.rehash, now_ns - int(settings.min_age * 1e9))


def _chunks(
    rows: Iterator[tuple[Listed | Unwalked | None, int]],
) -> Iterator[tuple[list[Listed | Unwalked], list[int]]]:
    """Rows to enrol at once, and the studies that end among them."""
    chunk: list[Listed | Unwalked] = []
    scanned: list[int] = []
    for row, study_no in rows:
        if row is None:
            scanned.append(study_no)
        else:
            chunk.append(row)
        if len(chunk) + len(scanned) >= _ENROLLED_AT_ONCE:
            yield chunk, scanned
            chunk, scanned = [], []
    if chunk or scanned:
        yield chunk, scanned
