"""What is checked before a run begins: before the scan, and by `run` before Prefect takes seconds to start.

One URL is asked for, as for a file. Nothing is sent to it, and its key is accounted for: in the ledger, the
trail and `unused_keys` of summary.json. So refused credentials and wrong settings leave nothing behind.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.audit.certificate import signing_key
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
from tasks.core.retry import backoff_s
from tasks.ledger.private_directories import make_private, remove_empty
from tasks.remote.upload_api import UploadClient
from tasks.settings import Settings
from tasks.upload.assembly import connect, warn_without_credentials

log = logging.getLogger("dicom_ingest")

_TRIES: Final = 5
_LAST_TRY_AFTER_S: Final = 20.0  # a server that lets each try run into a time-out is not asked for minutes
_SAID_AFTER_S: Final = 3.0
_LONGEST_PAUSE_S: Final = 10.0  # whatever Retry-After says: the run itself waits for longer
_FINAL: Final = frozenset({FaultKind.UNAUTHORIZED, FaultKind.FORBIDDEN, FaultKind.SETTINGS})


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """What the API answered at the start: a key to which nothing is sent, or none, as it throttles."""

    key: str
    asked_ns: int  # Unix nanoseconds


NOT_ASKED: Final = FirstAnswer("", 0)


def check(settings: Settings) -> FirstAnswer:
    """Everything that can be known before a run begins. No file and no directory of it stays.

    Raises UsageError, and CredentialsRefusedError when that is what is wrong.
    """
    with ExitStack() as undo:
        signing_key(settings.signing_key)
        open_trail(undo, settings.report_dir)
        warn_without_credentials(settings)
        client = undo.enter_context(closing(connect(settings)))
        return ask(client)


def open_trail(undo: ExitStack, report_dir: Path) -> Trail:
    """The trail of a report directory, which is made when missing; `undo` takes both back."""
    undo.callback(remove_empty, make_private(report_dir))
    trail = Trail(report_dir)
    undo.callback(trail.undo)
    return trail


@contextmanager
def _said_when_slow() -> Iterator[None]:
    """A person who waits is told for what."""
    what = "Waiting for a good answer of the upload API; it is asked a few times, for a minute or so ..."
    timer = threading.Timer(_SAID_AFTER_S, log.warning, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@_said_when_slow()
def ask(
    client: UploadClient,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    clock_ns: Callable[[], int] = time.time_ns,
) -> FirstAnswer:
    """Asks for one URL, a few times when there is no good answer.

    | the last answer                                     | what follows                     |
    | --------------------------------------------------- | -------------------------------- |
    | a URL and its key                                   | the run                          |
    | 429, 503                                            | the run: its own patience counts |
    | 401, 403, credentials refused or not to be read     | CredentialsRefusedError          |
    | another 4xx, TLS, a host that is not allowed        | UsageError                       |
    | none, 5xx, not JSON with a url and a key            | UsageError                       |
    """
    began, tries = clock(), 0
    while True:
        tries += 1
        try:
            return FirstAnswer(client.presign().key, clock_ns())
        except (CredentialsRefusedError, WrongSettingsError) as error:
            raise _at_the_start(error) from None
        except Fault as fault:
            if fault.kind in _FINAL:
                raise _at_the_start(ending(fault)) from None
            pause_s = min(_LONGEST_PAUSE_S, backoff_s(fault, tries + 1, 1.0))
            if tries < _TRIES and clock() - began + pause_s < _LAST_TRY_AFTER_S:
                sleep(pause_s)
            elif fault.kind is FaultKind.THROTTLED:
                log.warning("The platform throttles at the start: %s. The run begins all the same.", fault)
                return FirstAnswer("", clock_ns())
            else:
                raise UsageError(_no_answer(fault, tries)) from None


@contextmanager
def handed_over(answer: FirstAnswer) -> Iterator[None]:
    """The run that begins within the block, in this process, does not ask a second time."""
    token = _handed_over.set(answer)
    try:
        yield
    finally:
        _handed_over.reset(token)


def first_answer(settings: Settings, client: UploadClient) -> FirstAnswer:
    """What the command of this process was answered, once; else the API is asked now."""
    if answer := _handed_over.get():
        _handed_over.set(None)
        return answer
    warn_without_credentials(settings)
    return ask(client)


# A flow's parameters are kept by Prefect's server, and a key names an object: it goes around them.
_handed_over: ContextVar[FirstAnswer | None] = ContextVar("first_answer", default=None)


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
