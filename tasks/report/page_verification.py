"""What the page says of a verification: its signs, what repairs what was found, what may be deleted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tasks.core.remedies import SIGNS
from tasks.core.signs import Sign
from tasks.core.verification_totals import Verification
from tasks.core.words import counted
from tasks.report.page import Html, element, facts, points, remedy
from tasks.report.page_tables import Column, plain_table
from tasks.report.page_words import between, sentence, shell_word
from tasks.settings import LedgerSettings

_COLUMNS: Final = (
    Column("Sign", width="xs"),
    Column("Instances", "number", "s"),
    Column("What it says", width="l"),
)


def verification_blocks(verification: Verification, report_dir: Path, ledger: str) -> list[Html]:
    """`ledger`: what the run was given as one; empty: it lies in the report directory."""
    by_sign = verification.by_sign
    rows = [
        (str(sign), by_sign[sign], sentence(SIGNS[sign].cause).replace("`", ""))
        for sign in Sign
        if by_sign.get(sign)
    ]
    return [
        facts(_facts(verification)),
        plain_table("Instances by their sign", _COLUMNS, rows, "signs"),
        *_repairs(verification, report_dir, ledger),
        *([element("h3", "What the verification noticed", class_="apart")] if verification.problems else []),
        *([points(map(sentence, verification.problems))] if verification.problems else []),
    ]


def _facts(verification: Verification) -> dict[str, str]:
    safe = verification.safe_to_delete
    retrieved = ", ".join(f"{count:,} {word}" for word, count in verification.retrieved.items())
    return {
        "When": between(verification.started_at, verification.finished_at),
        "Bucket": verification.bucket or "not asked",
        "Registry": verification.dicomweb_host or "not asked",
        "Confirmed": f"{verification.confirmed:,} of {counted(verification.instances, 'stored instance')}",
        "Bytes compared in the bucket": f"{verification.compared_in_bucket:,}" if verification.bucket else "",
        "Retrieved and compared": retrieved,
        "May be deleted": ", ".join(f"{count:,} {word}" for word, count in safe.items()),
    }


def _repairs(verification: Verification, report_dir: Path, ledger: str) -> Iterator[Html]:
    where = shell_word(ledger or str(report_dir / "ledger.sqlite"))
    if verification.campaign != LedgerSettings.campaign:
        where = f"{where} --campaign {verification.campaign}"
    manifest, keys = (
        shell_word(str(report_dir / name)) for name in ("repair-manifest.csv", "repair-keys.txt")
    )
    here, elsewhere = shell_word(str(report_dir)), shell_word(f"{report_dir}-repair")
    commands = {
        Sign.NOT_IN_BUCKET: f"dicom-ingest run {manifest} --ledger {where} --report-dir {elsewhere}",
        Sign.NOT_REGISTERED: f"dicom-ingest ingest --keys {keys} --ledger {where} --report-dir {here}",
    }
    for sign, known in SIGNS.items():
        count = verification.by_sign.get(sign, 0)
        if count and sign is not Sign.EVERYWHERE:
            title = f"`{sign}`"
            cause, action = sentence(known.cause), sentence(known.action)
            yield remedy(title, counted(count, "instance"), cause, action, commands.get(sign, ""))
