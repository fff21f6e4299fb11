"""Other people's DICOMweb clients against the gateway: PyPI's, npm's, curl, and Orthanc's STOW-RS sender."""

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from deployments.sandbox.dicomweb_server import DicomwebEndpoint, installed_program, serve_dicomweb
from deployments.sandbox.gateway.gateway_audit import FILE
from deployments.sandbox.phantom import phantom, phantom_study_uid
from deployments.sandbox.sandbox import Sandbox
from tasks.sandbox_settings import DicomwebProgram
from tests.processes import await_that, descendants

pytestmark = pytest.mark.processes
NAME = "sent by other clients"
STUDY = phantom_study_uid(NAME)
# As of when this was written; XMLHttpRequest is a browser's, and xhr2 has it for Node.
NPM_PACKAGES = ("dicomweb-client@0.11.2", "xhr2@0.2.1")
RELATED = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """Three of half a megabyte: PyPI's client sends what is more than one in chunks."""
    return [file for _, file in phantom(NAME, 3)]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, files: list[bytes]) -> Iterator[Sandbox]:
    """With the study in its registry, as the pipeline would have put it there."""
    with Sandbox.start(tmp_path_factory.mktemp("gateway")) as sandbox:
        endpoint = sandbox.dicomweb
        url, login = f"{endpoint.url}/studies", (endpoint.user, endpoint.password)
        answer = httpx.post(url, content=related(*files), headers=RELATED, auth=login, trust_env=False)
        assert answer.status_code == 200
        yield sandbox


@pytest.fixture(scope="module")
def token(sandbox: Sandbox) -> str:
    login, form = (sandbox.client_id, sandbox.client_secret), {"grant_type": "client_credentials"}
    return str(httpx.post(sandbox.token_url, data=form, auth=login, trust_env=False).json()["access_token"])


