"""STOW-RS at the gateway: what is stored, what is answered, and what is left of a body that is cut off."""

import io
import json
import logging
import re
import stat
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MediaStorageDirectoryStorage, MRImageStorage

from deployments.sandbox.gateway.app import create_app
from deployments.sandbox.gateway.gateway_audit import FILE, GatewayAudit
from deployments.sandbox.gateway.media_types import preferred
from deployments.sandbox.gateway.object_writer import ObjectWriter, StoreUnavailableError
from deployments.sandbox.gateway.request_body import related_parts
from deployments.sandbox.gateway.request_limits import AtOnce, Rate
from tasks.core.errors import UsageError
from tasks.sandbox_settings import GatewaySettings

DICOM, JSON, XML = "application/dicom", "application/dicom+json", "application/dicom+xml"
RELATED = f'multipart/related; type="{DICOM}"; boundary=b'
STUDY, SERIES = "1.2.3", "1.2.3.4"
REFERENCED, FAILED, OTHER = "00081199", "00081198", "0008119A"
UID, REASON, WARNING, URL = "00081155", "00081197", "00081196", "00081190"
NATIVE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"


def instance(uid: str, **changed: Any) -> bytes:
    """A small one; what is changed to None is missing."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientName = STUDY, SERIES, "Doe^Jane"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = changed.pop("MediaStorageSOPClassUID", CTImageStorage)
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in changed.items():
        setattr(dataset, name, value)
    for name in [name for name, value in changed.items() if value is None]:
        delattr(dataset, name)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def related(*files: bytes, kind: str = DICOM) -> bytes:
    parts = (b"--b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (kind.encode(), file) for file in files)
    return b"".join(parts) + b"--b--\r\n"


class Bucket(ObjectWriter):
    """In memory; it fails when it is away."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.takes = 1_000_000

    def put(self, key: str, file: BinaryIO, size_bytes: int) -> None:
        if len(self.objects) == self.takes:
            raise StoreUnavailableError
        file.seek(0)
        self.objects[key] = file.read()
        assert len(self.objects[key]) == size_bytes


class Gateway:
    """In this process."""

    def __init__(self, data_dir: Path, **changed: Any) -> None:
        self.bucket = Bucket()
        self.data_dir = data_dir
        given = {"client_id": "c", "client_secret": SecretStr("s"), "bucket": "scans", "data_dir": data_dir}
        given |= {"access_key_id": "AKID", "secret_access_key": SecretStr("shh")}
        dicomweb = changed.pop("dicomweb", None)
        app = create_app(GatewaySettings(**(given | changed)), self.bucket, dicomweb)
        self.transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def ask(self, method: str, path: str, scope: str = "", **request: Any) -> httpx.Response:
        async def sent() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url="http://gateway") as client:
                form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
                granted = await client.post("/oauth2/token", data=form, auth=("c", "s"))
                client.headers["Authorization"] = f"Bearer {granted.json()['access_token']}"
                return await client.request(method, path, **request)

        return anyio.run(sent)

    def stow(self, body: Any, path: str = "/studies", **headers: str) -> httpx.Response:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, content=body, headers={"Content-Type": RELATED} | headers)

    @property
    def stored(self) -> list[bytes]:
        return list(self.bucket.objects.values())

    @property
    def audit(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.data_dir / FILE).read_text().splitlines()]


@pytest.fixture(scope="module")
def one_gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    return Gateway(tmp_path_factory.mktemp("gateway"))


@pytest.fixture
def gateway(one_gateway: Gateway) -> Gateway:
    """With nothing stored: to make one takes a while."""
    one_gateway.bucket.objects.clear()
    one_gateway.bucket.takes = 1_000_000
    return one_gateway


def values(answer: httpx.Response, sequence: str, tag: str) -> list[Any]:
    """Of each item of a sequence; None where it lacks the element."""
    assert answer.headers["content-type"] == JSON
    items = answer.json().get(sequence, {"Value": []})["Value"]
    return [item[tag]["Value"][0] if tag in item else None for item in items]


