"""plan.html: a plan for whoever has no terminal, made of what plan.json says."""

from collections.abc import Iterator, Mapping
from typing import IO, Any, Final

from tasks.core.models import EXIT_ONE
from tasks.core.remedies import remedy_of
from tasks.core.words import counted
from tasks.report.page import (
    Figure,
    Html,
    Section,
    Tone,
    facts,
    figures,
    points,
    prose,
    remedy,
    verdict,
    write_page,
)
from tasks.report.page_tables import Column, in_bytes, plain_table
from tasks.report.page_words import took, when

PLAN_HTML: Final = "plan.html"
_SAVED: Final = {
    "Twice the slots": "saved_s_with_twice_the_slots",
    "Twice the bandwidth": "saved_s_with_twice_the_bandwidth",
    "Twice the CPU": "saved_s_with_twice_the_cpu",
}
_NO_END: Final = "It would not end: the times at which files may be sent do not suffice."


def write_plan_page(file: IO[bytes], plan: Mapping[str, Any], said: str) -> None:
    """Writes it. `said`: the plan in one sentence."""
    code = plan["exit_code"]
    tone = Tone.GOOD if not code else Tone.ATTENTION if code == 1 else Tone.STOPPED
    context = (
        "dicom-ingest plan",
        f"campaign {plan['campaign']}",
        when(plan["made_at"]),
        f"exit code {code}",
    )
    sections = [
        Section("What would need a person", list(_needs(plan))),
        Section("What was tried", [_probes(plan)]),
        Section("Forecast", list(_forecast(plan["forecast"]))),
        Section("What there is", list(_contents(plan))),
        Section("To be known", [points(plan["problems"])] if plan["problems"] else []),
    ]
    head = [verdict(tone, said, " · ".join(context)), _totals(plan), prose(_extent(plan))]
    write_page(file, f"dicom-ingest: plan of {plan['campaign']}, {when(plan['made_at'])}", head, sections)


def _totals(plan: Mapping[str, Any]) -> Html:
    bad = sum(plan["by_status"].get(status, 0) for status in EXIT_ONE)
    forecast = plan["forecast"]
    lasts = took(forecast["duration_s"]) if forecast["duration_s"] is not None else "no end"
    ends = f"to {when(forecast['ends_at'])}" if forecast["ends_at"] else ""
    return figures(
        [
            Figure(f"{plan['files']:,}", "files", f"in {counted(plan['studies'], 'study')}"),
            Figure(in_bytes(plan["bytes"]), "to send", f"{counted(forecast['files'], 'file')}"),
            Figure(f"{bad:,}", "would need a person", "", Tone.ATTENTION if bad else Tone.GOOD),
            Figure(f"{plan['known_files']:,}", "stored already", in_bytes(plan["known_bytes"])),
            Figure(lasts, "forecast", ends),
        ]
    )


def _extent(plan: Mapping[str, Any]) -> str:
    opened = counted(plan["files_opened"], "header")
    if plan["is_full"]:
        return f"{opened} read, of every file that a run would open."
    return f"{opened} read, a sample that stands for all files; duplicates as far as seen (`--full`: all)."


def _needs(plan: Mapping[str, Any]) -> Iterator[Html]:
    for word, count in plan["by_reason"].items():
        status, _, reason = word.partition("/")
        if status in EXIT_ONE:
            known = remedy_of(status, reason)
            yield remedy(word, counted(count, "file"), known.cause, known.action)


def _probes(plan: Mapping[str, Any]) -> Html:
    columns = [Column("What", width="s"), Column("Result", width="s"), Column("Which means", width="l")]
    rows = [(each["name"], each["result"].replace("_", " "), each["says"]) for each in plan["probes"]]
    return plain_table("What a run needs", columns, rows)


def _forecast(said: Mapping[str, Any]) -> Iterator[Html]:
    if said["duration_s"] is None:
        yield prose(_NO_END)
        return
    rate = said["bytes_per_s"]
    yield facts(
        {
            "Begun": when(said["made_at"]),
            "Lasts": took(said["duration_s"]),
            "Ends": when(said["ends_at"]),
            "Slots": f"{said['slots']:,}; a file holds one for {1000 * said['slot_s_per_file']:,.0f} ms",
            "Network": f"{in_bytes(rate)}/s ({said['network_from'].replace('_', ' ')})"
            if rate
            else "unknown",
        }
    )
    rows = [(name, took(said[key]) if said[key] else "nothing") for name, key in _SAVED.items()]
    yield plain_table("What would change it most", [Column("With"), Column("It is shorter by")], rows)


def _contents(plan: Mapping[str, Any]) -> Iterator[Html]:
    needed, free = in_bytes(plan["needed_bytes"]), in_bytes(plan["free_bytes"])
    for caption, title, name in (
        ("Files by outcome", "Outcome", "by_status"),
        ("What is not sent, and why", "Outcome and reason", "by_reason"),
        ("Images by modality", "Modality", "modalities"),
        ("Images by transfer syntax", "Transfer syntax", "transfer_syntaxes"),
    ):
        if rows := list(plan[name].items()):
            yield plain_table(caption, [Column(title, width="l"), Column("Files", "number")], rows)
    yield facts(
        {
            "All files": in_bytes(plan["found_bytes"]),
            "The largest": in_bytes(plan["largest_bytes"]),
            "Directories that overlap": f"{plan['overlapping_studies']:,}",
            "Disk for report and ledger": f"{needed} needed, {free} free",
            "Manifest, SHA-256": plan["manifest_sha256"],
        }
    )