@pytest.fixture
def arrived(sandbox: Sandbox) -> Iterator[list[bytes]]:
    """What has come into the bucket since, once it is looked at."""
    assert sandbox.bucket_dir
    before = {*sandbox.bucket_dir.rglob("*.dcm")}

    class Arrived(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            assert sandbox.bucket_dir
            return iter([path.read_bytes() for path in {*sandbox.bucket_dir.rglob("*.dcm")} - before])

    yield Arrived()


def related(*files: bytes) -> bytes:
    parts = (b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files)
    return b"".join(parts) + b"--b--\r\n"


class TestPypi:
    @pytest.fixture
    def client(self, sandbox: Sandbox, token: str) -> DICOMwebClient:
        session = requests.Session()
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {token}"
        return DICOMwebClient(sandbox.api_url, session=session)

    def test_stores(self, client: DICOMwebClient, files: list[bytes], arrived: list[bytes]) -> None:
        """It encodes anew: the same data sets, if not the same bytes."""
        datasets = [dcmread(io.BytesIO(file)) for file in files]
        answer = client.store_instances(datasets, STUDY)
        assert len(answer.ReferencedSOPSequence) == len(files)
        by_uid = {dataset.SOPInstanceUID: dataset for dataset in datasets}
        there = [dcmread(io.BytesIO(file)) for file in arrived]
        assert len(there) == len(files)
        assert all(dataset == by_uid[dataset.SOPInstanceUID] for dataset in there)

    def test_is_refused_another_study(self, client: DICOMwebClient, files: list[bytes]) -> None:
        with pytest.raises(requests.HTTPError, match="409"):
            client.store_instances([dcmread(io.BytesIO(files[0]))], f"{STUDY}.1")

    def test_searches_and_retrieves(self, client: DICOMwebClient, files: list[bytes]) -> None:
        """By pages, too; metadata lead to the gateway."""
        assert len(client.search_for_studies(search_filters={"StudyInstanceUID": STUDY})) == 1
        pages = [client.search_for_instances(STUDY, limit=2, offset=offset) for offset in (0, 2)]
        assert [len(page) for page in pages] == [2, 1]
        assert {dataset.SOPInstanceUID for dataset in client.retrieve_study(STUDY)} == {
            dcmread(io.BytesIO(file)).SOPInstanceUID for file in files
        }
        metadata = client.retrieve_study_metadata(STUDY)
        assert len(metadata) == len(files)
        bulk = [row["7FE00010"]["BulkDataURI"] for row in metadata if "7FE00010" in row]
        assert [uri for uri in bulk if not uri.startswith(f"{client.base_url}/studies/")] == []
        dataset = dcmread(io.BytesIO(files[0]))
        uids = STUDY, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
        media_types = (("application/dicom", "*"),)
        assert client.retrieve_instance(*uids, media_types=media_types) == dataset


@pytest.fixture(scope="module")
def packages(request: pytest.FixtureRequest) -> Path:
    """Where they are installed, once for all runs of the tests."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("no npm: install Node.js")
    directory = Path(request.config.cache.mkdir("npm"))  # type: ignore[union-attr]
    if not all((directory / "node_modules" / name.split("@")[0]).is_dir() for name in NPM_PACKAGES):
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(directory)]
        installed = subprocess.run(["npm", "install", *options, *NPM_PACKAGES], capture_output=True)
        if installed.returncode:
            pytest.skip("npm reaches no registry that has dicomweb-client")
    return directory


class TestNpm:
    def test_stores_searches_and_retrieves(
        self,
        packages: Path,
        sandbox: Sandbox,
        token: str,
        files: list[bytes],
        arrived: list[bytes],
        tmp_path: Path,
    ) -> None:
        for number, file in enumerate(files):
            (tmp_path / f"{number}.dcm").write_bytes(file)
        script = """
            global.XMLHttpRequest = require('xhr2');
            const { api } = require('dicomweb-client');
            const { readFileSync, readdirSync } = require('fs');
            const [url, study, directory] = process.argv.slice(1);
            const headers = { Authorization: 'Bearer ' + process.env.TOKEN };
            const read = (name) => new Uint8Array(readFileSync(directory + '/' + name)).buffer;
            (async () => {
                const client = new api.DICOMwebClient({ url, headers });
                const datasets = readdirSync(directory).map(read);
                const stored = await client.storeInstances({ datasets });
                const found = await client.searchForInstances({ studyInstanceUID: study });
                const metadata = await client.retrieveStudyMetadata({ studyInstanceUID: study });
                const files = await client.retrieveStudy({ studyInstanceUID: study });
                const sizes = files.map((file) => file.byteLength);
                console.log(JSON.stringify([stored, found.length, metadata.length, sizes]));
            })().catch((error) => { console.error(error.message, error.status); process.exit(1); });
        """
        done = subprocess.run(
            ["node", "-e", script, sandbox.api_url, STUDY, str(tmp_path)],
            env=os.environ | {"TOKEN": token, "NODE_PATH": str(packages / "node_modules")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        stored, found, metadata, sizes = json.loads(done.stdout)
        if isinstance(stored, str):
            stored = json.loads(stored)
        assert len(stored["00081199"]["Value"]) == found == metadata == len(sizes) == len(files)
        assert sorted(arrived) == sorted(files)


class TestCurl:
    @pytest.fixture(autouse=True)
    def curl(self) -> None:
        if not shutil.which("curl"):
            pytest.skip("no curl")

    def post(self, sandbox: Sandbox, token: str, body: Path, *options: str) -> tuple[int, str]:
        """Status, and the answer; `options` are curl's."""
        command = ["curl", "--silent", "--noproxy", "*", "--write-out", "\n%{http_code}", *options]
        command += ["--header", f"Authorization: Bearer {token}", "--data-binary", f"@{body}"]
        done = subprocess.run([*command, f"{sandbox.api_url}/studies"], capture_output=True, text=True)
        answer, _, status = done.stdout.rpartition("\n")
        return int(status), answer

    @pytest.mark.parametrize("more", [[], ["Transfer-Encoding: chunked"], ["Expect: 100-continue"]])
    def test_stores_what_was_put_together_by_hand(
        self,
        sandbox: Sandbox,
        token: str,
        files: list[bytes],
        arrived: list[bytes],
        tmp_path: Path,
        more: list[str],
    ) -> None:
        """Byte for byte, with a length or in chunks."""
        (tmp_path / "body").write_bytes(related(*files))
        headers = f"Content-Type: {RELATED['Content-Type']}", "Accept: application/dicom+xml", *more
        options = [word for header in headers for word in ("--header", header)]
        status, answer = self.post(sandbox, token, tmp_path / "body", *options)
        assert status == 200
        assert answer.count('keyword="ReferencedSOPInstanceUID"') == len(files)
        assert sorted(arrived) == sorted(files)

    def test_stores_one_file_as_it_is(
        self, sandbox: Sandbox, token: str, files: list[bytes], arrived: list[bytes], tmp_path: Path
    ) -> None:
        (tmp_path / "1.dcm").write_bytes(files[0])
        kind = "--header", "Content-Type: application/dicom"
        assert self.post(sandbox, token, tmp_path / "1.dcm", *kind)[0] == 200
        assert [*arrived] == [files[0]]

    def test_is_told_what_is_missing(
        self, sandbox: Sandbox, token: str, files: list[bytes], arrived: list[bytes], tmp_path: Path
    ) -> None:
        """The end: 400; a token that is known: 401; a type: 415. Of a part that is cut nothing is stored."""
        (tmp_path / "body").write_bytes(related(*files[:2])[:-1000])
        kind = "--header", f"Content-Type: {RELATED['Content-Type']}"
        assert self.post(sandbox, token, tmp_path / "body", *kind)[0] == 400
        assert [*arrived] == [files[0]]
        assert self.post(sandbox, "made-up", tmp_path / "body", *kind)[0] == 401
        assert self.post(sandbox, token, tmp_path / "body")[0] == 415
        assert [*arrived] == [files[0]]


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DicomwebEndpoint]:
    if installed_program() is not DicomwebProgram.ORTHANC:
        pytest.skip("no Orthanc: apt install orthanc orthanc-dicomweb")
    with serve_dicomweb(tmp_path_factory.mktemp("sender"), DicomwebProgram.ORTHANC) as sender:
        yield sender


