"""The far side on one machine, as a client sees it: real HTTP, a real S3 endpoint, real processes."""

import base64
import hashlib
import http.client
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote_plus, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from deployments.sandbox.gateway.oauth2 import MAX_LIVE_TOKENS, Tokens
from deployments.sandbox.gateway.presign import presigner
from deployments.sandbox.ports import keep_port, last_port
from deployments.sandbox.sandbox import Sandbox
from tasks.core.checksums import Evidence
from tasks.core.errors import StoppedError, UsageError
from tasks.sandbox_settings import GatewaySettings

DICOM = {"Content-Type": "application/dicom"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
GRANT = {"grant_type": "client_credentials"}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox.start(tmp_path_factory.mktemp("far side")) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=20) as client:
        yield client


def token(sandbox: Sandbox, client: httpx.Client) -> str:
    answer = client.post(sandbox.token_url, data=GRANT, auth=(sandbox.client_id, sandbox.client_secret))
    return str(answer.json()["access_token"])


def presigned(sandbox: Sandbox, client: httpx.Client) -> tuple[str, str]:
    bearer = {"Authorization": f"Bearer {token(sandbox, client)}"}
    answer = client.get(f"{sandbox.api_url}/upload/", headers=bearer)
    assert answer.status_code == 200
    return answer.json()["url"], answer.json()["key"]


def is_listening(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    except ConnectionError:  # refused; or reset, in the moment in which it ends
        return False
    return True


def ends_soon(url: str) -> bool:
    deadline = time.monotonic() + 10
    while is_listening(url) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_listening(url)


class TestToken:
    def test_is_granted_by_http_basic(self, sandbox: Sandbox, client: httpx.Client) -> None:
        """Credentials in the header, and an answer that no cache may keep (RFC 6749 section 5.1)."""
        answer = client.post(sandbox.token_url, data=GRANT, auth=(sandbox.client_id, sandbox.client_secret))
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json()["token_type"] == "Bearer"
        assert answer.json()["expires_in"] == 3600

    def test_is_granted_by_credentials_in_the_body(self, sandbox: Sandbox, client: httpx.Client) -> None:
        """The other way of RFC 6749 section 2.3.1."""
        credentials = {"client_id": sandbox.client_id, "client_secret": sandbox.client_secret}
        assert client.post(sandbox.token_url, data=GRANT | credentials).status_code == 200

    @pytest.mark.parametrize(
        "authorization",
        [
            "",
            "Basic",
            "Basic !",
            "Basic " + base64.b64encode(b"\xff\xfe").decode(),
            "Basic " + base64.b64encode(b"sandbox:wrong").decode(),
            "Bearer abc",
        ],
    )
    def test_is_refused_to_whoever_lacks_the_secret(
        self, sandbox: Sandbox, client: httpx.Client, authorization: str
    ) -> None:
        """A wrong, garbled or missing secret is invalid_client, 401, with the scheme to use."""
        headers = {"Authorization": authorization} if authorization else {}
        answer = client.post(sandbox.token_url, data=GRANT, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert answer.headers["www-authenticate"].startswith("Basic ")

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            ("", "invalid_request"),
            ("grant_type=", "invalid_request"),
            ("grant_type=password", "unsupported_grant_type"),
            ("grant_type=client_credentials&scope=admin", "invalid_scope"),
            ("grant_type=client_credentials&scope=upload+admin", "invalid_scope"),
            ("grant_type=client_credentials&grant_type=client_credentials", "invalid_request"),
            ("grant_type=client_credentials&client_secret=twice", "invalid_request"),
            ("grant_type=%ff", "invalid_request"),
            (b"grant_type=\xff", "invalid_request"),
        ],
    )
    def test_request_that_is_wrong_is_told_how(
        self, sandbox: Sandbox, client: httpx.Client, body: str | bytes, error: str
    ) -> None:
        """One line per error code of RFC 6749 section 5.2, all of them 400."""
        auth = (sandbox.client_id, sandbox.client_secret)
        answer = client.post(sandbox.token_url, content=body, headers=FORM, auth=auth)
        assert (answer.status_code, answer.json()["error"]) == (400, error)

    def test_request_in_json_is_refused(self, sandbox: Sandbox, client: httpx.Client) -> None:
        """RFC 6749 knows one encoding."""
        assert client.post(sandbox.token_url, json=GRANT).json()["error"] == "invalid_request"

    def test_request_without_end_is_refused(self, sandbox: Sandbox, client: httpx.Client) -> None:
        """No client can fill the gateway's memory."""
        assert client.post(sandbox.token_url, content=b"a" * 100_000, headers=FORM).status_code == 413

    def test_expires(self) -> None:
        """A token is good until its lifetime is over, and only as it was issued."""
        now = 0.0
        tokens = Tokens(60, clock=lambda: now)
        issued = tokens.issue()
        now = 59.9
        assert tokens.accepts(issued)
        assert not tokens.accepts(issued[:-1])
        now = 60.0
        assert not tokens.accepts(issued)

    def test_of_long_ago_makes_room(self) -> None:
        """However many are asked for, a bounded number is live, and the newest are."""
        tokens = Tokens(60, clock=lambda: 0.0)
        issued = [tokens.issue() for _ in range(MAX_LIVE_TOKENS + 1)]
        assert [tokens.accepts(token) for token in issued[:2]] == [False, True]
        assert tokens.accepts(issued[-1])