class TestStored:
    def test_is_byte_for_byte_what_came(self, gateway: Gateway) -> None:
        """Each under a key of the day, with a random part, which says nothing of the patient."""
        files = [instance("1.1"), instance("1.2")]
        answer = gateway.stow(related(*files))
        assert answer.status_code == 200
        assert gateway.stored == files
        assert values(answer, REFERENCED, UID) == ["1.1", "1.2"]
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        assert all(
            re.fullmatch(rf"uploads/{day}/[0-9a-f-]{{36}}\.dcm", key) for key in gateway.bucket.objects
        )

    def test_is_named_with_the_address_at_which_it_will_be(self, gateway: Gateway) -> None:
        """Of the study, where all are of one, and of each instance."""
        answer = gateway.stow(related(instance("1.1")))
        study = f"http://gateway/studies/{STUDY}"
        assert answer.json()[URL]["Value"] == [study]
        assert values(answer, REFERENCED, URL) == [f"{study}/series/{SERIES}/instances/1.1"]
        answer = gateway.stow(related(instance("1.1"), instance("1.2", StudyInstanceUID="1.9")))
        assert URL not in answer.json()

    def test_is_named_with_the_public_address_where_one_is_set(self, tmp_path: Path) -> None:
        """A client may name another one, or a proxy."""
        gateway = Gateway(tmp_path, public_url="https://api.example/v1/")
        answer = gateway.stow(related(instance("1.1")))
        assert answer.json()[URL]["Value"] == [f"https://api.example/v1/studies/{STUDY}"]

    def test_may_be_a_single_one_without_multipart(self, gateway: Gateway) -> None:
        answer = gateway.stow(instance("1.1"), Content_Type=DICOM)
        assert (answer.status_code, gateway.stored) == (200, [instance("1.1")])

    @pytest.mark.parametrize(
        "content_type",
        [
            "multipart/related; type=application/dicom; boundary=b",
            'Multipart/Related;Boundary="b";TYPE="Application/DICOM"',
            'multipart/related; boundary=b; type="application/dicom"; start="<1@x>"; charset=utf-8',
        ],
    )
    def test_comes_with_a_header_in_any_spelling(self, gateway: Gateway, content_type: str) -> None:
        """The type with or without quotes."""
        assert gateway.stow(related(instance("1.1")), Content_Type=content_type).status_code == 200
        assert gateway.stored == [instance("1.1")]

    def test_may_be_large(self, gateway: Gateway) -> None:
        """And have the boundary's beginning in it, wherever chunks end."""
        large = instance("1.1", EncapsulatedDocument=b"\r\n--" * 1_000_000)

        async def chunks() -> AsyncIterator[bytes]:
            body = related(large, instance("1.2"))
            for start in range(0, len(body), 65_521):
                yield body[start : start + 65_521]

        assert gateway.stow(chunks()).status_code == 200
        assert gateway.stored == [large, instance("1.2")]

    def test_has_a_warning_when_its_file_names_another_sop_class(self, gateway: Gateway) -> None:
        """202, though all are stored: PS3.18 table 10.5.3-1."""
        answer = gateway.stow(
            related(instance("1.1").replace(CTImageStorage.encode(), MRImageStorage.encode(), 1))
        )
        assert answer.status_code == 202
        assert values(answer, REFERENCED, WARNING) == [0xB007]
        assert len(gateway.stored) == 1

    def test_is_stored_once_when_it_comes_twice_in_a_request(self, gateway: Gateway) -> None:
        """With other bytes the second one fails: it would be anybody's guess which one is meant."""
        answer = gateway.stow(related(instance("1.1"), instance("1.1"), instance("1.1", PatientName="Roe")))
        assert answer.status_code == 202
        assert values(answer, REFERENCED, UID) == ["1.1", "1.1"]
        assert values(answer, FAILED, REASON) == [0x0111]
        assert gateway.stored == [instance("1.1")]

    def test_uids_with_leading_zeros_pass(self, gateway: Gateway) -> None:
        uid = b"1.02"
        assert gateway.stow(related(instance("1.12").replace(b"1.12", uid))).status_code == 200


