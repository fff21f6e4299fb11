"""report.html: a run for whoever has no terminal: the verdict first, what needs a person, then how it went.

The certificate is over the page, so the page can't have the certificate's own digest. It has what both have:
the digest of the files beside it (`digest_of`), which the certificate names, and `sha256sum` works out anew.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tasks.core.api_answers import WRONG_SHAPES, what_is_wrong
from tasks.core.escape import unescape
from tasks.core.models import RunFacts, Status, Summary
from tasks.core.problems import advice_on
from tasks.core.remedies import command_for, remedy_of
from tasks.core.verification_totals import Verification
from tasks.core.words import counted
from tasks.report.page import (
    Figure,
    Html,
    Section,
    Tone,
    element,
    facts,
    figures,
    points,
    prose,
    remedy,
    rich,
    verdict,
    write_page,
)
from tasks.report.page_forecast import forecast_rows
from tasks.report.page_plots import Series, course, proportions, stacked, time_ticks
from tasks.report.page_rows import OUTCOMES, Kind, PageRows
from tasks.report.page_tables import Column, in_bytes, in_count, plain_table, search_table
from tasks.report.page_verification import verification_blocks
from tasks.report.page_words import (
    STOPPED,
    between,
    instant,
    not_fine,
    sentence,
    shell_word,
    tick,
    tone_of,
    took,
    verdict_of,
    when,
)

REPORT_HTML: Final = "report.html"
_STORED: Final = (Status.UPLOADED, Status.ALREADY_UPLOADED, Status.DUPLICATE)
_GO_ON: Final = "The run did not come to its end: start the same command again, and it goes on from there."
_MOST_DETAILS: Final = 6
_OUTCOME_CLASSES: Final = {"true": "good", "false": "stopped", "": "none"}
_DIGESTS: Final = "sha256sum {} | sha256sum"


@dataclass(frozen=True, slots=True)
class Certified:
    """The files of a certificate, by name with their SHA-256; and its digest, where that is known."""

    certificate: str
    sha256: Mapping[str, str]
    digest: str = ""


@dataclass(frozen=True, slots=True)
class PageFacts:
    """All that the page says."""

    report_dir: Path
    summary: Summary
    rows: PageRows
    certified: Sequence[Certified]  # first that of what the page is written with
    verification: Verification | None = None


def page_rows(run: RunFacts) -> PageRows:
    """Those of a run, still empty."""
    return PageRows(run.started_ns, run.finished_ns)


def page_link(report_dir: Path) -> str:
    """To the report's page, for a browser on the machine that has it; others see where it is."""
    return f"[{REPORT_HTML}]({(report_dir.absolute() / REPORT_HTML).as_uri()})"


def digest_of(sha256: Mapping[str, str]) -> str:
    """One digest over files' digests, the page's aside: that of what `sha256sum` prints of them by name."""
    lines = (f"{sha256[name]}  {name}\n" for name in sorted(sha256) if name != REPORT_HTML)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_report_page(file: IO[bytes], page: PageFacts) -> None:
    """Writes it."""
    summary = page.summary
    head = [*_head(page), _totals(page), proportions("Files by outcome", list(_parts(summary)))]
    sections = [
        Section("What needs a person", list(_needs(page))),
        Section("Bucket and registry", _verified(page)),
        Section("Course of the run", list(_plots(page))),
        Section("Studies", list(_studies(page))),
        Section("Files that are not fine", list(_files(page))),
        Section("Forecast and result", _forecast(summary)),
        Section("How it was run", [_settings(page)]),
        Section("Proof", list(_proof(page))),
    ]
    write_page(file, f"dicom-ingest: {summary.campaign}, {when(summary.started_at)}", head, sections)


