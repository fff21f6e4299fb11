"""A hand: a further process that carries files, so that a run is not bound to one core.

One interpreter lock lets one thread compute at a time, and most of what a file costs is computing. So the
run's own process keeps what has to be one (the ledger, the audit trail, the batches), and hands do the rest:
each has workers, connections, credentials and a share of the slots. They talk in pickled messages:

    to a hand       begin: settings, slots; put: a file; answers; share: slots; permit; stop; dismiss
    from a hand     ready; asks: what its workers ask of the ledger; ended: a file; failed; log; platform:
                    how that is, for who looks at the progress; gone

Asks go in groups, one group at a time: while one is answered the next gathers, so that a commit serves many.
The first hand imports what all of them need, and forks the others before it has any thread. A hand whose run
is gone reads the end of the socket and ends at once. A run whose hand is gone stops; the ledger knows what is
left.
"""

import gc
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, Final, NoReturn, Protocol

from tasks.core.duplicates import Claim
from tasks.core.errors import IngestError, InternalError, StoppedError
from tasks.core.models import Outcome, Todo
from tasks.core.platform_state import PlatformState
from tasks.ledger.file_requests import Claiming, FileAnswer, FileRequest, Issuing, Reaching, Settling
from tasks.process_memory import forbid_memory_dumps
from tasks.settings import Settings
from tasks.turn import waiting
from tasks.upload.slots import Slots
from tasks.upload.transfer import HELD_BYTES_IN_ALL
from tasks.upload.workers import Ended, Workers

log = logging.getLogger("dicom_ingest")

# pydicom imports NumPy, whose threads would spin for a tenth of a second and never be used.
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1"}
_READY_S: Final = 60.0  # until it has imported what it needs; on a busy machine this takes a while
_GONE_S: Final = 5.0  # to say good-bye, after the grace
_STATE_EVERY_S: Final = 1.0  # when there is anything new


class AnsweringLedger(Protocol):
    """What answers the hands' workers."""

    def answer(self, requests: Sequence[FileRequest]) -> list[FileAnswer | Exception]:
        """An answer or an exception for each; durable when it returns."""
        ...


# -- as the run sees it -----------------------------------------------------------------------------------


class Crew:
    """The hands of a run, a process group: Ctrl-C reaches the run alone, which says what is to be done."""

    def __init__(
        self,
        count: int,
        ledger: AnsweringLedger,
        ended: Callable[[Ended], None],
        failed: Callable[[IngestError], None],
    ) -> None:
        """Raises OSError, or RuntimeError for a thread, when there can be no more of them."""
        with ExitStack() as undo, ExitStack() as theirs:
            pairs = [socket.socketpair() for _ in range(count)]
            for our_end, their_end in pairs:
                undo.enter_context(our_end)
                theirs.enter_context(their_end)
            descriptors = [their_end.fileno() for _, their_end in pairs]
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-m", "tasks.upload.hand", *map(str, descriptors)],
                pass_fds=descriptors,
                process_group=0,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | _ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what a library says there may name a file
            )
            self.hands: list[Hand] = []
            undo.callback(self.kill)
            for our_end, _ in pairs:
                self.hands.append(Hand(our_end, ledger, ended, failed))
            undo.pop_all()

    def is_ready(self, stopping: threading.Event) -> bool:
        """Waits until all have started; whether they have, and the run still goes on."""
        until = time.monotonic() + _READY_S
        return all(hand.is_ready(stopping, until) for hand in self.hands)

    def join(self, grace_s: float) -> None:
        """Waits for the end of all that were dismissed, and makes sure of it."""
        until = time.monotonic() + grace_s + _GONE_S
        for hand in self.hands:
            hand.join(until)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """At once."""
        for hand in self.hands:
            hand.expect_end()
        if self._process.returncode != 0:  # 0: it has waited for all that it forked
            with suppress(OSError):  # there are none any more
                os.killpg(self._process.pid, signal.SIGKILL)
        until = time.monotonic() + _GONE_S  # one that a disk holds up can't be killed: the report is due
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GONE_S)
        for hand in self.hands:
            hand.join(until)
            hand.close()


