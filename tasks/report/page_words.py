"""The page's sentences, and numbers and times as they are read there."""

from collections.abc import Mapping
from datetime import UTC, datetime
from shlex import quote
from typing import Final

from tasks.core.completeness import not_stored
from tasks.core.models import EXIT_ONE, Summary
from tasks.core.verification_totals import Verification
from tasks.core.words import counted, duration
from tasks.report.page import Tone

STOPPED: Final = {
    3: "The run stopped before its end",
    4: "The run ended, for the credentials were refused",
    130: "The run was interrupted",
}
_DAY_S: Final = 86_400


def not_fine(summary: Summary) -> int:
    """Rows that need a person: their status says exit 1, and nobody accepted them."""
    return max(0, sum(summary.by_status.get(status, 0) for status in EXIT_ONE) - summary.accepted)


def tone_of(summary: Summary, verification: Verification | None) -> Tone:
    """Good is what ended with exit code 0, the verification, too."""
    if summary.exit_code in STOPPED:
        return Tone.STOPPED
    codes = (summary.exit_code, verification.exit_code if verification else 0)
    return Tone.ATTENTION if any(codes) else Tone.GOOD


def verdict_of(summary: Summary, outcomes: Mapping[str, int], verification: Verification | None) -> str:
    """What came of the run, in one sentence. `outcomes`: studies by their cell `complete`."""
    incomplete = outcomes.get("false", 0)
    # A run that reached a bound of the operator's ends in order; the next one goes on.
    planned = "To be continued" if getattr(summary, "ended_by", "") else None
    beginning = STOPPED.get(summary.exit_code, planned)
    clauses = [_of_files(summary), _of_studies(summary, incomplete), _of_verification(verification)]
    said = "; ".join(filter(None, clauses))
    return f"{beginning}: {said}." if beginning else f"{said[0].upper()}{said[1:]}."


def _of_files(summary: Summary) -> str:
    files = summary.files
    accepted = f", but {summary.accepted:,} that somebody accepted as they are" if summary.accepted else ""
    if not files:
        return "there was no file"
    if not_fine(summary):
        return not_stored(summary.by_status, summary.accepted)
    if files == 1:
        return "the one file is where it should be"
    return f"all {files:,} files are where they should be{accepted}"


def _of_studies(summary: Summary, incomplete: int) -> str:
    if incomplete:
        are = "is" if incomplete == 1 else "are"
        return f"{incomplete:,} of {counted(summary.studies, 'study')} {are} not complete"
    if not summary.studies:
        return ""
    if summary.complete_studies == summary.studies:
        return (
            f"all {summary.studies:,} studies are complete"
            if summary.studies > 1
            else "the study is complete"
        )
    if summary.studies == 1:
        return "the study lacks nothing"
    return (
        f"{summary.complete_studies:,} of {summary.studies:,} studies are complete, and the rest lack nothing"
    )


def _of_verification(verification: Verification | None) -> str:
    if verification is None:
        return ""
    sides = [
        *(["bucket"] if verification.bucket else []),
        *(["registry"] if verification.dicomweb_host else []),
    ]
    asked = " and ".join(sides) or "nobody"
    confirm = "confirms" if len(sides) == 1 else "confirm"
    instances = counted(verification.instances, "stored instance")
    is_whole = verification.confirmed == verification.instances
    return f"{asked} {confirm} {'every one' if is_whole else f'{verification.confirmed:,}'} of {instances}"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    said = text[:1].upper() + text[1:]
    return said if said.endswith((".", "!", "?")) else f"{said}."


def shell_word(text: str) -> str:
    """A word of a command line, whatever is in it; bytes that are no text as Bash and its kin have them."""
    if text.isascii() and text.isprintable():
        return quote(text)
    try:
        text.encode()
    except UnicodeError:
        return _quoted_bytes(text)
    return quote(text) if text.isprintable() else _quoted_bytes(text)


def instant(text: str) -> datetime | None:
    """A time that a report has; None for anything else."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def when(text: str) -> str:
    """A time as it is read: 26 Nov 2026, 08:30 UTC."""
    at = instant(text)
    return f"{_day(at)} {at:%Y, %H:%M} UTC" if at else text


def between(started_at: str, finished_at: str) -> str:
    """From when to when."""
    started, finished = instant(started_at), instant(finished_at)
    if not (started and finished):
        return f"{started_at} to {finished_at}"
    begin, end = f"{_day(started)} {started:%Y, %H:%M}", f"{finished:%H:%M}"
    if started.date() != finished.date():
        end = f"{_day(finished)}, {end}"
    return f"{begin} UTC" if begin.endswith(end) else f"{begin} to {end} UTC"


def tick(at_s: float, wall_s: float) -> str:
    """A time below a plot: as exact as its length asks for."""
    try:
        at = datetime.fromtimestamp(at_s, UTC)
    except (OverflowError, ValueError, OSError):  # a clock that was far out
        return ""
    if wall_s > 2 * _DAY_S:
        return f"{_day(at)}, {at:%H:%M}"
    return f"{at:%H:%M}" if wall_s > 600 else f"{at:%H:%M:%S}"


def took(seconds: float) -> str:
    """How long something took."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _quoted_bytes(text: str) -> str:
    letters = (
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in text.encode("utf-8", "surrogateescape")
    )
    return f"$'{''.join(letters)}'"


def _day(at: datetime) -> str:
    return f"{at.day} {at:%b}"
