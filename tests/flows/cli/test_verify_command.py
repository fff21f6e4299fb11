"""`dicom-ingest verify` at a terminal: what it says, and how it ends."""

import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from flows.cli.__main__ import execute
from flows.orchestration.standard_streams import Kind
from flows.orchestration.verification_display import Pace, show_lines
from tasks.core.comparison_progress import ComparisonProgress
from tasks.dicomweb_settings import DicomwebServer
from tests.dicomweb_side import DicomwebSide, Step, always, status
from tests.far_side import TOKEN, FarSide
from tests.flows.conftest import Plant


@pytest.fixture
def registry() -> Iterator[DicomwebSide]:
    with DicomwebSide() as registry:
        yield registry


@pytest.fixture
def sent(
    here: Path, plant: Plant, far_side: FarSide, registry: DicomwebSide, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The report directory of a run that stored three files, of which the registry has all."""
    monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    plant(here / "study", 3)
    assert execute(["upload", "-p", "study"]) == 0
    registry.put(*far_side.bodies.values())
    monkeypatch.setenv("DICOM_INGEST_DICOMWEB_URL", registry.url)
    return here / "report"


def test_says_what_is_confirmed_and_where_it_is_written(
    sent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["verify"]) == 0
    said = capsys.readouterr().err
    assert "3 instances: 3 confirmed\n" in said
    assert "Safe to delete: 1 unknown (studies.csv)\n" in said
    assert f"Verification: {sent / 'verification.csv'}\n" in said
    assert execute(["audit"]) == 0
    assert "1 verified" in capsys.readouterr().err


def test_says_what_repairs_what_is_missing(
    sent: Path, registry: DicomwebSide, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = next(iter(registry.stored))
    registry.delete(uid)
    assert execute(["verify", str(sent)]) == 1
    said = capsys.readouterr().err
    assert "3 instances: 2 confirmed, 1 not in the registry\n" in said
    command = f"dicom-ingest ingest --keys {sent / 'repair-keys.txt'} --ledger {sent / 'ledger.sqlite'}"
    assert f"What the registry lacks: {command} --report-dir {sent}\n" in said
    assert uid not in said


def test_says_the_repairs_by_the_reports_campaign(
    sent: Path, registry: DicomwebSide, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["upload", "-p", "study", "--campaign", "spring"]) == 0
    registry.stored.clear()
    assert execute(["verify"]) == 1
    assert "ledger.sqlite --campaign spring --report-dir" in capsys.readouterr().err


def test_says_which_copies_were_compared(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["verify", "--deep", "2", "--seed", "11"]) == 0
    assert "Bytes compared: 2 retrieved (2 same; seed 11)\n" in capsys.readouterr().err
    assert execute(["verify", "--deep", "100%"]) == 0
    assert "Safe to delete: 1 yes (studies.csv)\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--deep", "lots"], 2, "is a number of instances, such as 100, or a part of them, such as 5%"),
        (["--bucket", "b"], 2, "is s3://BUCKET or s3://BUCKET/PREFIX"),
        (["nowhere"], 2, "There is no whole report in the report directory"),
        (["--campaign", "other"], 2, "The report is of another campaign than --campaign says."),
        (["--dicomweb-url", "http://pacs.example.org"], 2, "DICOMWEB_URL"),
        (["--dicomweb-url", "http://127.0.0.1:9/dicom-web"], 3, "3 instances: 3 not known"),
    ],
)
def test_ends_with(
    sent: Path, arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["verify", *arguments]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("server", DicomwebServer)
def test_takes_each_server_by_its_name(sent: Path, server: str) -> None:
    assert execute(["verify", "--dicomweb-server", server]) == 0


def test_signs_what_it_found(
    sent: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the operator's key; the audit says when the signature is another's."""
    keys = [Ed25519PrivateKey.generate() for _ in range(2)]
    for number, key in enumerate(keys):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (here / f"{number}.pem").write_bytes(pem)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (here / f"{number}.pub").write_bytes(public)
    monkeypatch.setenv("DICOM_INGEST_SIGNING_KEY", "0.pem")
    assert execute(["upload", "-p", "study"]) == 0
    assert execute(["verify"]) == 0
    assert execute(["audit", "--public-key", "0.pub"]) == 0
    assert "Other certificates without a signature: 1." in capsys.readouterr().err, "that of the first run"
    monkeypatch.setenv("DICOM_INGEST_SIGNING_KEY", "1.pem")
    (sent / "verification-certificate.sig").write_bytes(
        keys[1].sign((sent / "verification-certificate.json").read_bytes())
    )
    assert execute(["audit", "--public-key", "0.pub"]) == 1
    assert "verification-certificate.json has a signature that is not of this key" in capsys.readouterr().err


class TestHowFarItIs:
    """By a clock that the test sets: half a second for each look."""

    def said(self, progress: ComparisonProgress, looks: int, per_look: int) -> list[dict[str, object]]:
        lines: list[dict[str, object]] = []
        now_s, ended = 0.0, threading.Event()

        def wait(_timeout: float | None = None) -> bool:
            nonlocal now_s, looks
            now_s, looks = now_s + 0.5, looks - 1
            progress.count(per_look)
            return looks < 0

        def say(sentence: str, kind: Kind, **counters: object) -> None:
            lines.append({"at": now_s, "kind": kind, "sentence": sentence} | counters)

        ended.wait = wait  # type: ignore[method-assign]
        show_lines(progress, ended, lambda: now_s, say)
        return lines

    def test_comes_within_five_seconds_then_every_half_minute(self) -> None:
        lines = self.said(ComparisonProgress(), looks=150, per_look=0)
        assert [line["at"] for line in lines] == [3.0, 33.0, 63.0]
        assert {line["kind"] for line in lines} == {Kind.PROGRESS}

    def test_is_done_of_all_bytes_requests_what_is_not_confirmed_the_pace_and_time_left(self) -> None:
        progress = ComparisonProgress()
        progress.begin("objects", 2000, requests=16)
        progress.count_bytes(3 * 1024 * 1024)
        progress.count_not_confirmed("bucket", 3)
        with progress.asking(), progress.asking():
            (line,) = self.said(progress, looks=6, per_look=50)
        assert line["sentence"] == (
            "verify: 300 of 2,000 objects, 3.0 MiB, 2 of 16 requests under way, "
            "3 not confirmed by the bucket, 100/s, about 17 s left of this step"
        )
        assert (line["done"], line["total"], line["slots_in_use"], line["slots"]) == (300, 2000, 2, 16)
        assert (line["per_s"], line["seconds_left"]) == (100.0, 17)
        assert line["not_confirmed"] == {"bucket": 3}
        assert progress.percent() > 15
        assert progress.requests_in_use == 0, "they have ended"

    def test_the_pace_begins_anew_with_a_step(self) -> None:
        progress = ComparisonProgress()
        seconds = count(1.0)
        pace = Pace(progress, lambda: next(seconds))
        for _ in range(3):
            progress.count(1000)
            pace.look()
        assert pace.per_s == 1000
        progress.begin("studies of the registry", 10)
        pace.look()
        assert pace.per_s is None
        assert pace.seconds_left is None


def test_ends_with_4_when_the_credentials_are_refused(
    sent: Path,
    registry: DicomwebSide,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DICOM_INGEST_DICOMWEB_TOKEN", "canary-secret")
    registry.authorizations = {"Bearer right"}
    assert execute(["verify"]) == 4
    said = capsys.readouterr().err
    assert "DICOM_INGEST_DICOMWEB_TOKEN" in said
    assert "canary" not in said
    assert TOKEN not in {request.headers.get("Authorization", "") for request in registry.requests}


def test_asks_the_registry_by_its_own_credentials_alone(sent: Path, registry: DicomwebSide) -> None:
    """It never gets the upload API's token."""
    assert execute(["verify"]) == 0
    assert {request.headers.get("Authorization") for request in registry.requests} == {None}


def test_without_an_answer_ends_with_3_and_lets_nothing_be_deleted(
    sent: Path, registry: DicomwebSide
) -> None:
    registry.script = always(Step.QUERY, status(502))
    assert execute(["verify"]) == 3
    assert ",no," in (sent / "studies.csv").read_text().splitlines()[1]


def test_with_no_side_to_ask_says_so(
    sent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DICOM_INGEST_DICOMWEB_URL")
    assert execute(["verify"]) == 2
    assert "BUCKET or DICOMWEB_URL has to say what the report is held against" in capsys.readouterr().err