class TestRefused:
    @pytest.mark.parametrize(
        ("part", "reason"),
        [
            (instance("1.1", StudyInstanceUID="1.9"), 0xA901),
            (instance("1.1", SeriesInstanceUID=None), 0xA900),
            (instance("1.1", SOPClassUID=None), 0xA900),
            (instance("1.1", StudyInstanceUID=None), 0xA900),
            (instance("1.1", EncapsulatedDocument=b"12" * 500)[:-300], 0xC000),
            (instance("1.1")[132:], 0xC000),
        ],
        ids=["another study", "no series", "no class", "no study", "cut off", "no preamble"],
    )
    def test_is_an_instance_with_its_reason(self, gateway: Gateway, part: bytes, reason: int) -> None:
        """Alone: 409. Beside others, which are stored: 202. That studies differ is a conflict by 10.5.3.1."""
        path = f"/studies/{STUDY}"
        answer = gateway.stow(related(part), path)
        assert (answer.status_code, gateway.stored) == (409, [])
        assert (values(answer, FAILED, UID), values(answer, FAILED, REASON)) == (["1.1"], [reason])
        answer = gateway.stow(related(part, instance("1.2")), path)
        assert (answer.status_code, gateway.stored) == (202, [instance("1.2")])
        assert values(answer, FAILED, REASON) == [reason]
        assert values(answer, REFERENCED, UID) == ["1.2"]

    @pytest.mark.parametrize("part", [b"text", b"", b"\0" * 1000, instance("1.1", SOPInstanceUID=None)])
    def test_is_what_has_no_uid_among_the_other_failures(self, gateway: Gateway, part: bytes) -> None:
        answer = gateway.stow(related(part, instance("1.2")))
        assert (answer.status_code, gateway.stored) == (202, [instance("1.2")])
        assert values(answer, OTHER, REASON) == [0xC000]
        assert FAILED not in answer.json()

    def test_is_the_index_of_a_disc(self, gateway: Gateway) -> None:
        index = instance("1.1", SOPClassUID=None, MediaStorageSOPClassUID=MediaStorageDirectoryStorage)
        answer = gateway.stow(related(index))
        assert values(answer, OTHER, REASON) == [0x0122]

    @pytest.mark.parametrize(
        "content_type",
        [
            "application/json",
            "multipart/form-data; boundary=b",
            f'multipart/related; type="{JSON}"; boundary=b',
            f'multipart/related; type="{XML}"; boundary=b',
            "",
        ],
    )
    def test_is_a_body_of_another_type(self, gateway: Gateway, content_type: str) -> None:
        """Metadata with bulk data among them: 415."""
        answer = gateway.stow(related(instance("1.1")), Content_Type=content_type)
        assert (answer.status_code, gateway.stored) == (415, [])

    def test_is_a_part_of_another_type(self, gateway: Gateway) -> None:
        """Where the request does not say what its parts are, they do."""
        plain = "multipart/related; boundary=b"
        answer = gateway.stow(related(b"[{}]", kind=JSON), Content_Type=plain)
        assert (answer.status_code, gateway.stored) == (415, [])
        assert gateway.stow(related(instance("1.1")), Content_Type=plain).status_code == 200

    @pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
    def test_is_a_body_in_a_content_coding(self, gateway: Gateway, coding: str) -> None:
        """What would be stored would not be what was sent."""
        answer = gateway.stow(related(instance("1.1")), Content_Encoding=coding)
        assert (answer.status_code, gateway.stored) == (415, [])
        assert gateway.stow(related(instance("1.1")), Content_Encoding="Identity").status_code == 200

    def test_is_an_answer_of_another_type(self, gateway: Gateway) -> None:
        """Before the body is read."""
        answer = gateway.stow(related(instance("1.1")), Accept="text/html")
        assert (answer.status_code, gateway.stored) == (406, [])


