"""The sandbox's DICOMweb server, whichever it is: what a pipeline needs of one; and nothing of it is left."""

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Thread

import httpx
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread

from deployments.sandbox import dicomweb_server
from deployments.sandbox.dicomweb_server import DicomwebEndpoint, installed_program, serve_dicomweb
from deployments.sandbox.phantom import phantom, phantom_study_uid
from deployments.sandbox.ports import DICOMWEB, keep_port
from tasks.core.errors import StoppedError, UsageError
from tasks.dicomweb_settings import DicomwebServer
from tasks.sandbox_settings import DicomwebProgram
from tests.processes import await_that, descendants

pytestmark = pytest.mark.processes
STUDY = phantom_study_uid("of a registry")
JSON = {"Accept": "application/dicom+json"}
SOP_INSTANCE_UID, SERIES_INSTANCE_UID = "00080018", "0020000E"
PROGRAMS = [
    pytest.param(
        DicomwebProgram.ORTHANC,
        marks=pytest.mark.skipif(
            installed_program() is not DicomwebProgram.ORTHANC,
            reason="no Orthanc: apt install orthanc orthanc-dicomweb",
        ),
    ),
    DicomwebProgram.TINY_PACS,
]


@cache
def instances() -> dict[str, bytes]:
    """By their UIDs."""
    return dict(phantom("of a registry", 40))


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> DicomwebProgram:
    return DicomwebProgram(request.param)


@pytest.fixture(scope="module")
def server(program: DicomwebProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DicomwebEndpoint]:
    """With the study in it, stored by four at once, while two ask what is there."""
    with serve_dicomweb(tmp_path_factory.mktemp("registry"), program) as endpoint:
        files = list(instances().values())
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(ask_repeatedly, endpoint) for _ in range(2)]
            answers = list(pool.map(lambda first: stow(endpoint, *files[first : first + 5]), range(0, 40, 5)))
            assert set().union(*(each.result() for each in asked)) <= {200, 204}
        assert {answer.status_code for answer in answers} == {200}
        yield endpoint


def stow(endpoint: DicomwebEndpoint, *files: bytes) -> httpx.Response:
    parts = (b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files)
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'} | JSON
    return ask(endpoint, "POST", "/studies", content=b"".join(parts) + b"--b--\r\n", headers=headers)


def ask(endpoint: DicomwebEndpoint, method: str, path: str, **request: object) -> httpx.Response:
    with httpx.Client(auth=(endpoint.user, endpoint.password), trust_env=False, timeout=60) as client:
        return client.request(method, f"{endpoint.url}{path}", **request)  # type: ignore[arg-type]


def ask_repeatedly(endpoint: DicomwebEndpoint) -> set[int]:
    """The statuses of answers, until half of the study is there."""
    statuses, found = set(), 0
    while found < len(instances()) // 2:
        answer = ask(endpoint, "GET", f"/studies/{STUDY}/instances", headers=JSON)
        statuses.add(answer.status_code)
        found = len(answer.json()) if answer.status_code == 200 else 0
    return statuses


def rows(endpoint: DicomwebEndpoint, path: str) -> list[dict[str, dict[str, list[str]]]]:
    answer = ask(endpoint, "GET", path, headers=JSON)
    found: list[dict[str, dict[str, list[str]]]] = answer.json() if answer.status_code == 200 else []
    return found


def uids(endpoint: DicomwebEndpoint, path: str) -> list[str]:
    return [row[SOP_INSTANCE_UID]["Value"][0] for row in rows(endpoint, path)]


def stored(endpoint: DicomwebEndpoint, uid: str) -> Dataset:
    """As WADO-RS gives it, in the transfer syntax that it has."""
    (row,) = rows(endpoint, f"/instances?SOPInstanceUID={uid}")
    path = f"/studies/{STUDY}/series/{row[SERIES_INSTANCE_UID]['Value'][0]}/instances/{uid}"
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    answer = ask(endpoint, "GET", path, headers=accept)
    assert answer.status_code == 200
    file, end, _ = answer.content.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")
    assert end
    return dcmread(io.BytesIO(file))


