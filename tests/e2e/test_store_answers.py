"""A sandbox whose store answers as others do: what such a store shows, and what `upload` makes of it."""

import base64
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from awscrt.checksums import crc64nvme

from deployments.sandbox.sandbox import Sandbox
from flows.cli.__main__ import execute
from tasks.core.checksums import Evidence
from tasks.report.reader import read_report, read_summary
from tasks.sandbox_settings import SandboxSettings, StoreAnswers
from tests.conftest import Plant, Row
from tests.processes import Command, await_that

DAMAGE_EVERY = 3
DICOM = {"Content-Type": "application/dicom"}


@pytest.fixture(scope="module", params=StoreAnswers)
def kind(request: pytest.FixtureRequest) -> StoreAnswers:
    return StoreAnswers(request.param)


@pytest.fixture(scope="module")
def sandbox(kind: StoreAnswers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    settings = SandboxSettings(store_answers=kind, damage_every=DAMAGE_EVERY)
    with Sandbox.start(tmp_path_factory.mktemp("sandbox"), store=settings) as sandbox:
        yield sandbox


def presigned(sandbox: Sandbox, client: httpx.Client) -> tuple[str, str]:
    auth = (sandbox.client_id, sandbox.client_secret)
    granted = client.post(sandbox.token_url, data={"grant_type": "client_credentials"}, auth=auth).json()
    bearer = {"Authorization": f"Bearer {granted['access_token']}"}
    answer = client.get(f"{sandbox.api_url}/upload/", headers=bearer).json()
    return answer["url"], answer["key"]


class TestStore:
    def test_shows_what_is_there(self, sandbox: Sandbox, kind: StoreAnswers) -> None:
        """Of every third object the first PUT arrives damaged: what is shown is of what arrived."""
        content, differing = os.urandom(100_000), 0
        for _ in range(DAMAGE_EVERY):
            with httpx.Client(trust_env=False, timeout=20) as client:
                url, key = presigned(sandbox, client)
                answer = client.put(url, content=content, headers=DICOM)
            stored = sandbox.object_path(key).read_bytes()
            differing += stored != content
            shows_md5 = kind in (StoreAnswers.PLAIN, StoreAnswers.S3)
            shows_crc = kind in (StoreAnswers.S3, StoreAnswers.KMS)
            crc = base64.b64encode(crc64nvme(stored).to_bytes(8, "big")).decode()
            assert Evidence.of(answer.headers) == Evidence(
                crc if shows_crc else "",
                hashlib.md5(stored).hexdigest() if shows_md5 else "",
                is_s3=kind is not StoreAnswers.OTHER_CLOUD,
            )
            assert re.fullmatch('"[0-9a-f]{32}"', answer.headers["etag"])
        assert differing == 1

    def test_refuses_what_a_store_refuses(self, sandbox: Sandbox) -> None:
        """In its own words: another Content-MD5, another type, a URL of another key."""
        with httpx.Client(trust_env=False, timeout=20) as client:
            url, key = presigned(sandbox, client)
            other_md5 = DICOM | {"Content-MD5": base64.b64encode(bytes(16)).decode()}
            answers = [
                client.put(url, content=b"x", headers=other_md5),
                client.put(url, content=b"x", headers={"Content-Type": "text/plain"}),
                client.put(url.replace(key, f"{key}x"), content=b"x", headers=DICOM),
            ]
        codes = [(answer.status_code, re.findall("<Code>(.*)</Code>", answer.text)) for answer in answers]
        assert codes == [(400, ["BadDigest"]), *[(403, ["SignatureDoesNotMatch"])] * 2]
        assert url.startswith(f"{sandbox.api_url}/store/")
        assert not sandbox.object_path(key).exists()


class TestUpload:
    FILES = 48

    def test_sends_again_what_arrived_damaged_where_that_can_be_seen(
        self,
        sandbox: Sandbox,
        kind: StoreAnswers,
        plant: Plant,
        tmp_path: Path,
        only_our_settings: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Of another cloud's answers it can't: then the summary says so, and the certificate."""
        plant(tmp_path / "study", self.FILES)
        monkeypatch.setenv("DICOM_INGEST_TOKEN_URL", sandbox.token_url)
        monkeypatch.setenv("DICOM_INGEST_CLIENT_ID", sandbox.client_id)
        monkeypatch.setenv("DICOM_INGEST_CLIENT_SECRET", sandbox.client_secret)
        report = tmp_path / "report"
        options = ["-u", sandbox.api_url, "--parallel", "2", "--report-dir", str(report)]
        assert execute(["upload", "-p", str(tmp_path / "study"), *options]) == 0
        rows = list(read_report(report))
        damaged = [row for row in rows if is_damaged(sandbox, row)]
        again = [row for row in rows if row["attempts"] == "2"]
        problems = read_summary(report).problems
        certificate = json.loads((report / "certificate.json").read_text())
        assert {row["status"] for row in rows} == {"uploaded"}
        assert len(damaged) + len(again) == self.FILES // DAMAGE_EVERY
        if kind is StoreAnswers.OTHER_CLOUD:
            assert damaged
            (problem,) = problems
            assert problem.endswith(f"vouches for the bytes: {self.FILES} files")
            assert certificate["unvouched"] == self.FILES
        else:
            assert (damaged, problems, certificate["unvouched"]) == ([], [], 0)


def is_damaged(sandbox: Sandbox, row: Row) -> bool:
    return sandbox.object_path(row["key"]).read_bytes() != Path(row["path"]).read_bytes()


def test_the_command_says_how_the_store_answers(
    tmp_path: Path, plant: Plant, only_our_settings: None
) -> None:
    """`sandbox --store-answers kms --damage-every 2`, then `upload`: an encrypted bucket, verified."""
    plant(tmp_path / "study", 4)
    options = ("--store-answers", "kms", "--damage-every", "2", "--data-dir", "data")
    sandbox = Command(tmp_path, os.environ, "sandbox", *options)
    try:
        await_that(lambda: "Ctrl-C stops it" in sandbox.said)
        lines = (tmp_path / "data" / "sandbox.env").read_text().splitlines()
        settings = dict(shlex.split(line)[0].split("=", 1) for line in lines)
        command = ("upload", "-p", "study", "--report-dir", "report")
        upload = Command(tmp_path, {**os.environ, **settings}, *command)
        assert upload.ended() == 0, upload.said
    finally:
        sandbox.process.terminate()
        sandbox.ended()
    rows = list(read_report(tmp_path / "report"))
    assert sorted(row["attempts"] for row in rows) == ["1", "1", "2", "2"]
    assert all(row["crc64nvme"] for row in rows)