def _head(page: PageFacts) -> Iterator[Html]:
    summary, verified = page.summary, page.verification
    context = (
        "dicom-ingest",
        f"campaign {summary.campaign}",
        between(summary.started_at, summary.finished_at),
        f"exit code {summary.exit_code}",
        *([f"verified {when(verified.finished_at)}"] if verified else []),
    )
    said = verdict_of(summary, page.rows.outcomes.total, verified)
    yield verdict(tone_of(summary, verified), said, " · ".join(context))
    if summary.exit_code in STOPPED and summary.problems:
        yield prose(sentence(summary.problems[0]), "why")


def _totals(page: PageFacts) -> Html:
    summary, bad = page.summary, not_fine(page.summary)
    stored = sum(summary.by_status.get(status, 0) for status in _STORED)
    rate = f"{in_bytes(summary.bytes_per_s)}/s, {summary.files_per_s:,.0f} files/s"
    return figures(
        [
            Figure(f"{summary.files:,}", "files", f"in {counted(summary.studies, 'study')}"),
            Figure(f"{stored:,}", "stored", f"{in_bytes(summary.bytes)} in this run"),
            Figure(f"{bad:,}", "need a person", "", Tone.ATTENTION if bad else Tone.GOOD),
            *([Figure(f"{summary.accepted:,}", "accepted as they are")] if summary.accepted else []),
            Figure(f"{summary.complete_studies:,}", "studies complete", f"of {summary.studies:,}"),
            Figure(took(summary.wall_s), "from start to end", rate),
            *_may_go(page.verification),
        ]
    )


def _may_go(verification: Verification | None) -> Iterator[Figure]:
    if verification:
        safe = verification.safe_to_delete.get("yes", 0)
        yield Figure(f"{safe:,}", "may be deleted", f"of {counted(verification.studies, 'directory')}")


def _parts(summary: Summary) -> Iterator[tuple[str, int, str]]:
    """The files by what became of them."""
    of = summary.by_status.get
    left, duplicates = of(Status.NOT_ATTEMPTED, 0), of(Status.DUPLICATE, 0)
    parts = (
        ("stored in this run", of(Status.UPLOADED, 0), "good"),
        ("stored before", of(Status.ALREADY_UPLOADED, 0), "a"),
        ("duplicate" if duplicates == 1 else "duplicates", duplicates, "b"),
        ("no DICOM", of(Status.NOT_DICOM, 0), "none"),
        ("accepted as they are", summary.accepted, "c"),
        ("not attempted", left, "attention"),
        ("not stored", not_fine(summary) - left, "stopped"),
    )
    return (part for part in parts if part[1] > 0)


def _needs(page: PageFacts) -> Iterator[Html]:
    kinds = sorted(page.rows.kinds.items(), key=lambda item: -item[1].files)
    where = shell_word(str(page.report_dir.absolute()))
    for (status, reason), kind in kinds:
        yield _need(status, reason, kind, where)
    if page.rows.other_reasons:
        yield _other_reasons(page)
    if accepted := page.rows.accepted.files:
        link = _choosing("files", "Show the files", Search="accepted")
        yield element(
            "p", f"Accepted as they are, by a person: {counted(accepted, 'file')}. ", link, class_="apart"
        )
    if not kinds and not page.rows.other_reasons:
        is_over = page.summary.exit_code not in STOPPED
        yield prose("Nothing: every file is where it should be." if is_over else _GO_ON)
    noted = page.summary.problems[1 if page.summary.exit_code in STOPPED else 0 :]
    if noted:
        yield element("h3", "What the run noticed", class_="apart")
        yield points(sentence(problem) for problem in noted)
    if looked := page.rows.worth_a_look:
        yield element("h3", "Worth a look", class_="apart")
        yield points(
            f"{counted(count, 'file')}, `{reason}`: {remedy_of(Status.NOT_DICOM, reason).action}."
            for reason, count in looked.items()
        )


def _need(status: str, reason: str, kind: Kind, where: str) -> Html:
    known = remedy_of(status, reason)
    title = f"{status}: {reason}" if reason else status
    count = f"{counted(kind.files, 'file')} in {counted(kind.studies, 'study')}"
    return remedy(
        title,
        count,
        sentence(known.cause),
        sentence(known.action),
        command_for(status, reason, where),
        element("p", _choosing("files", "Show the files", Status=status, Reason=reason), class_="more"),
        _seen(reason, kind),
    )