class TestUpload:
    @pytest.mark.parametrize("authorization", ["", "Basic c2FuZGJveDp4", "Token abc"])
    def test_needs_a_token(self, sandbox: Sandbox, client: httpx.Client, authorization: str) -> None:
        """Without one: 401 and a challenge that names no error (RFC 6750 section 3.1)."""
        headers = {"Authorization": authorization} if authorization else {}
        answer = client.get(f"{sandbox.api_url}/upload/", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="upload"'

    def test_refuses_a_token_it_did_not_issue(self, sandbox: Sandbox, client: httpx.Client) -> None:
        """invalid_token is what tells a client to fetch another one."""
        answer = client.get(f"{sandbox.api_url}/upload/", headers={"Authorization": "Bearer made-up"})
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]

    def test_hands_out_each_key_once(self, sandbox: Sandbox, client: httpx.Client) -> None:
        """A key says the day and nothing of the file; no cache may hand it out again."""
        bearer = {"Authorization": f"bearer {token(sandbox, client)}"}
        answers = [client.get(f"{sandbox.api_url}/upload/", headers=bearer) for _ in range(50)]
        keys = {answer.json()["key"] for answer in answers}
        assert len(keys) == 50
        assert all(re.fullmatch(r"uploads/\d{4}-\d\d-\d\d/[0-9a-f-]{36}\.dcm", key) for key in keys)
        assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}


class TestObject:
    @pytest.mark.parametrize("size_bytes", [1, 65_537, 3_000_000])
    def test_is_stored_byte_for_byte(self, sandbox: Sandbox, client: httpx.Client, size_bytes: int) -> None:
        """What was PUT is what the bucket holds, for its owner alone, and the ETag is its MD5."""
        content = os.urandom(size_bytes)
        url, key = presigned(sandbox, client)
        answer = client.put(url, content=content, headers=DICOM)
        assert answer.status_code == 200
        assert answer.headers["etag"].strip('"') == hashlib.md5(content).hexdigest()
        assert sandbox.object_path(key).read_bytes() == content
        assert stat.S_IMODE(sandbox.object_path(key).stat().st_mode) == 0o600

    def test_of_another_content_type_is_refused(self, sandbox: Sandbox, client: httpx.Client) -> None:
        """The content type is part of the signature."""
        url, key = presigned(sandbox, client)
        assert client.put(url, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 403
        assert not sandbox.object_path(key).exists()

    def test_is_not_for_a_url_of_another_key(self, sandbox: Sandbox, client: httpx.Client) -> None:
        """A URL is good for the key it was minted for."""
        url, key = presigned(sandbox, client)
        assert client.put(url.replace(key, f"{key}x"), content=b"x", headers=DICOM).status_code == 403

    def test_cut_off_halfway_is_not_stored(self, sandbox: Sandbox, client: httpx.Client) -> None:
        """A PUT whose connection breaks leaves no object, as on S3."""
        url, key = presigned(sandbox, client)
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.netloc, timeout=10)
        connection.putrequest("PUT", f"{address.path}?{address.query}")
        connection.putheader("Content-Type", DICOM["Content-Type"])
        connection.putheader("Content-Length", "1000000")
        connection.endheaders(b"x" * 400_000)
        connection.close()
        time.sleep(0.3)
        assert not sandbox.object_path(key).exists()


