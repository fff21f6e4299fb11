"""What is checked before a run begins: before the scan, and by `run` before Prefect takes seconds to start.

One URL is asked for, as for a file. Nothing is sent to it, and its key is accounted for: in the ledger, the
trail and `unused_keys` of summary.json. So refused credentials and wrong settings leave nothing behind.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.audit.certificate import signing_key
from tasks.audit.continuity import Known
from tasks.audit.log import Trail
from tasks.core.errors import (
    CredentialsRefusedError,
    Fault,
    FaultKind,
    IngestError,
    UsageError,
    WrongSettingsError,
    ending,
)
from tasks.core.escape import escape
from tasks.core.models import StudyEntry, Target
from tasks.core.retry import backoff_s
from tasks.core.study_entries import manifest_sha256
from tasks.ledger.platforms import require_same_platform
from tasks.ledger.private_directories import make_private, remove_empty
from tasks.remote.platform_client import Platform, warn_without_credentials
from tasks.report.directory import require_report_files
from tasks.run import edges as all_edges
from tasks.run.edges import Edges
from tasks.setting_values import host_of
from tasks.settings import ReportSettings, Settings
from tasks.source.manifest_reader import load_manifest

log = logging.getLogger("dicom_ingest")

_TRIES: Final = 5
_LAST_TRY_AFTER_S: Final = 20.0  # a server that lets each try run into a time-out is not asked for minutes
_FINAL: Final = frozenset({FaultKind.UNAUTHORIZED, FaultKind.FORBIDDEN, FaultKind.SETTINGS})


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """What the API answered at the start: a key to which nothing is sent, or none, as it throttles."""

    key: str
    asked_ns: int  # Unix nanoseconds


NOT_ASKED: Final = FirstAnswer("", 0)


def read_manifest(manifest: Path, settings: Settings) -> Sequence[StudyEntry]:
    """The study entries; those that the command of this process has read for this run are read once."""
    if (found := _found.get()) and found.manifest == manifest.absolute():
        entries, found.manifest, found.entries = found.entries, None, ()
        return entries
    return load_manifest(manifest, Path(settings.root) if settings.root else None)


def target_of(settings: Settings, entries: Sequence[StudyEntry] = ()) -> Target:
    """Where a run by these settings sends the files of these entries."""
    root = escape(str(Path(settings.root).absolute())) if settings.root else ""
    digest = manifest_sha256(entries)
    return Target(host_of(settings.api_endpoint), digest, root, settings.same_platform)


def check(settings: Settings, edges: Edges | None = None) -> FirstAnswer:
    """Everything that can be known before a run begins. No file and no directory of it stays.

    Raises UsageError, and CredentialsRefusedError when that is what is wrong.
    """
    with ExitStack() as undo:
        require_same_platform(settings.ledger_at, settings.campaign, target_of(settings))
        open_trail(undo, settings)
        warn_without_credentials(settings)
        platform = undo.enter_context(closing(Platform(settings)))
        return ask(platform, edges)


def open_trail(undo: ExitStack, settings: ReportSettings) -> Trail:
    """The trail of a report directory, which is made when missing; `undo` takes both back.

    UsageError when it is not as earlier runs left it, or another run has it, or the signing key is none.
    """
    known = known_beside(settings)
    undo.callback(remove_empty, make_private(settings.report_dir))
    require_report_files(settings.report_dir)
    trail = Trail(settings.report_dir, known)
    undo.callback(trail.undo)
    return trail


def known_beside(settings: ReportSettings) -> Known:
    """What a trail is held against, besides the certificates."""
    key = signing_key(settings.signing_key)
    return Known(settings.ledger_at, key.public_key() if key else None)


def ask(platform: Platform, edges: Edges | None = None) -> FirstAnswer:
    """Asks for one URL, a few times when there is no good answer.

    | the last answer                                     | what follows                     |
    | --------------------------------------------------- | -------------------------------- |
    | a URL and its key                                   | the run                          |
    | 429, 503                                            | the run: its own patience counts |
    | 401, 403, credentials refused or not to be read     | CredentialsRefusedError          |
    | another 4xx, TLS, a host that is not allowed        | UsageError                       |
    | none, 5xx, not JSON with a url and a key            | UsageError                       |
    """
    edges = edges or all_edges.REAL
    with _announced_when_slow(edges.announced_after_s):
        began, tries = edges.clock(), 0
        while True:
            tries += 1
            answer = _try_once(platform, edges)
            if isinstance(answer, FirstAnswer):
                return answer
            pause_s = min(edges.longest_pause_s, backoff_s(answer, tries + 1, 1.0))
            if tries >= _TRIES or edges.clock() - began + pause_s >= _LAST_TRY_AFTER_S:
                return _without_answer(answer, edges, tries)
            edges.sleep(pause_s)


def _try_once(platform: Platform, edges: Edges) -> FirstAnswer | Fault:
    try:
        return FirstAnswer(platform.presign().key, edges.clock_ns())
    except (CredentialsRefusedError, WrongSettingsError) as error:
        raise _at_the_start(error) from None
    except Fault as fault:
        if fault.kind in _FINAL:
            raise _at_the_start(ending(fault)) from None
        return fault


def _without_answer(fault: Fault, edges: Edges, tries: int) -> FirstAnswer:
    """After the last try: none, when the platform throttles; the run is patient. Else UsageError."""
    if fault.kind is not FaultKind.THROTTLED:
        raise UsageError(_no_answer(fault, tries))
    log.warning("The platform throttles at the start: %s. The run begins all the same.", fault)
    return FirstAnswer("", edges.clock_ns())


@contextmanager
def _announced_when_slow(after_s: float) -> Iterator[None]:
    """Says what is waited for, once it takes longer than `after_s`."""
    what = "Waiting for a good answer of the upload API; it is asked a few times, for a minute or so ..."
    timer = threading.Timer(after_s, log.warning, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass(slots=True)
class _Found:
    """What the command of this process found out for the run that it begins; each part is used once."""

    manifest: Path | None
    entries: Sequence[StudyEntry]
    answer: FirstAnswer | None


@contextmanager
def pass_on(
    answer: FirstAnswer, manifest: Path | None = None, entries: Sequence[StudyEntry] = ()
) -> Iterator[None]:
    """The run that begins within the block, in this process, neither asks nor reads its manifest again."""
    token = _found.set(_Found(manifest and manifest.absolute(), entries, answer))
    try:
        yield
    finally:
        _found.reset(token)


def first_answer(settings: Settings, platform: Platform, edges: Edges | None = None) -> FirstAnswer:
    """What the command of this process was answered, once; else the API is asked now."""
    if (found := _found.get()) and (answer := found.answer):
        found.answer = None
        return answer
    warn_without_credentials(settings)
    return ask(platform, edges)


# A flow's parameters are kept by Prefect's server, and a key names an object: it goes around them.
_found: ContextVar[_Found | None] = ContextVar("found", default=None)


def _at_the_start(error: IngestError) -> IngestError:
    kind = CredentialsRefusedError if isinstance(error, CredentialsRefusedError) else UsageError
    return kind(f"{error} Nothing was sent.")


def _no_answer(fault: Fault, tries: int) -> str:
    times = "asked once" if tries == 1 else f"asked {tries} times"
    if fault.kind is FaultKind.PRESIGN:
        return (
            f"This is no upload API, or one in trouble: {fault} ({times}). Nothing was sent. Check "
            "--api-endpoint, and a proxy or sign-in page before it, then run it again."
        )
    return (
        f"The upload API or its token endpoint can't be reached: {fault} ({times}). Nothing was sent. "
        "Check --api-endpoint, DICOM_INGEST_TOKEN_URL and the network, then run it again."
    )
