"""The whole way with real servers: an S3 store, and Orthanc as the registry."""

import csv
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx
import pytest
from pydicom.data import get_testdata_file

from deployments.sandbox import storage
from deployments.sandbox.sandbox import Sandbox
from flows.cli.__main__ import execute
from tasks.report.reader import read_report
from tests.conftest import Plant, Row
from tests.orthanc import Orthanc, needs_orthanc, orthanc

pytestmark = needs_orthanc

REAL = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm", "reportsi.dcm", "liver.dcm")


@dataclass(slots=True)
class Chain:
    directory: Path
    objects: Path
    registry: Orthanc

    @property
    def report(self) -> Path:
        return self.directory / "report"

    def verify(self, *arguments: str) -> int:
        return execute(
            ["verify", str(self.report), "--bucket", f"s3://{storage.BUCKET}", *self.where(), *arguments]
        )

    def ingest(self, *arguments: str) -> int:
        return execute(["ingest", "--bucket", f"s3://{storage.BUCKET}", *self.where(), *arguments])

    def where(self) -> list[str]:
        return ["--dicomweb-url", self.registry.dicomweb_url, "--dicomweb-server", "orthanc"]

    def rows(self) -> dict[str, Row]:
        return {Path(row["path"]).name: row for row in read_report(self.report) if row["key"]}

    def signs(self) -> dict[str, str]:
        with (self.report / "verification.csv").open(newline="") as file:
            return {Path(row["path"]).name or "extra": row["sign"] for row in csv.DictReader(file)}

    def safe(self) -> list[str]:
        with (self.report / "studies.csv").open(newline="") as file:
            return [row["safe_to_delete"] for row in csv.DictReader(file)]

    def delete(self, key: str) -> None:
        """By the store itself: behind its back it would go on to list it for a while."""
        boto3.Session().client("s3").delete_object(Bucket=storage.BUCKET, Key=key)

    def store(self, *keys: str) -> None:
        """By plain STOW-RS."""
        for key in keys:
            boundary = uuid.uuid4().hex
            head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
            body = head + (self.objects / key).read_bytes() + f"\r\n--{boundary}--\r\n".encode()
            kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
            answer = httpx.post(
                f"{self.registry.dicomweb_url}/studies", content=body, headers={"Content-Type": kind}
            )
            assert answer.status_code == 200, answer.text


@pytest.fixture
def chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_our_settings: None, prefect_home: Path
) -> Iterator[Chain]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(prefect_home))
    (tmp_path / "orthanc").mkdir()
    with (
        storage.serve_objects(tmp_path / "store") as store,
        orthanc(tmp_path / "orthanc") as registry,
    ):
        for name, value in {
            "AWS_ENDPOINT_URL_S3": store.url,
            "AWS_ACCESS_KEY_ID": store.access_key_id,
            "AWS_SECRET_ACCESS_KEY": store.secret_access_key,
            "AWS_REGION": "us-east-1",
            "DICOM_INGEST_SANDBOX_BUCKET": storage.BUCKET,
        }.items():
            monkeypatch.setenv(name, value)
        with Sandbox.start(tmp_path / "sandbox") as sandbox:
            monkeypatch.delenv("DICOM_INGEST_SANDBOX_BUCKET")
            monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", sandbox.api_url)
            monkeypatch.setenv("DICOM_INGEST_TOKEN_URL", sandbox.token_url)
            monkeypatch.setenv("DICOM_INGEST_CLIENT_ID", sandbox.client_id)
            monkeypatch.setenv("DICOM_INGEST_CLIENT_SECRET", sandbox.client_secret)
            yield Chain(tmp_path, storage.bucket_dir(tmp_path / "store"), registry)


