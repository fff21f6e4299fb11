"""Which runs are dead: found out with care, and durable before anything of theirs is taken over.

| the other run                                                  | is                                     |
| -------------------------------------------------------------- | -------------------------------------- |
| has ended, or was declared dead                                | dead                                   |
| had the lock of a trail on this host, and nobody has it now    | dead at once                           |
| gave no sign of life for `dead_after_s`, seen twice, a heartbeat apart | dead                           |
| any other                                                      | alive                                  |

A run that was declared dead while it slept finds that out in its next commit (`runs.py`).
"""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tasks.core.escape import escape, unescape
from tasks.ledger.schema import run
from tasks.ledger.statements import Scope

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def awake_or_asleep() -> float:
    """Seconds by a clock that nobody sets, and that a suspended machine does not stop, where it has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def heartbeat_s(dead_after_s: float) -> float:
    """How far apart a run's signs of life are."""
    return dead_after_s / 4


def kept_lock(locked: Path | None) -> str:
    """How the ledger keeps which file a run has locked as long as it lives; empty where nobody could tell.

    Device and inode, for a container may have another file under this path; they mean something on a host
    alone, until it starts anew.
    """
    with suppress(OSError):
        if locked:
            its = locked.stat()
            boot = _BOOT_ID.read_text().strip()
            return f"{boot}:{its.st_dev}:{its.st_ino}:{escape(str(locked.absolute()))}"
    return ""


def is_unlocked(kept: str, ours: str = "") -> bool:
    """Whether the lock of this `kept_lock` is free: its run has no process. False where nobody can tell.

    Also when it is `ours`, which another run had before.
    """
    if not kept or kept == ours:
        return bool(kept)
    boot, device, inode, path = kept.split(":", 3)
    try:
        if boot != _BOOT_ID.read_text().strip():
            return False
        file = os.open(unescape(path), _READ)
    except (OSError, ValueError):
        return False
    try:
        its = os.fstat(file)
        if (str(its.st_dev), str(its.st_ino)) != (device, inode):
            return False
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


class _Look(NamedTuple):
    """A run that looked dead: its last sign of life, and when that was seen by the clock of this process."""

    last_sign: tuple[int, int]
    at_s: float


class OtherRuns:
    """The other runs in a ledger, as far as one that wants what they claim has to know."""

    def __init__(self, scope: Scope, clock: Callable[[], float], our_lock: str = "") -> None:
        """`our_lock`: the `kept_lock` of what this process has locked."""
        self._scope = scope
        self._clock = clock
        self._our_lock = our_lock
        self._looks: dict[str, _Look] = {}  # by run_id, at the first of two

    def is_dead(self, db: sa.Connection, run_id: str) -> bool:
        """Whether it is, and may never come back: that is durable with whatever else `db` commits."""
        columns = (run.c.started_ns, run.c.heartbeat_s, run.c.locked, self._scope.is_alive.label("alive"))
        its = db.execute(sa.select(*columns).where(run.c.run_id == run_id)).one_or_none()
        if its is None or its.heartbeat_s <= 0:
            return True
        if not is_unlocked(its.locked, self._our_lock) and not self._is_silent_still(run_id, its):
            return False
        return self._declare_dead(db, run_id, its)

    def _is_silent_still(self, run_id: str, its: "sa.Row[Any]") -> bool:
        """A clock that was set, or a database that was away, makes the living look dead for a moment."""
        if its.alive:
            self._looks.pop(run_id, None)
            return False
        now, last_sign = self._clock(), (its.started_ns, its.heartbeat_s)
        look = self._looks.get(run_id)
        if look is None or look.last_sign != last_sign:
            self._looks[run_id] = look = _Look(last_sign, now)
        return now - look.at_s >= heartbeat_s(self._scope.dead_after_s)

    def _declare_dead(self, db: sa.Connection, run_id: str, its: "sa.Row[Any]") -> bool:
        """Not one that is in the middle of a commit: it has its row locked until that is over."""
        as_seen = (
            run.c.run_id == run_id,
            run.c.started_ns == its.started_ns,
            run.c.heartbeat_s == its.heartbeat_s,
        )
        of_it = sa.select(run.c.run_id).where(*as_seen).with_for_update(skip_locked=True)
        if db.scalar(of_it) is None:
            return False
        db.execute(sa.update(run).where(*as_seen).values(heartbeat_s=0))
        return True