class TestOrthanc:
    def test_sends_a_study(
        self, sender: DicomwebEndpoint, sandbox: Sandbox, token: str, files: list[bytes], arrived: list[bytes]
    ) -> None:
        """By its plugin's /servers/{name}/stow."""
        with httpx.Client(auth=(sender.user, sender.password), trust_env=False, timeout=60) as client:
            api = sender.url.removesuffix("/dicom-web")
            for file in files:
                client.post(f"{api}/instances", content=file).raise_for_status()
            server = {"Url": f"{sandbox.api_url}/", "HttpHeaders": {"Authorization": f"Bearer {token}"}}
            client.put(f"{sender.url}/servers/gateway", json=server).raise_for_status()
            order = {"Resources": client.get(f"{api}/studies").json(), "Synchronous": True}
            sent = client.post(f"{sender.url}/servers/gateway/stow", json=order)
        assert sent.status_code == 200, sent.text
        assert sorted(arrived) == sorted(files)


def kill_registry(data_dir: Path) -> None:
    """Orthanc, or the process that serves in its place."""
    for child in descendants(os.getpid()):
        with suppress(OSError):  # it has gone meanwhile
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if str(data_dir).encode() in command and not re.search(b"tied_process|rclone", command):
                os.kill(child, signal.SIGKILL)