def _seen(reason: str, kind: Kind) -> Html | None:
    """What the platform, or the file, said: the commonest, with what to do about it."""
    if not kind.details:
        return None
    items = []
    for detail, count in kind.details.most_common(_MOST_DETAILS):
        what = what_is_wrong(detail) if detail in WRONG_SHAPES else advice_on(reason, detail)
        said = f": {what}" if detail and what else ""
        items.append(element("li", rich(f"`{detail}`"), f", {counted(count, 'file')}{said}"))
    return element("ul", *items, class_="seen")


def _other_reasons(page: PageFacts) -> Html:
    """Of studies that lack something of which no row tells."""
    return remedy(
        "studies that are not complete",
        f"{counted(page.rows.other_reasons, 'study')}, and no file of them failed",
        "Fewer or more instances than the manifest expects, instances of another study, or no file at all: "
        "`why` says which.",
        "Mount the share, export what is missing again, or correct the manifest; then run it again.",
        more=element("p", _choosing("studies", "Show the studies", Outcome="false"), class_="more"),
    )


def _choosing(table: str, words: str, **values: str) -> Html:
    """A link to a table, which then shows the rows with these values."""
    anchor = {"files": "files-that-are-not-fine", "studies": "studies"}[table]
    return element("a", words, href=f"#{anchor}", data_table=table, data_choose=json.dumps(values))


def _verified(page: PageFacts) -> list[Html]:
    if page.verification is None:
        return []
    ledger = unescape(page.summary.settings.get("ledger", ""))
    return verification_blocks(page.verification, page.report_dir.absolute(), ledger)


def _plots(page: PageFacts) -> Iterator[Html]:
    summary, intervals = page.summary, page.rows.intervals
    started_s, wall_s = intervals.started_ns / 1e9, intervals.wall_ns / 1e9
    ticks = time_ticks(started_s, wall_s, lambda at_s: tick(at_s, wall_s))
    plots = [*_over_time(page, ticks), *_of_sizes(page), *_of_studies(page)]
    if plots:
        at = instant(summary.started_at)
        yield prose(f"Times are UTC, {at.day} {at:%B %Y}." if at else "Times are UTC.", "intro")
        yield element("div", *plots, class_="plots")


def _over_time(page: PageFacts, ticks: list[str]) -> Iterator[Html]:
    intervals, summary = page.rows.intervals, page.summary
    rates = [count / intervals.each_s for count in intervals.bytes]
    if any(rates):
        said = f"{in_bytes(summary.bytes_per_s)}/s on average, at most {in_bytes(max(rates))}/s"
        yield course("Throughput", said, Series("bytes", rates), ticks, lambda rate: f"{in_bytes(rate)}/s")
    if slots := _slots(summary, intervals.count):
        said = f"at most {summary.peak_parallel} uploads at a time"
        drawn = Series("slots", slots, "b")
        yield course("Slots", said, drawn, ticks, in_count, is_stepped=True)
    if timed := sum(intervals.failures):
        drawn = Series("failures", [float(count) for count in intervals.failures], "stopped")
        said = f"{counted(timed, 'file')} that could not be stored, by when that was known"
        yield stacked("Failures", said, [drawn], ticks, in_count)


def _of_sizes(page: PageFacts) -> Iterator[Html]:
    if sizes := page.rows.sizes():
        counts = Series("files", [float(count) for _, count in sizes])
        commonest = max(sizes, key=lambda size: size[1])
        said = f"most files are under {commonest[0]}"
        labels = [word for word, _ in sizes]
        yield stacked("Sizes", said, [counts], labels, in_count, is_labelled=True)


