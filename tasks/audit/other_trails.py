"""The trails of other report directories: of a migration's shards, and of runs that stored files of a report.

A run that stored a file names its key and its bytes in the trail of its own report directory. Shards' trails
are where they were written, or collected in `shards/` of the migration's report directory; where the others
are, the ledger says.
"""

import os
import re
from collections.abc import Collection
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Final

from tasks.audit.findings import Findings
from tasks.audit.key_table import KeyTable
from tasks.audit.trail_reader import follow_trail, read_certificates
from tasks.core.audit_chain import Course, Event
from tasks.core.escape import escape
from tasks.ledger.known_runs import KnownRuns
from tasks.report.directory import AUDIT_JSONL

_SHARDS: Final = "shards"
_SHARD_NO: Final = re.compile(r"-\d{4,}")


class Origin(Enum):
    """Which trail has to know what a run stored."""

    HERE = auto()
    SHARD = auto()  # of this run: the shard's own
    ELSEWHERE = auto()
    UNSEEN = auto()
    LOST = auto()  # the audited one, and it does not


class OtherTrails:
    """Reads each trail once, when a row first needs it."""

    def __init__(
        self,
        trail_dir: Path,
        run_id: str,
        ledger: KnownRuns | None,
        here: Collection[str],
        keys: KeyTable,
        found: Findings,
    ) -> None:
        """`here`: the runs whose lines the audited trail has."""
        self._run_id = run_id
        self._ledger = ledger
        self._here = here
        self._keys = keys
        self._found = found
        into_here = {each.run_id for each in ledger.into(trail_dir)} if ledger else set()
        self._lost = into_here - set(here)
        self._read: set[Path] = {trail_dir.resolve()}
        self._runs: set[str] = set()
        self._read_shards(trail_dir)

    @property
    def shards(self) -> list[str]:
        """The runs of this migration's shards whose trails were seen."""
        return sorted(run_id for run_id in self._runs if self._is_shard(run_id))

    def add_lost(self, run_ids: Collection[str]) -> None:
        """Runs into the audited directory that are known by something else than the ledger."""
        self._lost |= set(run_ids) - set(self._here)

    def origin(self, run_id: str) -> Origin:
        """Where what this run stored has to be known."""
        if run_id in self._here:
            return Origin.HERE
        if run_id in self._lost:
            return Origin.LOST
        if run_id not in self._runs and self._ledger and (known := self._ledger.by_id.get(run_id)):
            self._read_trail(known.report_dir)
        if run_id not in self._runs:
            self._add_unseen(run_id)
            return Origin.UNSEEN
        return Origin.SHARD if self._is_shard(run_id) else Origin.ELSEWHERE

    def _is_shard(self, run_id: str) -> bool:
        rest = run_id.removeprefix(self._run_id)
        return bool(self._run_id) and rest != run_id and _SHARD_NO.fullmatch(rest) is not None

    def _read_shards(self, trail_dir: Path) -> None:
        """The collected ones, and those that the ledger names."""
        for directory in sorted((trail_dir / _SHARDS).glob("*")):
            if (directory / AUDIT_JSONL).exists():
                self._read_trail(directory)
        for each in self._ledger.by_id.values() if self._ledger else ():
            if self._is_shard(each.run_id) and each.started_ns:
                if each.run_id not in self._runs:
                    self._read_trail(each.report_dir)
                if each.run_id not in self._runs:
                    self._add_unseen(each.run_id)

    def _read_trail(self, directory: Path) -> None:
        at = directory.resolve()
        if at in self._read:
            return
        self._read.add(at)
        add_fault = partial(_add_fault_of, self._found, escape(str(directory)))
        course, run_id = Course(None), ""
        try:
            certificates = read_certificates(directory, add_fault)
            for _, facts in follow_trail(directory, certificates, course, add_fault):
                if facts.get("event") == Event.RUN_STARTED:
                    run_id = str(facts.get("run_id"))
                    self._runs.add(run_id)
                self._keys.add(facts, run_id, is_other=True)
        except OSError:
            return

    def _add_unseen(self, run_id: str) -> None:
        known = self._ledger.by_id.get(run_id) if self._ledger else None
        where = f", which is in {escape(str(known.report_dir))}," if known else ""
        what = f"shard {run_id.rpartition('-')[2]}" if self._is_shard(run_id) else f"run {escape(run_id)}"
        collect = f"; collect it in {_SHARDS}{os.sep}" if self._is_shard(run_id) else ""
        self._found.add_unchecked(f"The trail of {what}{where} could not be seen{collect}.")


def _add_fault_of(found: Findings, place: str, sentence: str) -> None:
    found.add_fault(f"{place}: {sentence}")