class TestCutOff:
    def test_body_leaves_nothing_of_the_part_that_is_cut(self, gateway: Gateway) -> None:
        """At every byte: 400, and what was whole before is stored, and named in the answer."""
        first, second = instance("1.1"), instance("1.2")
        body = related(first, second).removesuffix(b"\r\n")
        end_of_first = body.index(b"\r\n--b\r\n") + len(b"\r\n--b\r\n")
        for length in range(len(body)):
            gateway.bucket.objects.clear()
            answer = gateway.stow(body[:length])
            whole = [first] if length >= end_of_first else []
            assert (answer.status_code, gateway.stored) == (400, whole), length
            assert values(answer, REFERENCED, UID) == ["1.1"][: len(whole)]
            assert FAILED not in answer.json()
        assert gateway.stow(body).status_code == 200

    @pytest.mark.parametrize("body", [b"", b"--b--\r\n", b"nothing of the kind", b"--b\r\n\r\n\r\n--c--"])
    def test_or_empty_body_is_no_request(self, gateway: Gateway, body: bytes) -> None:
        assert gateway.stow(body).status_code == 400
        assert gateway.stow(b"", Content_Type=DICOM).status_code == 400
        assert gateway.stow(body, Content_Type=f'multipart/related; type="{DICOM}"').status_code == 400

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(max_size=60), min_size=1, max_size=5), st.integers(1, 40))
    def test_or_not_parts_are_the_same_in_chunks_of_any_size(self, files: list[bytes], size: int) -> None:
        """Whatever is in them, but the boundary."""
        body = related(*[file.replace(b"--b", b"--c") for file in files])

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), size):
                yield body[start : start + size]

        async def parts() -> list[bytes]:
            found = []
            async for part in related_parts(chunks(), "b", 5, None):
                with part.file:
                    part.file.seek(0)
                    found.append(part.file.read())
            return found

        assert anyio.run(parts) == [file.replace(b"--b", b"--c") for file in files]


class TestLimits:
    def test_of_a_body(self, tmp_path: Path) -> None:
        """By its Content-Length nothing is read; without one, what was whole before is stored."""
        first, second = instance("1.1"), instance("1.2")
        gateway = Gateway(tmp_path, stow_max_bytes=len(related(first)) + 100)
        assert gateway.stow(related(first), Content_Length="1000000").status_code == 413
        assert gateway.stored == []

        async def chunks() -> AsyncIterator[bytes]:
            for byte in related(first, second):
                yield bytes([byte])

        answer = gateway.stow(chunks())
        assert (answer.status_code, gateway.stored) == (413, [first])
        assert values(answer, REFERENCED, UID) == ["1.1"]
        assert answer.headers["connection"] == "close"
        assert gateway.stow(related(first)).status_code == 200

    def test_of_parts(self, tmp_path: Path) -> None:
        gateway = Gateway(tmp_path, stow_max_parts=2)
        files = [instance(f"1.{number}") for number in range(1, 4)]
        answer = gateway.stow(related(*files))
        assert (answer.status_code, gateway.stored) == (413, files[:2])

    def test_of_time(self, tmp_path: Path) -> None:
        """A body that comes to a halt: 408, and what was whole before is stored."""
        gateway = Gateway(tmp_path, stow_timeout_s=1)

        async def chunks() -> AsyncIterator[bytes]:
            yield related(instance("1.1"), instance("1.2"))[:-100]
            await anyio.sleep(30)

        answer = gateway.stow(chunks())
        assert (answer.status_code, gateway.stored) == (408, [instance("1.1")])

    def test_of_requests_at_the_same_time(self) -> None:
        """503, with when to come again."""
        at_once = AtOnce(1)
        with at_once.one(), pytest.raises(Exception, match="503") as refused, at_once.one():
            pass
        assert refused.value.headers == {"Retry-After": "1"}  # type: ignore[attr-defined]
        with at_once.one():
            pass

    def test_of_requests_at_the_same_time_hold_for_the_gateway(self, tmp_path: Path) -> None:
        """One comes while another's body is on its way: the first one ends well."""
        gateway = Gateway(tmp_path, stow_parallel=1)

        async def both() -> list[int]:
            async with httpx.AsyncClient(transport=gateway.transport, base_url="http://gateway") as client:
                form = {"grant_type": "client_credentials"}
                granted = await client.post("/oauth2/token", data=form, auth=("c", "s"))
                headers = {
                    "Authorization": f"Bearer {granted.json()['access_token']}",
                    "Content-Type": RELATED,
                }
                statuses = []

                async def chunks() -> AsyncIterator[bytes]:
                    second = await client.post("/studies", content=related(instance("1.2")), headers=headers)
                    statuses.append(second.status_code)
                    yield related(instance("1.1"))

                first = await client.post("/studies", content=chunks(), headers=headers)
                return [*statuses, first.status_code]

        assert anyio.run(both) == [503, 200]
        assert gateway.stored == [instance("1.1")]

    def test_of_the_rate(self) -> None:
        """429, with when to come again; a pause lets as many at once as a second does."""
        now = 0.0
        rate = Rate(2, clock=lambda: now)
        rate.take()
        rate.take()
        with pytest.raises(Exception, match="429") as refused:
            rate.take()
        assert refused.value.headers == {"Retry-After": "1"}  # type: ignore[attr-defined]
        now = 0.5
        rate.take()
        now = 1000.0
        for _ in range(2):
            rate.take()
        with pytest.raises(Exception, match="429"):
            rate.take()
        Rate(0).take()

    def test_of_the_rate_hold_for_the_gateway(self, tmp_path: Path) -> None:
        """A token and one request more are two."""
        gateway = Gateway(tmp_path, rate_per_s=2)
        assert gateway.ask("GET", "/upload/").status_code == 200
        assert httpx.codes(gateway_status(gateway)) == 429


