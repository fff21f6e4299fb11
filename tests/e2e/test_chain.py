"""The whole chain, as people run it: backfill, ingest, verify; then losses on either side, and their repair.

pydicom's real files and a generated study go through the sandbox's upload API and bucket into its DICOMweb
server. Then instances go there and objects in the bucket: verify finds exactly those, and what it writes for
`run` and for `ingest` brings them back.
"""

import csv
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
import pytest

from deployments.sandbox.samples import build
from deployments.sandbox.sandbox import Sandbox
from tasks.report.reader import read_report
from tests.orthanc import needs_orthanc
from tests.processes import Command

pytestmark = [pytest.mark.processes, needs_orthanc]

SLICES = 12
STORED = {"uploaded", "already_uploaded", "duplicate"}
# Images that name no study, and a file that Orthanc takes by its own REST API alone: the demo has them, too.
NOT_FOR_A_REGISTRY = ("SC_without_study_uid", "RTDOSE_multi_frame_rle")


@dataclass(frozen=True)
class Chain:
    """A sandbox, an archive, and one report directory for all commands."""

    home: Path
    sandbox: Sandbox
    environment: Mapping[str, str]

    @property
    def report_dir(self) -> Path:
        return self.home / "report"

    def do(self, *arguments: str) -> int:
        """A command, to its end."""
        command = Command(self.home, self.environment, *arguments)
        code = command.ended()
        print(f"\n$ dicom-ingest {' '.join(arguments)}    # {code}\n{command.said}")
        return code

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.report_dir / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def stored(self) -> dict[str, str]:
        """Key by SOP Instance UID, of what the report calls stored."""
        return {
            row["sop_instance_uid"]: row["key"]
            for row in read_report(self.report_dir)
            if row["status"] in STORED
        }

    def signs(self) -> Counter[str]:
        return Counter(row["sign"] for row in self.rows("verification.csv"))

    def delete_instance(self, uid: str) -> None:
        """In Orthanc, by its own REST API, past DICOMweb."""
        parts = urlsplit(self.sandbox.dicomweb.url)
        auth = (self.sandbox.dicomweb.user, self.sandbox.dicomweb.password)
        with httpx.Client(base_url=f"{parts.scheme}://{parts.netloc}", auth=auth, trust_env=False) as orthanc:
            (found,) = orthanc.post("/tools/lookup", content=uid).json()
            orthanc.delete(found["Path"]).raise_for_status()

    def delete_object(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.sandbox.bucket.removeprefix("s3://"), Key=key)

    @property
    def s3(self) -> Any:
        settings = self.sandbox.s3
        return boto3.client(
            "s3",
            endpoint_url=settings["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
            region_name=settings["AWS_REGION"],
        )


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Iterator[Chain]:
    """As after `set -a; . sandbox/sandbox.env; set +a` in a shell."""
    home = tmp_path_factory.mktemp("chain")
    manifest = build(home / "archive", SLICES).manifest
    rows = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(row for row in rows if not row.startswith(NOT_FOR_A_REGISTRY)))
    with Sandbox.start(home / "sandbox") as sandbox:
        sandbox.write_env_file(home / "sandbox.env")
        lines = (line.partition("=") for line in (home / "sandbox.env").read_text().splitlines())
        settings = {name: shlex.split(value)[0] for name, _, value in lines}
        yield Chain(home, sandbox, os.environ | {"PREFECT_HOME": str(prefect_home)} | settings)


def test_what_was_sent_arrives_and_what_is_lost_comes_back(chain: Chain) -> None:
    """In one test, for each step begins where the one before has ended."""
    report = ["--report-dir", str(chain.report_dir)]
    assert chain.do("run", "archive/manifest.csv", *report) == 1  # what was planted can't all be stored
    stored = chain.stored()
    assert chain.do("ingest", *report) == 0
    registered = chain.rows("registration.csv")
    assert {row["key"] for row in registered} == set(stored.values())
    assert {row["status"] for row in registered} == {"registered"}
    assert chain.do("verify", str(chain.report_dir), "--deep", "20%") == 0
    assert chain.signs() == {"=": len(stored)}

    from_registry, from_bucket, from_both = sorted(stored)[:3], sorted(stored)[3:5], sorted(stored)[5:6]
    for uid in from_registry + from_both:
        chain.delete_instance(uid)
    for uid in from_bucket + from_both:
        chain.delete_object(stored[uid])
    assert chain.do("verify", str(chain.report_dir)) == 1
    signs = {row["sop_instance_uid"]: row["sign"] for row in chain.rows("verification.csv")}
    lost = dict.fromkeys(from_registry, "-") | dict.fromkeys(from_bucket + from_both, "b")
    assert {uid: sign for uid, sign in signs.items() if sign != "="} == lost

    assert chain.do("run", str(chain.report_dir / "repair-manifest.csv"), *report) == 0
    sent_again = {
        row["sop_instance_uid"] for row in read_report(chain.report_dir) if row["status"] == "uploaded"
    }
    assert sent_again == set(from_bucket + from_both)
    assert chain.do("ingest", "--keys", str(chain.report_dir / "repair-keys.txt"), *report) == 0
    assert chain.do("ingest", *report) == 0  # what was in neither place has a new key, as any upload has

    assert chain.do("run", "archive/manifest.csv", *report) == 1
    assert {uid for uid, key in chain.stored().items() if key != stored[uid]} == sent_again
    assert chain.do("verify", str(chain.report_dir)) == 0
    assert chain.signs() == {"=": len(stored)}
    assert chain.do("audit", str(chain.report_dir)) == 0
