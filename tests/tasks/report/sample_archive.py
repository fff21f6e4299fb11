"""The report of an archive as hospitals have them, of any size: most of it is stored, some of it is not."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from tasks.core.models import RunFacts, StudyEntry, Summary
from tasks.core.report_columns import ReportRow
from tasks.core.verification_totals import Verification
from tasks.report.directory import write_report
from tests.tasks.report.sample_report import UNSENT, UPLOADED, row

STARTED_NS = 1_795_681_800_000_000_000  # 26 November 2026, 08:30 UTC
SITES = ("north", "south", "Krankenhaus Süd", "east wing")
MODALITIES = ("CT", "MR", "US", "CR", "MG")
SIZES = {"CT": 526_000, "MR": 210_000, "US": 1_800_000, "CR": 14_000_000, "MG": 27_000_000}
# Of a thousand files; status, reason, detail.
TROUBLE = {
    3: ("invalid", "truncated", "it ends within its pixel data"),
    91: ("failed", "refused", "EntityTooLarge"),
    217: ("failed", "network", ""),
    218: ("failed", "network", ""),
    404: ("conflict", "", ""),
    512: ("unreadable", "permission", ""),
    733: ("not_dicom", "other", ""),
    734: ("not_dicom", "dicomdir", ""),
}
FORECAST = {"wall_s": 7300.0, "files": 36_200, "bytes": 61_000_000_000, "ends_at": "2026-11-26T10:40:00Z"}
SETTINGS = {"parallel": "20", "campaign": "default", "trust_ctime": "yes", "max_outage": "3600"}


@dataclass(frozen=True, slots=True)
class Archive:
    """`files` in `studies`, the same number in each."""

    files: int
    studies: int
    seconds: int = 7860
    seed: int = 7
    changes: dict[str, Any] = field(default_factory=dict)  # of the run's facts

    def write(self, report_dir: Path) -> Summary:
        return write_report(report_dir, self.facts(), self.entries(), {}, self.rows()).summary

    def facts(self) -> RunFacts:
        facts = RunFacts(
            run_id="8c1f0f5e2d9a4c05b7be6a1c5f0a9d11",
            campaign="default",
            started_ns=STARTED_NS,
            finished_ns=STARTED_NS + self.seconds * 10**9,
            peak_parallel=20,
            parallel_course=[
                *((at * 1.0, at + 1) for at in range(20)),
                (self.seconds * 0.55, 6),
                (self.seconds * 0.6, 12),
                (self.seconds * 0.65, 20),
                (self.seconds * 0.99, 3),
            ],
            problems=["stored, but no checksum in the store's answers vouches for the bytes: 12 files"],
            api_host="api.example.org:443",
            storage_hosts=["uploads.s3.eu-central-1.amazonaws.com:443"],
            manifest_sha256="5f" * 32,
            settings=SETTINGS,
            versions={"dicom-ingest": "0.1.0", "Python": "3.11.14", "pycurl": "7.49.0"},
        )
        return replace(facts, **self.changes)

    def entries(self) -> list[StudyEntry]:
        return [
            StudyEntry(
                number,
                study_dir(number),
                label=f"A-{number:06}",
                expected_instances=self.in_study + (number % 97 == 0),
            )
            for number in range(1, self.studies + 1)
        ]

    @property
    def in_study(self) -> int:
        return self.files // self.studies

    def rows(self) -> Iterator[ReportRow]:
        random = Random(self.seed)
        for number in range(self.files):
            study_no, file_no = divmod(number, self.in_study)
            modality = MODALITIES[study_no * study_no * 7919 % 5]
            took_ns = int(random.expovariate(1) * 400e6)
            # Half way the platform is slow for a while.
            share = (number + random.uniform(0, 400)) / (self.files + 400)
            share = share * 0.8 if share < 0.7 else 0.56 + (share - 0.7) * 1.46
            finished_ns = STARTED_NS + int(share * self.seconds * 1e9) + took_ns
            path = f"{study_dir(study_no + 1)}/IM{file_no:06}.dcm"
            where = {"study_no": study_no + 1, "file_no": file_no + 1, "path": path}
            times = {"started_at": finished_ns - took_ns, "finished_at": finished_ns}
            size = {"size_bytes": int(SIZES[modality] * random.uniform(0.4, 1.3)), "modality": modality}
            common = where | times | size | {"study_dir": study_dir(study_no + 1)}
            if (number * 31 + study_no) % 1000 in TROUBLE and study_no % 13 in (3, 4):
                status, reason, detail = TROUBLE[(number * 31 + study_no) % 1000]
                yield row(UNSENT, **common, status=status, reason=reason, detail=detail)
            else:
                yield row(UPLOADED, **common, sop_instance_uid=f"1.2.{number}", key=f"uploads/{number:012}")


def study_dir(study_no: int) -> str:
    return f"/archive/{SITES[study_no % 4]}/2019/{study_no // 365 % 12 + 1:02}/{study_no * 7919 % 10**8:08}"


def verification(summary: Summary) -> Verification:
    """What a verification of it may find: some of each."""
    stored = summary.by_status["uploaded"]
    return Verification(
        run_id=summary.run_id,
        campaign=summary.campaign,
        bucket="s3://uploads/incoming",
        dicomweb_host="pacs.example.org:443",
        started_at="2026-11-26T11:00:00.000000Z",
        finished_at="2026-11-26T11:20:00.000000Z",
        wall_s=1200.0,
        instances=stored,
        confirmed=stored - 7,
        by_sign={"=": stored - 7, "-": 3, "b": 2, "+": 1, "*": 1, "!": 1},
        unknown=1,
        in_bucket=stored - 2,
        registered=stored - 4,
        compared_in_bucket=stored - 5,
        deep="1%",
        seed=7,
        retrieved={"same": 7, "no source": 1},
        studies=summary.studies,
        safe_to_delete={"yes": summary.studies - 5, "unknown": 2, "no": 3},
        exit_code=3,
        problems=["The registry gave no certain answer about 1 instance, the last: HTTP 503."],
    )