class Hand:
    """One hand. `ended` and `failed` are called from a thread of its own."""

    def __init__(
        self,
        end: socket.socket,
        ledger: AnsweringLedger,
        ended: Callable[[Ended], None],
        failed: Callable[[IngestError], None],
    ) -> None:
        """`end` of the socket pair that is ours."""
        self._ledger = ledger
        self._ended = ended
        self._failed = failed
        self._ready = threading.Event()
        self._leaving = False
        self.capacity = 0
        self.peak = 0
        self.course: list[tuple[float, int]] = []
        self.platform = PlatformState(processes=0)  # as it last said
        self._link = _Link(end)
        self._thread = threading.Thread(target=self._listen, name="hand", daemon=True)
        self._thread.start()

    def is_ready(self, stopping: threading.Event, until: float) -> bool:
        """Waits until it has started, or time.monotonic() says `until`; whether the run goes on with it."""
        while not self._ready.wait(0.05):
            if stopping.is_set() or not self._thread.is_alive() or time.monotonic() > until:
                return False
        return True

    def begin(self, settings: Settings, slots: int, began: float, *, any_granted: bool) -> None:
        """From here on it may be given files; `share` says how many of so many slots are free for it."""
        self.capacity = Workers.capacity_of(slots)
        self._link.send("begin", (settings, slots, began, any_granted))

    def put(self, todo: Todo) -> None:
        """One file more."""
        self._link.send("put", todo)

    def share(self, slots: int) -> None:
        """How many slots are its own from now on."""
        self.platform = replace(self.platform, slots=slots, processes=1)
        self._link.send("share", slots)

    def permit_puts(self, may_begin: bool) -> None:
        """Whether a PUT may begin from now on."""
        self._link.send("permit", may_begin)

    def stop(self) -> None:
        """It starts no file any more."""
        self._link.send("stop", None)

    def dismiss(self, grace_s: float) -> None:
        """No file follows; what is under way may take so long."""
        self.expect_end()
        self._link.send("dismiss", grace_s)

    def expect_end(self) -> None:
        """Its end is no failure any more."""
        self._leaving = True

    def join(self, until: float) -> None:
        """Waits for its good-bye, or until time.monotonic() says so."""
        self._thread.join(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """It is gone; to one that is not, its end would say that the run is."""
        if not self._thread.is_alive():
            self._link.close()

    def _listen(self) -> None:
        try:
            while True:
                kind, what = self._link.receive()
                if kind == "gone":
                    self.peak, self.course = what
                    self.platform = PlatformState(processes=0)
                    return
                self._take(kind, what)
        except (EOFError, OSError):
            if not self._leaving and self._ready.is_set():
                self._failed(
                    StoppedError(
                        "Stopped: a process that sends files was killed (is there enough memory?). Run the "
                        "same command again to go on: nothing is sent twice."
                    )
                )
        except Exception as error:  # noqa: BLE001 - a defect has to stop the run, not hang it
            self._failed(InternalError.hiding(error))

    def _take(self, kind: str, what: Any) -> None:
        match kind:
            case "asks":
                self._link.send("answers", self._ledger.answer(what))
            case "ended":
                self._ended(what)
            case "failed":
                self._failed(what)
            case "log":
                log.log(*what)
            case "platform":
                self.platform = what
            case "ready":
                self._ready.set()


class _Link:
    """One end of the socket pair. Any thread may send, one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._connection = Connection(end.detach())
        self._lock = threading.Lock()

    def send(self, kind: str, what: Any) -> None:
        """To nobody when the other end is gone: who receives finds out."""
        with self._lock:
            try:
                self._connection.send((kind, what))
            except OSError:
                return

    def receive(self) -> tuple[str, Any]:
        """Raises EOFError or OSError when the other end is gone."""
        message: tuple[str, Any] = self._connection.recv()
        return message

    def close(self) -> None:
        with self._lock:
            self._connection.close()


# -- in the hand itself -----------------------------------------------------------------------------------


def main() -> NoReturn:
    """Carries files until the run dismisses it, or is gone."""
    forbid_memory_dumps()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends a whole machine reaches the run, which says so
    import_module("tasks.upload.assembly")
    gc.freeze()  # what is imported is no garbage, and is shared by all as long as nobody touches it
    link = _Link(_forked([socket.socket(fileno=int(end)) for end in sys.argv[1:]]))
    log.addHandler(_Forwarded(link))
    log.setLevel(logging.INFO)
    log.propagate = False
    link.send("ready", None)
    try:
        _begin, orders = link.receive()
        carrying = _Carrying(link, *orders)
        while True:
            carrying.take(*link.receive())
    except Exception as error:  # noqa: BLE001 - told as it may be told, or to nobody
        if not isinstance(error, EOFError | OSError):
            link.send("failed", error if isinstance(error, IngestError) else InternalError.hiding(error))
        os._exit(1)


def _forked(ends: list[socket.socket]) -> socket.socket:
    """One process for each socket: returns in all of them, each with its own; the others are closed."""
    ours = next((number for number in range(1, len(ends)) if not os.fork()), 0)
    for number, end in enumerate(ends):
        if number != ours:
            end.close()
    return ends[ours]


class _Carrying:
    """The workers of this process, and what they need."""

    def __init__(self, link: _Link, settings: Settings, slots: int, began: float, any_granted: bool) -> None:
        from tasks.upload.assembly import connect, file_transfer

        self._link = link
        self._stopping = threading.Event()
        self._slots = Slots(slots, began=began)
        self._slots.resize(0)
        self._ledger = _AskedLedger(link)
        held_bytes = HELD_BYTES_IN_ALL * slots // settings.parallel
        client = connect(settings)
        the_carrier = file_transfer(settings, client, self._ledger, self._slots, self._stopping, held_bytes)
        the_carrier.any_granted = any_granted
        self._workers = Workers(
            the_carrier,
            self._ledger,
            self._stopping,
            slots,
            ended=lambda ended: link.send("ended", ended),
            failed=self._fail,
        )
        threading.Thread(target=self._tell_state, name="state", daemon=True).start()

    def take(self, kind: str, what: Any) -> None:
        """One message of the run; never waits."""
        match kind:
            case "put":
                self._workers.put(what)
            case "answers":
                self._ledger.answered(what)
            case "share":
                self._slots.resize(what)
            case "permit":
                self._slots.permit_puts(what)
            case "stop":
                self._stop()
            case "dismiss":
                threading.Thread(target=self._leave, args=(what,)).start()

    def _tell_state(self) -> None:
        before = PlatformState(processes=0)
        while True:
            state = self._slots.state()
            if state != before:
                self._link.send("platform", state)
                before = state
            time.sleep(_STATE_EVERY_S)

    def _fail(self, error: IngestError) -> None:
        self._link.send("failed", error)
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        self._slots.close()

    def _leave(self, grace_s: float) -> None:
        self._workers.dismiss()
        if not self._workers.join(grace_s):
            self._workers.cut_off()
        self._link.send("gone", (self._slots.peak, self._slots.course))
        with suppress(ChildProcessError):  # the first has those that it forked; they leave, too
            while True:
                os.wait()
        os._exit(0)


class _AskedLedger:
    """The run's ledger, from here: `Ledger.claim`, `issue`, `settle` and `reach`."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._waiting: queue.SimpleQueue[tuple[FileRequest, queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="asks", daemon=True).start()

    def claim(self, todo: Todo, sop_instance_uid: str, sha256: str = "", is_to_be_sent: bool = True) -> Claim:
        claim: Claim = self._ask(Claiming(todo, sop_instance_uid, sha256, is_to_be_sent))
        return claim

    def issue(self, todo: Todo, sop_instance_uid: str, key: str, now_ns: int) -> bool:
        return bool(self._ask(Issuing(todo, sop_instance_uid, key, now_ns)))

    def settle(self, todo: Todo, outcome: Outcome | None, claimed: Collection[str] = ()) -> None:
        self._ask(Settling(todo, outcome, claimed))

    def reach(self, storage_host: str) -> None:
        self._ask(Reaching(storage_host))

    def answered(self, answers: list[Any]) -> None:
        """Those to the group that was asked last."""
        self._answers.put(answers)

    def _ask(self, request: FileRequest) -> Any:
        reply: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting.put((request, reply))
        with waiting():
            answer = reply.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _run(self) -> None:
        while True:
            group = [self._waiting.get()]
            while not self._waiting.empty():
                group.append(self._waiting.get())
            self._link.send("asks", [request for request, _ in group])
            for (_, reply), answer in zip(group, self._answers.get(), strict=True):
                reply.put(answer)


class _Forwarded(logging.Handler):
    """Log records go to the run's own handlers."""

    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        self._link.send("log", (record.levelno, "%s", record.getMessage()))


if __name__ == "__main__":
    main()