class TestServer:
    def test_is_named_and_has_the_ways_of_its_kind(
        self, server: DicomwebEndpoint, program: DicomwebProgram
    ) -> None:
        """Who reads what the sandbox prints knows which one ran; a repr shows no password."""
        is_orthanc = program is DicomwebProgram.ORTHANC
        assert server.name.startswith("Orthanc" if is_orthanc else "tiny-pacs")
        assert server.kind is (DicomwebServer.ORTHANC if is_orthanc else DicomwebServer.GENERIC)
        assert server.password not in repr(server)

    def test_finds_each_instance_once_by_pages(self, server: DicomwebEndpoint) -> None:
        found = [uids(server, f"/studies/{STUDY}/instances?limit=7&offset={at}") for at in range(0, 49, 7)]
        assert sorted(uid for page in found for uid in page) == sorted(instances())
        assert [len(page) for page in found] == [7, 7, 7, 7, 7, 5, 0]

    def test_finds_an_instance_by_its_own_uid(self, server: DicomwebEndpoint) -> None:
        """And none that is not there."""
        uid = next(iter(instances()))
        assert uids(server, f"/instances?SOPInstanceUID={uid}") == [uid]
        assert uids(server, f"/studies/{STUDY}/instances?SOPInstanceUID={uid}") == [uid]
        assert uids(server, f"/instances?SOPInstanceUID={uid}.1") == []

    def test_gives_back_what_it_got(self, server: DicomwebEndpoint) -> None:
        """Private tags and pixels, too: all but group 2."""
        for uid in list(instances())[:3]:
            assert stored(server, uid) == dcmread(io.BytesIO(instances()[uid]))

    def test_shows_metadata(self, server: DicomwebEndpoint) -> None:
        assert sorted(uids(server, f"/studies/{STUDY}/metadata")) == sorted(instances())

    def test_keeps_what_it_has_of_a_uid_that_comes_again(self, server: DicomwebEndpoint) -> None:
        """With other bytes, or with the same."""
        uid, file = next(iter(instances().items()))
        stow(server, file.replace(b"kept byte for byte", b"another altogether"))
        stow(server, file)
        assert stored(server, uid) == dcmread(io.BytesIO(file))

    def test_is_used_by_another_client(self, server: DicomwebEndpoint) -> None:
        """dicomweb-client's search, retrieve and metadata."""
        session = requests.Session()
        session.auth, session.trust_env = (server.user, server.password), False
        client = DICOMwebClient(server.url, session=session)
        assert len(client.search_for_instances(STUDY)) == len(instances())
        assert len(client.retrieve_study_metadata(STUDY)) == len(instances())
        assert len(client.retrieve_study(STUDY)) == len(instances())

    @pytest.mark.parametrize("login", [None, ("sandbox", "wrong"), ("sandbox", "")])
    def test_asks_for_its_password(self, server: DicomwebEndpoint, login: tuple[str, str] | None) -> None:
        assert httpx.get(f"{server.url}/studies", auth=login, trust_env=False).status_code == 401

    def test_serves_this_machine_alone(self, server: DicomwebEndpoint) -> None:
        """Asked by another of our own addresses it refuses, or is not there."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # sends nothing
            except OSError:
                pytest.skip("this machine has no other address")
            address = probe.getsockname()[0]
        try:
            answer = httpx.get(
                server.url.replace("127.0.0.1", address), auth=(server.user, server.password), trust_env=False
            )
        except httpx.ConnectError:
            return
        assert answer.status_code in (401, 403)


class TestLife:
    def test_ends_with_a_parent_that_is_killed(self, tmp_path: Path, program: DicomwebProgram) -> None:
        code = (
            "import pathlib, sys, time; from deployments.sandbox.dicomweb_server import *\n"
            "with serve_dicomweb(pathlib.Path(sys.argv[1]), DicomwebProgram(sys.argv[2])):\n"
            "    print('up', flush=True); time.sleep(600)"
        )
        command = [sys.executable, "-c", code, str(tmp_path), program.value]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout
            assert parent.stdout.readline() == "up\n"
            children = descendants(parent.pid)
            parent.kill()
        assert children
        await_that(lambda: not any(is_alive(child) for child in children))

    def test_killed_while_it_stores_has_whole_instances_alone(
        self, tmp_path: Path, program: DicomwebProgram
    ) -> None:
        """At the address that it had; what it lacks can be stored again, and then all are there."""
        files = list(instances().values())[:10]
        with serve_dicomweb(tmp_path, program) as first:
            Thread(target=store_quietly, args=(first, files), daemon=True).start()
            await_that(lambda: len(uids(first, f"/studies/{STUDY}/instances")) >= 2)
            for child in descendants(os.getpid()):
                with suppress(OSError):  # it has gone meanwhile
                    if str(tmp_path).encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                        os.kill(child, signal.SIGKILL)
        with serve_dicomweb(tmp_path, program) as second:
            assert second.url == first.url
            assert len(uids(second, f"/studies/{STUDY}/instances")) >= 2
            for file in files:
                stow(second, file)
            for uid in list(instances())[:10]:
                assert stored(second, uid) == dcmread(io.BytesIO(instances()[uid]))

    def test_has_another_address_when_its_own_is_taken(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            keep_port(tmp_path, port, DICOMWEB)
            with serve_dicomweb(tmp_path, DicomwebProgram.TINY_PACS) as endpoint:
                assert httpx.URL(endpoint.url).port != port

    def test_is_the_only_one_of_its_data_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two would have one database; one that has just lost its parent is waited for."""
        monkeypatch.setattr(dicomweb_server, "_OTHERS_END_S", 0.1)
        with (
            serve_dicomweb(tmp_path, DicomwebProgram.TINY_PACS),
            pytest.raises(UsageError, match="Another sandbox is running"),
            serve_dicomweb(tmp_path, DicomwebProgram.TINY_PACS),
        ):
            pass

    def test_that_cannot_start_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the end of its log."""
        monkeypatch.setattr(dicomweb_server, "ORTHANC", Path("/bin/false"))
        with (
            pytest.raises(StoppedError, match="DICOMweb server of the sandbox did not start"),
            serve_dicomweb(tmp_path, DicomwebProgram.ORTHANC),
        ):
            pass


def store_quietly(endpoint: DicomwebEndpoint, files: list[bytes]) -> None:
    for file in files:
        try:
            stow(endpoint, file)
        except httpx.TransportError:
            return


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_program_is_orthanc_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its plugin: alone it speaks no DICOMweb."""
    there, not_there = tmp_path, tmp_path / "none"
    for orthanc, plugin, program in [
        (there, there, DicomwebProgram.ORTHANC),
        (there, not_there, DicomwebProgram.TINY_PACS),
        (not_there, there, DicomwebProgram.TINY_PACS),
    ]:
        monkeypatch.setattr(dicomweb_server, "ORTHANC", orthanc)
        monkeypatch.setattr(dicomweb_server, "PLUGIN", plugin)
        assert installed_program() is program
