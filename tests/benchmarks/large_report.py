"""A report of so many instances that nobody had to send, and a bucket and a registry that have them all.

python -m tests.benchmarks.large_report REPORT_DIR INSTANCES STUDIES    prints the verification's peak memory
"""

import hashlib
import resource
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.audit.certificate import write_certificate
from tasks.audit.log import Trail
from tasks.bucket_settings import BucketAddress
from tasks.comparison.deep_side import Retrieving
from tasks.concurrency.event_loop import EventLoop
from tasks.core.audit_chain import Event
from tasks.core.models import StudyEntry
from tasks.core.report_columns import ReportRow
from tasks.core.verification_totals import Verification
from tasks.declaration import load_as
from tasks.remote.bucket import Bucket
from tasks.report.directory import REPORT_CSV, write_report
from tasks.run.verification import VerifyEdges, verify
from tasks.verify_settings import VerifySettings
from tests.tasks.report.sample_report import facts, row

RUN_ID = "run-1"
_ROOT = "1.2.826.0.1.3680043.8.498.2026"


@dataclass(frozen=True, slots=True)
class LargeReport:
    """`instances` in `studies`, the same number in each."""

    report_dir: Path
    instances: int
    studies: int

    @property
    def in_study(self) -> int:
        return self.instances // self.studies

    def write(self) -> None:
        with closing(Trail(self.report_dir)) as trail:
            trail.record(Event.RUN_STARTED, run_id=RUN_ID)
            entries = [StudyEntry(number, f"/archive/{number}") for number in range(1, self.studies + 1)]
            written = write_report(self.report_dir, facts(RUN_ID), entries, {}, self._rows())
            report_sha256 = written.sha256[REPORT_CSV]
            trail.record(Event.RUN_ENDED, run_id=RUN_ID, report_sha256=report_sha256)
            trail.flush()
            write_certificate(self.report_dir, written, trail.chain, trail.size_bytes)

    def _rows(self) -> Iterator[ReportRow]:
        for number in range(self.instances):
            study_no, file_no = divmod(number, self.in_study)
            md5 = md5_of(number)
            yield row(
                study_no=study_no + 1,
                file_no=file_no + 1,
                study_dir=f"/archive/{study_no + 1}",
                path=f"/archive/{study_no + 1}/IM{file_no:06}.dcm",
                key=key_of(number),
                sop_instance_uid=f"{study_uid(study_no)}.1.{file_no}",
                study_instance_uid=study_uid(study_no),
                series_instance_uid=f"{study_uid(study_no)}.1",
                sha256=hashlib.sha256(md5.encode()).hexdigest(),
                md5=md5,
                etag=f'"{md5}"',
            )

    def uids_of(self, uid: str) -> list[str]:
        return [f"{uid}.1.{number}" for number in range(self.in_study)]

    def verify(self, edges: VerifyEdges, **settings: Any) -> Verification:
        given = {"report_dir": self.report_dir, **settings}
        return verify(load_as(VerifySettings, **given), edges=edges)


def study_uid(number: int) -> str:
    return f"{_ROOT}.{number}"


def key_of(number: int) -> str:
    return f"uploads/{number:012}"


def md5_of(number: int) -> str:
    return f"{number:032x}"


@dataclass(frozen=True, slots=True)
class LargeBucket:
    """As boto3's client, of all these objects."""

    objects: int

    def list_objects_v2(self, **asked: Any) -> Mapping[str, Any]:
        first = int(asked.get("ContinuationToken") or 0)
        last = min(self.objects, first + asked["MaxKeys"])
        found = [{"Key": key_of(at), "Size": 1000, "ETag": f'"{md5_of(at)}"'} for at in range(first, last)]
        return {"Contents": found, "IsTruncated": last < self.objects, "NextContinuationToken": str(last)}


@dataclass(frozen=True, slots=True)
class _Listing:
    uids: Collection[str]
    related: int | None


@dataclass(frozen=True, slots=True)
class LargeRegistry:
    report: LargeReport

    async def instances(self, uid: str) -> _Listing:
        found = self.report.uids_of(uid)
        return _Listing(found, len(found))


def edges_of(report: LargeReport) -> VerifyEdges:
    @contextmanager
    def opened(_settings: VerifySettings) -> Iterator[tuple[EventLoop, Retrieving]]:
        with closing(EventLoop()) as loop:
            yield loop, LargeRegistry(report)  # type: ignore[misc]

    def open_bucket(address: BucketAddress) -> Bucket:
        return Bucket(address, LargeBucket(report.instances))  # type: ignore[arg-type]

    return VerifyEdges(open_bucket=open_bucket, open_registry=opened)


if __name__ == "__main__":
    _report = LargeReport(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    _found = _report.verify(
        edges_of(_report), bucket="s3://bucket", dicomweb_url="http://127.0.0.1:1/dicom-web"
    )
    assert _found.confirmed == _report.instances, _found
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