class TestSettings:
    def test_choose_client_lifetimes_and_keys(
        self, tmp_path: Path, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All that real keys and secrets may hold goes through; after the block nothing of it runs."""
        chosen = {
            "CLIENT_ID": "tenant a/b:c+d",
            "CLIENT_SECRET": "p%40ss: wörd+$'\"",
            "TOKEN_LIFETIME_S": "7",
            "URL_LIFETIME_S": "11",
            "KEY_PREFIX": "tenant (a)/site=1 + 2/ü%20&b",
        }
        for name, value in chosen.items():
            monkeypatch.setenv(f"DICOM_INGEST_SANDBOX_{name}", value)
        monkeypatch.setenv("AWS_PROFILE", "not-there")
        with Sandbox.start(tmp_path) as sandbox:
            auth = (quote_plus(sandbox.client_id), quote_plus(sandbox.client_secret))
            granted = client.post(sandbox.token_url, data=GRANT, auth=auth).json()
            bearer = {"Authorization": f"Bearer {granted['access_token']}"}
            minted = client.get(f"{sandbox.api_url}/upload/", headers=bearer).json()
            assert granted["expires_in"] == 7
            assert parse_qs(urlsplit(minted["url"]).query)["X-Amz-Expires"] == ["11"]
            assert minted["key"].startswith(f"{chosen['KEY_PREFIX']}/")
            assert client.put(minted["url"], content=b"x", headers=DICOM).status_code == 200
            assert sandbox.object_path(minted["key"]).read_bytes() == b"x"
        assert not is_listening(sandbox.api_url)
        assert not is_listening(minted["url"])

    def test_say_how_the_store_answers(
        self, tmp_path: Path, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then PUTs go through the gateway: whatever is in a key, as it is signed it is passed on."""
        monkeypatch.setenv("DICOM_INGEST_SANDBOX_KEY_PREFIX", "tenant (a)/site=1 + 2/ü%20&b")
        monkeypatch.setenv("DICOM_INGEST_SANDBOX_STORE_ANSWERS", "s3")
        with Sandbox.start(tmp_path) as sandbox:
            url, key = presigned(sandbox, client)
            answer = client.put(url, content=b"x" * 3_000_000, headers=DICOM)
            assert Evidence.of(answer.headers).crc64nvme
            assert sandbox.object_path(key).stat().st_size == 3_000_000

    @pytest.mark.parametrize(
        ("named", "start_of_url"),
        [
            ({"region": "eu-central-1"}, "https://scans.s3.eu-central-1.amazonaws.com/k/1.dcm?"),
            ({"s3_endpoint": "https://minio.example:9000"}, "https://minio.example:9000/scans/k/1.dcm?"),
        ],
    )
    def test_name_a_bucket_elsewhere(self, named: dict[str, str], start_of_url: str) -> None:
        """URLs for AWS go to the bucket's own region, those for MinIO to its endpoint."""
        keys = {"access_key_id": "AKID", "secret_access_key": SecretStr("shh")}
        settings = GatewaySettings(
            client_id="c",
            client_secret=SecretStr("s"),
            bucket="scans",
            **(keys | named),  # type: ignore[arg-type]
        )
        url = presigner(settings)("k/1.dcm")
        assert url.startswith(start_of_url)
        assert parse_qs(urlsplit(url).query)["X-Amz-SignedHeaders"] == ["content-type;host"]
        assert "checksum" not in url

    def test_that_are_wrong_are_named_and_not_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A start that fails says why, in one error; a value may be a secret and is not repeated."""
        monkeypatch.setenv("DICOM_INGEST_SANDBOX_TOKEN_LIFETIME_S", "soon")
        with pytest.raises(UsageError, match="TOKEN_LIFETIME_S") as error, Sandbox.start(tmp_path):
            pass
        assert "soon" not in str(error.value)
        assert "Traceback" not in str(error.value)

    def test_reach_a_shell_by_the_env_file(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """What `dicom-ingest upload` needs, in a file that its owner alone can read."""
        env_file = tmp_path / "it's here.env"
        env_file.write_text("of an earlier start")
        sandbox.write_env_file(env_file)
        assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
        shell = ["sh", "-c", f"set -a; . {shlex.quote(str(env_file))}; set +a; env"]
        exported = subprocess.run(
            shell, env={}, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert {line for line in exported if line.startswith(("DICOM_INGEST_", "AWS_"))} == {
            f"DICOM_INGEST_API_ENDPOINT={sandbox.api_url}",
            f"DICOM_INGEST_TOKEN_URL={sandbox.token_url}",
            f"DICOM_INGEST_CLIENT_ID={sandbox.client_id}",
            f"DICOM_INGEST_CLIENT_SECRET={sandbox.client_secret}",
            "DICOM_INGEST_BUCKET=s3://dicom-ingest",
            f"DICOM_INGEST_DICOMWEB_URL={sandbox.dicomweb.url}",
            f"DICOM_INGEST_DICOMWEB_SERVER={sandbox.dicomweb.kind}",
            f"DICOM_INGEST_DICOMWEB_USER={sandbox.dicomweb.user}",
            f"DICOM_INGEST_DICOMWEB_PASSWORD={sandbox.dicomweb.password}",
            *(f"{name}={value}" for name, value in sandbox.s3.items()),
        }
        assert set(sandbox.s3) == {
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ENDPOINT_URL_S3",
            "AWS_REGION",
        }

    def test_in_the_env_file_lead_to_the_bucket_and_to_the_registry(
        self, sandbox: Sandbox, client: httpx.Client, tmp_path: Path
    ) -> None:
        """By boto3 alone, whatever else the environment says of AWS, and by the client that `ingest` has."""
        url, key = presigned(sandbox, client)
        assert client.put(url, content=b"x", headers=DICOM).status_code == 200
        sandbox.write_env_file(tmp_path / "env")
        code = (
            "import boto3, os; bucket = os.environ['DICOM_INGEST_BUCKET'].removeprefix('s3://')\n"
            "rows = boto3.client('s3').list_objects_v2(Bucket=bucket)['Contents']\n"
            "print(*(row['Key'] for row in rows))"
        )
        script = (
            f"set -a; . {shlex.quote(str(tmp_path / 'env'))}; set +a; {sys.executable} -c {shlex.quote(code)}"
        )
        environment = os.environ | {
            "AWS_SESSION_TOKEN": "of another account",
            "AWS_DEFAULT_REGION": "nowhere",
        }
        listed = subprocess.run(
            ["sh", "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout
        assert key in listed.split()
        login = sandbox.dicomweb.user, sandbox.dicomweb.password
        assert client.get(f"{sandbox.dicomweb.url}/studies", auth=login).is_success

    def test_may_choose_which_dicomweb_server_is_started(
        self, tmp_path: Path, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also beside an Orthanc; the gateway asks it."""
        monkeypatch.setenv("DICOM_INGEST_SANDBOX_DICOMWEB_PROGRAM", "tiny-pacs")
        with Sandbox.start(tmp_path) as sandbox:
            assert (sandbox.dicomweb.name[:9], sandbox.dicomweb.kind) == ("tiny-pacs", "generic")
            bearer = {"Authorization": f"Bearer {token(sandbox, client)}"}
            assert client.get(f"{sandbox.api_url}/studies", headers=bearer).status_code == 204

    def test_may_name_another_dicomweb_server_and_another_bucket(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then none is started, and the env file says of AWS what they say."""
        named = {
            "DICOMWEB_URL": "http://127.0.0.1:9/pacs/",
            "DICOMWEB_SERVER": "dcm4chee",
            "BUCKET": "scans",
            "REGION": "eu-central-1",
        }
        for name, value in named.items():
            monkeypatch.setenv(f"DICOM_INGEST_SANDBOX_{name}", value)
        with Sandbox.start(tmp_path / "data") as sandbox:
            sandbox.write_env_file(tmp_path / "env")
        lines = (tmp_path / "env").read_text().splitlines()
        assert [line for line in lines if re.search("DICOMWEB|BUCKET|AWS", line)] == [
            "DICOM_INGEST_BUCKET=s3://scans",
            "DICOM_INGEST_DICOMWEB_URL=http://127.0.0.1:9/pacs",
            "DICOM_INGEST_DICOMWEB_SERVER=dcm4chee",
            "AWS_REGION=eu-central-1",
        ]
        assert not (tmp_path / "data" / "dicomweb.log").exists()


class TestProcess:
    @pytest.mark.parametrize(
        ("number", "exit_code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)]
    )
    def test_that_serves_stops_all_of_it(
        self, tmp_path: Path, client: httpx.Client, number: signal.Signals, exit_code: int
    ) -> None:
        """Gateway and object store end with it, however it ends; what it prints holds no secret."""
        code = "import sys, pathlib, deployments.sandbox.sandbox as s; s.serve(pathlib.Path(sys.argv[1]))"
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            printed = [process.stdout.readline() for _ in range(15)]
            settings = dict(
                line.split("=", 1) for line in (tmp_path / "data" / "sandbox.env").read_text().splitlines()
            )
            url = self._store_url(settings, client)
            process.send_signal(number)
        assert process.returncode == exit_code
        assert ends_soon(settings["DICOM_INGEST_API_ENDPOINT"])
        assert ends_soon(url)
        assert ends_soon(settings["DICOM_INGEST_DICOMWEB_URL"])
        assert settings["DICOM_INGEST_DICOMWEB_URL"] in "".join(printed)
        assert "dicom-ingest verify try" in printed[-1]
        secrets = {value for name, value in settings.items() if re.search("SECRET|PASSWORD", name)}
        assert len(secrets) == 3
        assert not [secret for secret in secrets if secret in "".join(printed)]
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700

    @staticmethod
    def _store_url(settings: dict[str, str], client: httpx.Client) -> str:
        api = settings["DICOM_INGEST_API_ENDPOINT"]
        auth = (settings["DICOM_INGEST_CLIENT_ID"], settings["DICOM_INGEST_CLIENT_SECRET"])
        granted = client.post(settings["DICOM_INGEST_TOKEN_URL"], data=GRANT, auth=auth).json()
        bearer = {"Authorization": f"Bearer {granted['access_token']}"}
        return str(client.get(f"{api}/upload/", headers=bearer).json()["url"])

    def test_that_lost_its_gateway_stops_the_object_store(self, tmp_path: Path, client: httpx.Client) -> None:
        """Killed, the gateway cannot stop its store: the sandbox says so, and does it."""
        with pytest.raises(StoppedError, match="ended by itself"), Sandbox.start(tmp_path) as sandbox:
            url, _ = presigned(sandbox, client)
            os.kill(sandbox.gateway_pid, signal.SIGKILL)
            sandbox.wait()
        assert ends_soon(url)

    def test_needs_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A production install has no far side, and the error says how to get one, in README's words."""
        readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
        assert "pip install '.[sandbox]'" in readme
        monkeypatch.setitem(sys.modules, "rclone_api", None)
        with pytest.raises(UsageError, match=r"pip install '\.\[sandbox\]'"), Sandbox.start(tmp_path):
            pass

    def test_leaves_a_port_that_is_taken_alone(self, tmp_path: Path) -> None:
        """The port is the caller's to choose, and an error says so."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(UsageError, match=f"Port {port}"), Sandbox.start(tmp_path, port):
                pass

    @pytest.mark.long
    def test_has_its_last_port_again(self, tmp_path: Path) -> None:
        """A campaign knows its platform by that. While another has it, or for a folder's first time, one that
        is free; and the one that somebody chose, which is the last one then."""
        ports: list[str] = []

        def start(chosen: int | None = None) -> None:
            with Sandbox.start(tmp_path / "it", chosen) as sandbox:
                ports.append(sandbox.api_url)

        start()
        start()
        assert ports[0] == ports[1]
        with socket.create_server(("127.0.0.1", urlsplit(ports[0]).port or 0)):
            start()
        assert ports[2] != ports[0]
        start(urlsplit(ports[0]).port)
        start()
        assert ports[3:] == [ports[0]] * 2

    @pytest.mark.parametrize("text", ["", "0", "65536", "-1", "eighty", "٣", "9" * 5000])
    def test_starts_whatever_is_in_the_file_of_its_last_port(self, tmp_path: Path, text: str) -> None:
        """Where it lies other people's hands may have been."""
        keep_port(tmp_path, 4711)
        assert last_port(tmp_path) == 4711
        (tmp_path / "gateway.port").write_text(text)
        assert last_port(tmp_path) is None

    def test_needs_a_directory_it_can_write(self, tmp_path: Path) -> None:
        """A file in its place is refused before anything starts."""
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="data directory"), Sandbox.start(tmp_path / "file"):
            pass

    def test_that_only_starts_it_stays_small(self) -> None:
        """`dicom-ingest --help` pays for neither boto3 nor FastAPI."""
        code = "import sys, deployments.sandbox.sandbox; print(*sys.modules)"
        printed = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        assert not {"boto3", "fastapi", "pydantic", "uvicorn"} & set(printed.split())
