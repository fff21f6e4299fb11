"""An archive that was sent, and the bucket and registry that its report is held against.

The bucket is what the far side stored, as boto3's client would show it; the registry a DICOMweb server.
"""

import csv
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.bucket_settings import BucketAddress
from tasks.comparison.patience import Patience
from tasks.core.verification_totals import Verification
from tasks.declaration import load_as
from tasks.remote.bucket import Bucket
from tasks.report.directory import REPAIR_KEYS_TXT, STUDIES_CSV, VERIFICATION_CSV
from tasks.run.verification import VerifyEdges, verify
from tasks.verify_settings import VerifySettings
from tests.conftest import NearSide, Row
from tests.dicomweb_side import DicomwebSide


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__("a sentence of botocore's, with a key in it")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


@dataclass(slots=True)
class ObjectsClient:
    """What boto3's client shows of these objects. `etag`: of a body, MD5 unless the store encrypts."""

    objects: Callable[[], Mapping[str, bytes]]
    etag: Callable[[bytes], str] = lambda body: hashlib.md5(body, usedforsecurity=False).hexdigest()
    checksum: Callable[[bytes], str] = lambda _body: ""
    unlisted: set[str] = field(default_factory=set)
    fault: Callable[[str, str], Exception | None] = lambda _step, _key: None
    heads: list[str] = field(default_factory=list)

    def list_objects_v2(self, **asked: Any) -> Mapping[str, Any]:
        if error := self.fault("list", asked.get("ContinuationToken", "")):
            raise error
        after = asked.get("ContinuationToken") or asked.get("StartAfter") or ""
        keys = sorted(
            key
            for key in self.objects()
            if key.startswith(asked["Prefix"]) and key > after and key not in self.unlisted
        )
        page = keys[: min(2, asked["MaxKeys"])]
        found = {
            "Contents": [self._described(key) | {"Key": key} for key in page],
            "IsTruncated": page != keys,
        }
        return found | ({"NextContinuationToken": page[-1]} if page != keys else {})

    def head_object(self, **asked: Any) -> Mapping[str, Any]:
        key = asked["Key"]
        self.heads.append(key)
        if error := self.fault("head", key):
            raise error
        if key not in self.objects():
            raise ClientError(404, "404")
        described = self._described(key)
        checksum = self.checksum(self.objects()[key])
        more = {"ChecksumCRC64NVME": checksum, "ChecksumType": "FULL_OBJECT"} if checksum else {}
        return {"ContentLength": described["Size"], "ETag": described["ETag"], **more}

    def _described(self, key: str) -> dict[str, Any]:
        body = self.objects()[key]
        return {"Size": len(body), "ETag": f'"{self.etag(body)}"'}


@dataclass(slots=True)
class Verified:
    """`found = verified()`, and what was written."""

    near_side: NearSide
    registry: DicomwebSide
    client: ObjectsClient
    found: Verification | None = None

    @property
    def report_dir(self) -> Path:
        return self.near_side.report_dir

    def register_all(self) -> None:
        """What the bucket has is in the registry, too."""
        self.registry.put(*self.client.objects().values())

    def settings(self, **given: Any) -> VerifySettings:
        ours = {"report_dir": self.report_dir, "bucket": "s3://bucket", "dicomweb_url": self.registry.url}
        return load_as(VerifySettings, **{**ours, **given})

    def edges(self, **other: Any) -> VerifyEdges:
        return VerifyEdges(
            patience=lambda: Patience(sleep=lambda _seconds: None, jitter=lambda: 0.0),
            open_bucket=self.open_bucket,
            **other,
        )

    def open_bucket(self, address: BucketAddress) -> Bucket:
        return Bucket(address, self.client)  # type: ignore[arg-type]

    def __call__(self, edges: VerifyEdges | None = None, **given: Any) -> Verification:
        self.found = verify(self.settings(**given), edges=edges or self.edges())
        return self.found

    def rows(self) -> list[Row]:
        with (self.report_dir / VERIFICATION_CSV).open(newline="") as file:
            return [*csv.DictReader(file)]

    def signs(self) -> dict[str, str]:
        """By the file's name, or for what has none by its SOP Instance UID."""
        return {Path(row["path"]).name or row["sop_instance_uid"]: row["sign"] for row in self.rows()}

    def studies(self) -> list[Row]:
        with (self.report_dir / STUDIES_CSV).open(newline="") as file:
            return [*csv.DictReader(file)]

    def safe(self) -> list[str]:
        return [row["safe_to_delete"] for row in self.studies()]

    def keys(self) -> list[str]:
        return (self.report_dir / REPAIR_KEYS_TXT).read_text().splitlines()