def gateway_status(gateway: Gateway) -> int:
    """Of a token request alone."""

    async def sent() -> int:
        async with httpx.AsyncClient(transport=gateway.transport, base_url="http://gateway") as client:
            form = {"grant_type": "client_credentials"}
            return (await client.post("/oauth2/token", data=form, auth=("c", "s"))).status_code

    return anyio.run(sent)


class TestStoreAway:
    def test_says_when_to_come_again_and_what_it_has(self, gateway: Gateway) -> None:
        gateway.bucket.takes = 1
        answer = gateway.stow(related(instance("1.1"), instance("1.2"), instance("1.3")))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (gateway.stored, values(answer, REFERENCED, UID)) == ([instance("1.1")], ["1.1"])

    def test_is_all_that_its_error_says(self) -> None:
        """Not the key, which the library's text has in the URL."""
        settings = GatewaySettings(
            client_id="c",
            client_secret=SecretStr("s"),
            bucket="scans",
            s3_endpoint="http://127.0.0.1:9",
            access_key_id="AKID",
            secret_access_key=SecretStr("shh"),
        )
        with pytest.raises(StoreUnavailableError) as error:
            ObjectWriter(settings).put("uploads/1.dcm", io.BytesIO(b"x"), 1)
        assert str(error.value) == ""
        assert error.value.__suppress_context__

    def test_no_audit_line_no_success(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a full disk."""

        def fails(*_: object) -> None:
            raise OSError

        monkeypatch.setattr(GatewayAudit, "add", fails)
        assert gateway.stow(related(instance("1.1"))).status_code == 503
        assert gateway.ask("GET", "/upload/").status_code == 503
        assert gateway.ask("GET", "/studies").status_code == 503


class TestAnswer:
    def test_is_xml_where_that_is_asked_for(self, gateway: Gateway) -> None:
        """PS3.19's Native DICOM Model, with the same in it as the JSON has."""
        body = related(instance("1.1"), b"text", instance("1.2", SeriesInstanceUID=None))
        answer = gateway.stow(body, Accept=f"{XML}, {JSON};q=0.5")
        assert (answer.status_code, answer.headers["content-type"]) == (202, XML)
        module = as_json(ET.fromstring(answer.content))
        again = gateway.stow(body, Accept=JSON).json()
        assert module == json.loads(json.dumps(again), parse_int=str)

    @pytest.mark.parametrize(
        ("accept", "best"),
        [
            ("", JSON),
            ("*/*", JSON),
            (XML, XML),
            (f"{JSON};q=0.2, {XML}", XML),
            ("application/*;q=0.1, text/xml", "text/xml"),
            (f"*/*, {JSON};q=0", XML),
            ("application/json", "application/json"),
            ("image/png", None),
            (f"{JSON};q=none", None),
        ],
    )
    def test_is_of_the_type_that_is_liked_best(self, accept: str, best: str | None) -> None:
        assert preferred(accept, (JSON, XML, "application/json", "text/xml")) == best


def as_json(element: ET.Element) -> dict[str, Any]:
    """DICOM JSON of a Native DICOM Model, whose numbers are text."""
    return {
        each.attrib["tag"]: {
            "vr": each.attrib["vr"],
            "Value": [value.text if value.tag == f"{NATIVE}Value" else as_json(value) for value in each],
        }
        for each in element.findall(f"{NATIVE}DicomAttribute")
    }


class TestWho:
    @pytest.mark.parametrize(
        ("scope", "method", "path", "status"),
        [
            ("read", "POST", "/studies", 403),
            ("read", "POST", "/studies/1.2", 403),
            ("read", "GET", "/upload/", 403),
            ("upload", "GET", "/studies", 403),
            ("upload", "GET", "/studies/1.2/metadata", 403),
            ("upload", "GET", "/series", 403),
            ("upload", "GET", "/upload/", 200),
            ("upload read", "GET", "/upload/", 200),
            ("upload", "POST", "/studies", 415),
            ("read", "GET", "/instances", 501),
        ],
    )
    def test_may_do_what_depends_on_the_scope(
        self, gateway: Gateway, scope: str, method: str, path: str, status: int
    ) -> None:
        """RFC 6750 3.1; of what may be done the status is another."""
        answer = gateway.ask(method, path, scope)
        assert answer.status_code == status
        assert ("insufficient_scope" in answer.headers.get("www-authenticate", "")) == (status == 403)

    def test_needs_a_token_everywhere(self, gateway: Gateway) -> None:
        """Before a body is read."""

        async def statuses() -> list[int]:
            async with httpx.AsyncClient(transport=gateway.transport, base_url="http://gateway") as client:
                ways = [
                    ("POST", "/studies"),
                    ("POST", "/studies/1.2"),
                    ("GET", "/studies"),
                    ("GET", "/series"),
                ]
                return [(await client.request(*way, content=b"x")).status_code for way in ways]

        assert anyio.run(statuses) == [401] * 4

    def test_did_what_is_written_down(self, gateway: Gateway) -> None:
        """Time, user, action, key; no UID; for its owner alone, and appended to what there was."""
        before = (gateway.data_dir / FILE).read_text()
        key = gateway.ask("GET", "/upload/").json()["key"]
        gateway.stow(related(instance("1.1"), b"text"))
        gateway.ask("GET", f"/studies/{STUDY}/instances?SOPInstanceUID=1.1")
        gateway.ask("GET", f"/studies/{STUDY}/series/{SERIES}")
        stored = list(gateway.bucket.objects)
        assert (gateway.data_dir / FILE).read_text().startswith(before)
        lines = [(line["user"], line["action"], line["key"]) for line in gateway.audit[-4:]]
        assert lines == [
            ("c", "presign", key),
            ("c", "store", *stored),
            ("c", "search", ""),
            ("c", "retrieve", ""),
        ]
        assert all(datetime.fromisoformat(line["time"]) for line in gateway.audit)
        assert not re.search(rf'1\.1"|{re.escape(STUDY)}|Doe', (gateway.data_dir / FILE).read_text())

    def test_did_it_stands_in_a_containers_log(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Where there is no data directory."""
        GatewayAudit(None, lambda: datetime(2026, 1, 2, tzinfo=UTC)).add("c", "search")
        line = {"time": "2026-01-02T00:00:00.000Z", "user": "c", "action": "search", "key": ""}
        assert json.loads(capfd.readouterr().out) == line

    def test_did_it_only_its_owner_may_read(self, gateway: Gateway) -> None:
        assert stat.S_IMODE((gateway.data_dir / FILE).stat().st_mode) == 0o600

    def test_did_it_is_not_written_through_a_link(self, tmp_path: Path) -> None:
        """Whoever may write there could have us write elsewhere; a directory that is not there is made."""
        assert Gateway(tmp_path / "new" / "one").data_dir.is_dir()
        (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match="data directory"):
            GatewayAudit(tmp_path)

    def test_logs_no_uid_no_path_no_token(self, gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
        """At the levels that the gateway's process has."""
        caplog.set_level(logging.INFO, "uvicorn")
        gateway.stow(related(instance("1.1"), instance("1.2")[:-3]), f"/studies/{STUDY}")
        gateway.ask("GET", f"/studies/{STUDY}/metadata")
        assert [record.message for record in caplog.records if record.name.startswith("uvicorn")] == []
