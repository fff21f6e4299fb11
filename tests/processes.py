"""Servers and other processes that tests start: a port for them, their answer, their children."""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import httpx

from tasks.core.errors import UsageError

# Root would write where nobody may, and read what nobody may.
_BOUND_BY_PERMISSIONS = """
import os, sys
from deployments.sandbox.privileges import drop_dac_capabilities
drop_dac_capabilities()
os.execv(sys.argv[1], sys.argv[1:])
"""
_DICOM_INGEST = str(Path(sys.executable).with_name("dicom-ingest"))
DICOM_INGEST = (sys.executable, "-c", _BOUND_BY_PERMISSIONS, _DICOM_INGEST)  # the command, to any user


def free_port() -> int:
    """One on loopback that nobody has.

    It lies below those that the system gives out by itself: nobody gets it before it is used, however many
    tests run at the same time.
    """
    while True:
        port = _dice.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


_dice = random.SystemRandom()  # hypothesis seeds the other one


def await_that(
    holds: Callable[[], object],
    within_s: float = 180,
    every_s: float = 0.1,
    said: Callable[[], object] | None = None,
) -> None:
    """Until it holds; an AssertionError when the time is over first, with what was `said` until then.

    That there is no report yet is no error. The time is long: Prefect's client alone waits for a minute and
    more, five times in all, when its server's database was locked.
    """
    until = time.monotonic() + within_s
    while True:
        with suppress(OSError, UsageError):
            if holds():
                return
        assert time.monotonic() < until, said and said()
        time.sleep(every_s)


def await_answer(url: str, process: subprocess.Popen[bytes] | None = None, within_s: float = 120) -> None:
    """Any answer at all; an AssertionError when the process ends, or the time does, before there is one."""
    until = time.monotonic() + within_s
    while True:
        try:
            httpx.get(url)
        except httpx.TransportError:
            assert time.monotonic() < until, f"{url} does not answer"
            assert process is None or process.poll() is None, f"{url}: its server has ended"
            time.sleep(0.1)
        else:
            return


def descendants(pid: int) -> list[int]:
    """Every process that this one started, or one of those did."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        children = [child for child, parent in parents.items() if parent == one]
        found += children
        waiting += children
    return found


def command_line(pid: int) -> str:
    """Empty when the process is gone, or has ended and nobody has asked how."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def await_gone(pids: Iterable[int], within_s: float = 60) -> None:
    """Until none of these processes is left; an AssertionError when the time is over first."""
    until = time.monotonic() + within_s
    while left := [line for line in map(command_line, pids) if line]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


class Command:
    """`dicom-ingest ...` as a process in a session of its own, with what it says."""

    def __init__(self, directory: Path, environment: Mapping[str, str], *arguments: str) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.children: set[int] = set()
        self._log = directory / f"said-{time.monotonic_ns()}"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*DICOM_INGEST, *arguments],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def ended(self, within_s: float = 240) -> int:
        """Its exit code."""
        return self.process.wait(within_s)

    def await_child(self, name: str) -> int:
        """Until it has started a process whose command line has this in it."""
        until = time.monotonic() + 120
        while not (found := [pid for pid in descendants(self.process.pid) if name in command_line(pid)]):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.02)
        self.note_children()
        return found[0]

    def note_children(self) -> None:
        self.children |= set(descendants(self.process.pid))

    def assert_no_process_is_left(self) -> None:
        """Of those that were noted."""
        await_gone(self.children)