def _of_studies(page: PageFacts) -> Iterator[Html]:
    outcomes = page.rows.outcomes
    if not outcomes.total:
        return
    series = [
        Series(OUTCOMES.get(word, word), [float(group[word]) for group in outcomes.groups], _class(word))
        for word in sorted(outcomes.total, key=lambda word: -outcomes.total[word])
    ]
    each = "a study" if outcomes.each == 1 else f"{outcomes.each:,} studies"
    said = f"in the manifest's order, each bar {each}"
    last = f"study {outcomes.total.total():,}"
    ticks = ["study 1", last] if outcomes.total.total() > 1 else ["study 1"]
    yield stacked("Outcomes by study", said, series, ticks, in_count)


def _class(outcome: str) -> str:
    return _OUTCOME_CLASSES.get(outcome, "attention")


def _slots(summary: Summary, count: int) -> list[float]:
    """The most slots in use in each interval; empty where the run did not say."""
    changes, slots = list(summary.parallel_course), []
    each_s, now, at = (summary.wall_s or 1.0) / count, 0, 0
    for number in range(count if changes else 0):
        most = now if number else 0
        while at < len(changes) and changes[at][0] < (number + 1) * each_s:
            now = changes[at][1]
            most, at = max(most, now), at + 1
        slots.append(float(most))
    return slots


def _studies(page: PageFacts) -> Iterator[Html]:
    rows = page.rows.studies
    left = f" The first {rows.count:,} are here." if rows.left_out else ""
    yield search_table("studies", "Studies that are not complete", rows, _said("studies.csv", left))


def _files(page: PageFacts) -> Iterator[Html]:
    bad, rows = sum(kind.files for kind in page.rows.kinds.values()), page.rows.files
    left = f" The first of each kind are here, {rows.count:,} of {bad:,}." if bad > rows.count else ""
    yield search_table("files", "The first files of each kind", rows, _said("report.csv", left))


def _said(name: str, left: str) -> Html:
    csv = element("a", name, href=name)
    return element("span", "All columns of all rows: ", csv, f", beside this page.{left}")


def _forecast(summary: Summary) -> list[Html]:
    rows = forecast_rows(summary)
    columns = [Column("What", width="l"), Column("Forecast"), Column("Result")]
    return [plain_table("What the plan said, and what came of it", columns, rows)] if rows else []


def _settings(page: PageFacts) -> Html:
    summary = page.summary
    run = {
        "Upload API": summary.api_host,
        "Object store": ", ".join(summary.storage_hosts),
        "Run": summary.run_id,
        "Campaign": summary.campaign,
        "Manifest, SHA-256": summary.manifest_sha256,
        "Keys asked for at the start, unused": f"{len(summary.unused_keys):,}",
    }
    options = {name.replace("_", "-"): value for name, value in summary.settings.items()}
    blocks = [
        element("div", element("h3", "Where to, and what"), facts(run, "digests")),
        element(
            "div",
            element("h3", "Settings"),
            facts(options)
            if options
            else prose("They were not kept: the run was killed, or is an earlier version's."),
        ),
        *([element("div", element("h3", "Versions"), facts(summary.versions))] if summary.versions else []),
    ]
    return element("div", *blocks, class_="columns")


def _proof(page: PageFacts) -> Iterator[Html]:
    yield prose(
        "A certificate beside this page has the SHA-256 of the files that it names, and of the page itself, "
        "and where the audit trail ended. `dicom-ingest audit` checks all of it.",
        "intro",
    )
    for number, each in enumerate(page.certified):
        files = {name: sha256 for name, sha256 in sorted(each.sha256.items()) if name != REPORT_HTML}
        yield element("h3", each.certificate, class_="apart")
        digest = each.digest or ("" if number else digest_of(files))  # an earlier version's has none
        yield facts({"Certificate digest": digest, **files} if digest else files, "digests")
        when_so = ", before the verification wrote studies.csv anew" if number else " here"
        command = _DIGESTS.format(" ".join(files))
        if digest:
            yield prose(
                f"It is `digest` in {each.certificate}, and what `{command}` prints{when_so}.", "note"
            )
