"""The command `plan`: what a run would find, say and take, without sending a file."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from flows.cli.options import PlanOptions
from flows.orchestration.standard_streams import list_out, say
from tasks.bucket_settings import BucketSettings
from tasks.core.words import counted, duration
from tasks.declaration import load_as
from tasks.dicomweb_settings import DicomwebSettings
from tasks.plan_settings import PlanSettings
from tasks.process_memory import keep_imports, share_memory_between_threads
from tasks.settings import Settings, load

if TYPE_CHECKING:
    from tasks.run.planning import PlanFacts
    from tasks.run.probes import Probe

_INTERRUPTED: Final = "Interrupted. Nothing was sent: the same command plans anew."
_MIB: Final = 1024 * 1024
_NAMES_SHOWN: Final = 8


def plan(
    manifest: Path,
    /,
    *,
    json_: Annotated[
        bool,
        Parameter(name="--json", negative="", show_default=False, help="Print the plan as one JSON object."),
    ] = False,
    options: PlanOptions = PlanOptions(),
) -> int:
    """Say what a run of this manifest would find, what would fail, and how long it takes. Sends no file.

    Reads the headers of some files of each study, asks the API for one URL to which nothing is sent, and
    tries out what a run needs. The exit code is the one that the run would have, as far as that can be known.

    Parameters
    ----------
    manifest
        CSV, JSON Lines or Parquet with one row per study directory: see `dicom-ingest manifest`.
    """
    from flows.orchestration.progress_display import display_progress
    from tasks.core.errors import InterruptedRunError
    from tasks.run import planning
    from tasks.run.early_end import safe_errors

    keep_imports()
    share_memory_between_threads()
    try:
        with safe_errors():
            settings = load(**options.given(Settings))
            sides = planning.Sides(
                load_as(BucketSettings, **options.given(BucketSettings)),
                load_as(DicomwebSettings, **options.given(DicomwebSettings)),
            )
            own = load_as(PlanSettings, **options.given(PlanSettings))
            facts = planning.plan(manifest, settings, own, sides, display_progress)
    except KeyboardInterrupt:
        raise InterruptedRunError(_INTERRUPTED) from None
    if json_:
        list_out([json.dumps(facts.as_json())])
    else:
        list_out(sentences(facts))
        if facts.unused_keys:
            say(f"Plan: {settings.report_dir.absolute() / 'plan.json'}")
    return facts.exit_code


def sentences(facts: "PlanFacts") -> Iterator[str]:
    """A plan in words: what there is, what would become of it, what was tried, how long it takes."""
    yield from _what_there_is(facts)
    yield from _what_becomes_of_it(facts)
    yield ""
    yield from map(_of_probe, facts.probes)
    yield ""
    yield from _how_long(facts)
    yield ""
    if facts.problems:
        yield from facts.problems
        yield ""
    yield verdict(facts)


def verdict(facts: "PlanFacts") -> str:
    """What a run comes to, in one sentence."""
    failed = [probe.name for probe in facts.probes if probe.result == "failed"]
    if facts.exit_code in (2, 4):
        return f"A run would not begin (exit code {facts.exit_code}): {', '.join(failed)}."
    if failed:
        return f"A run would not come to a good end: {', '.join(failed)}."
    if facts.exit_code:
        return (
            "A run would end with exit code 1: not every file would be stored, or not every study complete."
        )
    return "Nothing is in the way of a run."


def _what_there_is(facts: "PlanFacts") -> Iterator[str]:
    found = f"{counted(facts.studies, 'study')}, {counted(facts.files, 'file')}, {_size(facts.found_bytes)}"
    opened = counted(facts.files_opened, "header")
    yield f"{found}; the largest file has {_size(facts.largest_bytes)}."
    if facts.is_full:
        yield f"Read: {opened}, of every file that a run would open."
    else:
        yield f"Read: {opened}, a sample that stands for all files; duplicates as far as seen (--full: all)."
    for name, numbers in (
        ("Modalities", facts.modalities),
        ("Transfer syntaxes", facts.transfer_syntaxes),
    ):
        if numbers:
            yield f"{name}: {_first(numbers)}."
    if facts.known_files:
        known = counted(facts.known_files, "file")
        yield f"Stored by earlier runs, by the ledger: {known}, {_size(facts.known_bytes)}."
    if facts.overlapping_studies:
        yield f"Directories that lie in or around another study's: {facts.overlapping_studies:,}."


def _what_becomes_of_it(facts: "PlanFacts") -> Iterator[str]:
    statuses = ", ".join(f"{count:,} {status}" for status, count in facts.by_status.items())
    yield f"A run would report: {statuses or 'nothing'}; {_size(facts.bytes)} to send."
    if facts.by_reason:
        yield f"Of these: {_first(facts.by_reason)}."


def _of_probe(probe: "Probe") -> str:
    return f"{probe.name}: {probe.result.replace('_', ' ')}{f'. {probe.says}' if probe.says else ''}"


def _how_long(facts: "PlanFacts") -> Iterator[str]:
    said = facts.forecast
    if not said["files"]:
        yield "Forecast: there is nothing to send."
        return
    if said["duration_s"] is None:
        yield "Forecast: it would not end, for the times at which files may be sent do not suffice."
        return
    ends = datetime.fromisoformat(said["ends_at"]).astimezone()
    took = duration(said["duration_s"])
    yield f"Forecast: about {took}; begun now, it ends on {ends:%Y-%m-%d} at {ends:%H:%M %Z}."
    yield f"It would be shorter by: {_saved(said)}."


def _saved(said: Mapping[str, Any]) -> str:
    names = {"slots": "twice the slots", "bandwidth": "twice the bandwidth", "cpu": "twice the CPU"}
    parts = []
    for name, words in names.items():
        saved_s = said[f"saved_s_with_twice_the_{name}"]
        parts.append(f"{duration(saved_s) if saved_s else 'nothing'} with {words}")
    return ", ".join(parts)


def _first(numbers: Mapping[str, int]) -> str:
    shown = [f"{count:,} {name}" for name, count in list(numbers.items())[:_NAMES_SHOWN]]
    more = len(numbers) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])


def _size(size_bytes: int) -> str:
    """In the largest unit of which there is one."""
    for unit, name in ((1024**4, "TiB"), (1024**3, "GiB"), (_MIB, "MiB"), (1024, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:,.1f} {name}"
    return counted(size_bytes, "byte")
