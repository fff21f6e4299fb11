"""What verify writes beside a report: verification.csv, studies.csv anew, and what repairs what it found.

Cells are escaped as the report's are. A key that can be no line of a file is left out of repair-keys.txt.
"""

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from tasks.audit.certificate import read_certificate
from tasks.comparison.instance_table import InstanceTable
from tasks.comparison.study_verdicts import StudyVerdict
from tasks.core.escape import escape, unescape
from tasks.core.models import Summary
from tasks.core.signs import InRegistry, Sides, Sign, sign_of, verdict
from tasks.core.verification_totals import Verification
from tasks.report.directory import (
    CERTIFICATE_JSON,
    REPAIR_KEYS_TXT,
    REPAIR_MANIFEST_CSV,
    STUDIES_CSV,
    VERIFICATION_CERTIFICATE_JSON,
    VERIFICATION_CSV,
    VERIFICATION_JSON,
    Drafts,
)
from tasks.report.page_rows import PageRows
from tasks.report.report_page import REPORT_HTML, Certified, PageFacts, write_report_page
from tasks.report.studies_csv import StudiesCsv

VERIFICATION_COLUMNS: Final = (
    "sign",
    "verdict",
    "key",
    "path",
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
    "study_no",
    "file_no",
    "report",
    "bucket",
    "bucket_key",
    "ingest",
    "registry",
    "deep",
)
_MANIFEST: Final = ("study_dir", "study_instance_uid", "expected_instances", "expected_bytes")
_MANIFEST_COLUMNS: Final = (*_MANIFEST, "priority", "label")
_ALONE: Final = Sides(is_stored=False, registry=InRegistry.THERE)
_LINE_ENDS: Final = ("\n", "\r")


def write_instances(drafts: Drafts, table: InstanceTable) -> None:
    """verification.csv: by study and file, then what the registry alone has."""
    with drafts.draft(VERIFICATION_CSV) as file:
        rows = _writer(file)
        rows.writerow(VERIFICATION_COLUMNS)
        rows.writerows(_instance_rows(table))


def write_studies(
    drafts: Drafts,
    carried: list[str],
    verdicts: Iterable[StudyVerdict],
    to_repair: set[int],
    *,
    registry_asked: bool,
) -> Iterator[StudyVerdict]:
    """studies.csv anew, and repair-manifest.csv of the studies `to_repair`; each verdict as it is written."""
    with drafts.draft(STUDIES_CSV) as studies_file, drafts.draft(REPAIR_MANIFEST_CSV) as manifest_file:
        studies = StudiesCsv(studies_file, carried)
        manifest = _writer(manifest_file)
        manifest.writerow([*_MANIFEST_COLUMNS, *_names_of_carried(carried)])
        for each in verdicts:
            studies.add_again(each.written(registry_asked=registry_asked))
            if int(each.study.cells["study_no"]) in to_repair:
                manifest.writerow(_manifest_row(each))
            yield each


def write_keys(drafts: Drafts, table: InstanceTable) -> tuple[int, int]:
    """repair-keys.txt: what the registry lacks and the bucket has, a key a line; how many, and how many not.

    Not those that can be no line of it: all of it would be refused.
    """
    count = left_out = 0
    with drafts.draft(REPAIR_KEYS_TXT) as file:
        for key in map(unescape, table.keys_to_register()):
            if _is_line(key):
                file.write(key.encode() + b"\n")
                count += 1
            else:
                left_out += 1
    return count, left_out


def write_summary(drafts: Drafts, verification: Verification) -> None:
    """verification.json."""
    with drafts.draft(VERIFICATION_JSON) as file:
        file.write(json.dumps(asdict(verification), indent=2).encode() + b"\n")


def write_verified_page(
    drafts: Drafts, report_dir: Path, summary: Summary, rows: PageRows, found: Verification
) -> None:
    """report.html anew, with what was found. Last, for it has the digests of the others."""
    ours = Certified(VERIFICATION_CERTIFICATE_JSON, dict(drafts.sha256))
    run = read_certificate(report_dir)
    others = [Certified(CERTIFICATE_JSON, run.sha256, run.digest)] if run else []
    with drafts.draft(REPORT_HTML) as file:
        write_report_page(file, PageFacts(report_dir, summary, rows, [ours, *others], found))


def _instance_rows(table: InstanceTable) -> Iterator[list[Any]]:
    for sides, cells in table.rows():
        if sign := sign_of(sides):
            key, found_key, path, *uids, study_no, file_no, status = cells
            said = _said(sides, status, found_key if sides.is_stored else "")
            yield [sign, verdict(sides), key, path, *uids, study_no, file_no, *said]
    for study_uid, uid in table.extra():
        said = _said(_ALONE, "", "")
        yield [Sign.REGISTRY_ALONE, "in the registry alone", "", "", uid, study_uid, "", "", "", *said]


def _is_line(key: str) -> bool:
    try:
        key.encode()
    except UnicodeError:
        return False
    return not any(end in key for end in _LINE_ENDS)


def _said(sides: Sides, status: str, found_key: str) -> list[str]:
    """What each side said."""
    ingest = "conflict" if sides.is_conflict else ""
    deep = sides.difference or sides.retrieved
    return [status, sides.bucket, found_key, ingest, sides.registry, deep]


def _manifest_row(each: StudyVerdict) -> list[str]:
    cells = each.study.cells | {"expected_instances": each.study.cells["expected"]}
    return [*(cells[name] for name in _MANIFEST_COLUMNS), *each.study.carried]


def _names_of_carried(carried: list[str]) -> list[str]:
    """None of them is taken for one of ours."""
    return [escape(name if name not in _MANIFEST_COLUMNS else f"manifest_{name}") for name in carried]


def _writer(file: IO[bytes]) -> Any:
    return csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