@pytest.mark.long
def test_what_is_lost_on_the_way_is_found_and_repaired(chain: Chain, plant: Plant) -> None:
    """Confirmed, then instances and objects deleted: exactly those have their signs, and come back."""
    archive = chain.directory / "archive"
    plant(archive / "made", 6)
    (archive / "real").mkdir()
    for name in REAL:
        found = get_testdata_file(name)
        (archive / "real" / name).write_bytes(Path(str(found)).read_bytes())
    assert execute(["manifest", str(archive), "-o", "manifest.csv"]) == 0
    assert execute(["run", "manifest.csv"]) == 0
    rows = chain.rows()
    assert chain.verify() == 1, "nothing is registered yet"
    assert sorted((chain.report / "repair-keys.txt").read_text().split()) == sorted(
        {row["key"] for row in rows.values()}
    )
    assert chain.ingest() == 0

    assert chain.verify("--deep", "100%", "--seed", "7") == 0
    found = json.loads((chain.report / "verification.json").read_text())
    assert (found["seed"], found["retrieved"]) == (7, {"same": len(rows)})
    assert set(chain.signs().values()) == {"="}
    assert chain.safe() == ["yes", "yes"]
    assert execute(["audit"]) == 0

    lost, both, unregistered, real = (
        rows[name] for name in ("IM0001.dcm", "IM0002.dcm", "IM0003.dcm", REAL[0])
    )
    for row in (lost, both):
        chain.delete(row["key"])
    for row in (both, unregistered, real):
        chain.registry.delete(row["sop_instance_uid"])
    assert chain.verify() == 1
    others = dict.fromkeys(rows, "=")
    signs = {"IM0001.dcm": "b", "IM0002.dcm": "b", "IM0003.dcm": "-", REAL[0]: "-"}
    assert chain.signs() == others | signs
    assert chain.safe() == ["no", "no"]
    assert execute(["audit"]) == 0

    keys = (chain.report / "repair-keys.txt").read_text().split()
    assert sorted(keys) == sorted([unregistered["key"], real["key"]])
    before = {path for path in chain.objects.rglob("*") if path.is_file()}
    assert (
        execute(
            [
                "run",
                "report/repair-manifest.csv",
                "--report-dir",
                "repair",
                "--ledger",
                "report/ledger.sqlite",
            ]
        )
        == 0
    )
    repaired = {
        Path(row["path"]).name: (row["status"], row["reason"])
        for row in read_report(chain.directory / "repair")
    }
    again = dict.fromkeys(repaired, ("already_uploaded", ""))
    assert repaired == again | dict.fromkeys(("IM0001.dcm", "IM0002.dcm"), ("uploaded", "replaced"))
    new = {path for path in chain.objects.rglob("*") if path.is_file()} - before
    assert len(new) == 2
    assert chain.ingest("--keys", "report/repair-keys.txt") == 0
    assert chain.verify() == 1, "what was in neither place is in the bucket by now"
    assert set(chain.signs().values()) == {"=", "-"}
    assert chain.ingest("--keys", "report/repair-keys.txt") == 0
    assert chain.verify() == 0
    assert chain.safe() == ["yes", "yes"]
    assert execute(["audit"]) == 0


def test_a_registry_that_goes_away_makes_nothing_missing(chain: Chain, plant: Plant) -> None:
    plant(chain.directory / "archive", 3)
    assert execute(["upload", "-p", "archive"]) == 0
    chain.store(*(row["key"] for row in chain.rows().values()))
    assert chain.verify("--deep", "1") == 0
    assert chain.safe() == ["yes"]
    chain.registry.kill()
    assert chain.verify() == 3
    assert set(chain.signs().values()) == {"!"}
    assert (chain.report / "repair-keys.txt").read_text() == ""
    assert execute(["audit"]) == 0


@pytest.mark.long
def test_what_ingest_has_moved_is_found_and_repaired_from_where_it_is(chain: Chain, plant: Plant) -> None:
    plant(chain.directory / "archive", 4)
    assert execute(["upload", "-p", "archive"]) == 0
    assert chain.ingest("--after", "move") == 0
    assert chain.verify() == 0
    assert chain.safe() == ["yes"]
    with (chain.report / "verification.csv").open(newline="") as file:
        assert all(row["bucket_key"].startswith("registered/") for row in csv.DictReader(file))

    lost, unregistered = (chain.rows()[name] for name in ("IM0001.dcm", "IM0002.dcm"))
    chain.delete(f"registered/{lost['key']}")
    chain.registry.delete(unregistered["sop_instance_uid"])
    assert chain.verify() == 1
    assert chain.signs() == dict.fromkeys(chain.rows(), "=") | {"IM0001.dcm": "b", "IM0002.dcm": "-"}
    assert (chain.report / "repair-keys.txt").read_text().startswith("registered/")

    repair = ["--ledger", "report/ledger.sqlite", "--report-dir", "repair"]
    assert execute(["run", "report/repair-manifest.csv", *repair]) == 0
    assert chain.ingest("--keys", "report/repair-keys.txt", "--after", "move") == 0
    assert chain.ingest("--after", "move") == 0
    assert chain.verify() == 0
    assert set(chain.signs().values()) == {"="}
    assert execute(["audit"]) == 0