class TestConnection:
    def test_that_breaks_leaves_nothing_of_the_part_under_way(
        self, sandbox: Sandbox, token: str, files: list[bytes], arrived: list[bytes]
    ) -> None:
        """What was whole before is stored: a client that sends it all again has it under another key, too."""
        body, address = related(*files[:2]), urlsplit(sandbox.api_url)
        connection = http.client.HTTPConnection(address.netloc, timeout=30)
        connection.putrequest("POST", "/studies")
        for name, value in (RELATED | {"Authorization": f"Bearer {token}"}).items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:-1000])
        await_that(lambda: [*arrived])
        assert connection.sock
        connection.sock.shutdown(socket.SHUT_WR)
        connection.close()
        status = httpx.get(f"{sandbox.api_url}/studies", trust_env=False).status_code  # it goes on
        assert (status, [*arrived]) == (401, [files[0]])

    @pytest.mark.parametrize("path", ["/studies/../../instances", "/studies/%2e%2e/%2e%2e/system"])
    def test_asks_for_nothing_beside_the_dicomweb_service(
        self, sandbox: Sandbox, token: str, path: str
    ) -> None:
        """As it stands, whatever a client's library would make of it."""
        connection = http.client.HTTPConnection(urlsplit(sandbox.api_url).netloc, timeout=30)
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        assert connection.getresponse().status == 404
        connection.close()

    def test_to_a_registry_that_is_killed_is_cut_off(self, tmp_path: Path, files: list[bytes]) -> None:
        """A client sees that the answer is not whole; then 503. The gateway logs a line, no traceback."""
        with Sandbox.start(tmp_path) as sandbox:
            login = sandbox.dicomweb.user, sandbox.dicomweb.password
            studies = f"{sandbox.dicomweb.url}/studies"
            many = related(*(file for _, file in phantom(NAME, 60)))
            httpx.post(studies, content=many, headers=RELATED, auth=login, trust_env=False, timeout=60)
            form, client = {"grant_type": "client_credentials"}, (sandbox.client_id, sandbox.client_secret)
            granted = httpx.post(sandbox.token_url, data=form, auth=client, trust_env=False).json()
            bearer = {"Authorization": f"Bearer {granted['access_token']}"}
            url = f"{sandbox.api_url}/studies/{STUDY}"
            with (
                pytest.raises(httpx.RemoteProtocolError),
                httpx.stream("GET", url, headers=bearer, trust_env=False, timeout=60) as answer,
            ):
                for _ in answer.iter_bytes(1 << 20):
                    kill_registry(tmp_path)
            again = httpx.get(url, headers=bearer, trust_env=False, timeout=60)
            assert (again.status_code, again.headers["retry-after"]) == (503, "5")
            log = (tmp_path / "gateway.log").read_text()
        assert log.count("\n") <= 2
        assert STUDY not in log

    def test_leaves_no_uid_no_path_and_no_token_in_the_logs(
        self, sandbox: Sandbox, token: str, files: list[bytes]
    ) -> None:
        """Nor in the audit lines; and not a file of a part that came."""
        assert sandbox.bucket_dir
        data_dir = sandbox.bucket_dir.parents[1]
        headers = RELATED | {"Authorization": f"Bearer {token}"}
        url = f"{sandbox.api_url}/studies"
        assert httpx.post(url, content=related(*files), headers=headers, trust_env=False).is_success
        connection = http.client.HTTPConnection(urlsplit(sandbox.api_url).netloc, timeout=30)
        connection.request("GET", f"/studies/{STUDY}/nothing?of={token}", headers={"Authorization": token})
        connection.getresponse().read()
        connection.close()
        texts = [(data_dir / name).read_text() for name in ("gateway.log", FILE)]
        assert '"store"' in texts[1]
        uids = [STUDY, dcmread(io.BytesIO(files[0])).SOPInstanceUID]
        assert not [text for text in texts for secret in (token, *uids) if secret in text]
        assert not re.search(r"/studies|/upload/|Phantom", "".join(texts))
        assert {path.name for path in data_dir.iterdir() if path.is_file()} <= {
            "dicomweb.lock",
            "dicomweb.log",
            "dicomweb.port",
            "gateway.log",
            "gateway.port",
            "storage.log",
            FILE,
        }
