"""QIDO-RS and WADO-RS through the gateway: what reaches the server behind it, and what comes back."""

import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from deployments.sandbox.gateway.app import create_app
from deployments.sandbox.gateway.pass_on import ServerBrokeOffError, replaced
from tasks.sandbox_settings import GatewaySettings

INNER = "http://registry:8042/dicom-web"
JSON, XML = "application/dicom+json", "application/dicom+xml"
LOGIN = "Basic " + base64.b64encode(b"gateway:inner").decode()


def streamed(status: int = 200, body: bytes = b"[]", **headers: str) -> httpx.Response:
    """An answer that comes byte by byte."""

    async def chunks() -> AsyncIterator[bytes]:
        for byte in body:
            yield bytes([byte])

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, content=chunks(), headers={"Content-Length": str(len(body))} | named)


class Registry:
    """A DICOMweb server that answers as it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.answer: Callable[[], httpx.Response] = streamed
        settings = GatewaySettings(
            client_id="c",
            client_secret=SecretStr("s"),
            bucket="scans",
            access_key_id="AKID",
            secret_access_key=SecretStr("shh"),
            dicomweb_url=f"{INNER}/",
            dicomweb_user="gateway",
            dicomweb_password=SecretStr("inner"),
        )
        app = create_app(settings, dicomweb=httpx.MockTransport(self._answer))
        self.transport = httpx.ASGITransport(app)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.answer()

    def ask(self, path: str, **headers: str) -> httpx.Response:
        """Through the gateway."""

        async def sent() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url="http://gateway") as client:
                form = {"grant_type": "client_credentials"}
                granted = await client.post("/oauth2/token", data=form, auth=("c", "s"))
                bearer = {"Authorization": f"Bearer {granted.json()['access_token']}"}
                raw = httpx.URL("http://gateway").copy_with(raw_path=path.encode())
                return await client.get(raw, headers=bearer | headers)

        return anyio.run(sent)


@pytest.fixture(scope="module")
def one_registry() -> Registry:
    return Registry()


@pytest.fixture
def registry(one_registry: Registry) -> Registry:
    one_registry.asked.clear()
    one_registry.answer = streamed
    return one_registry


class TestRequest:
    @pytest.mark.parametrize(
        "path",
        [
            "/studies?limit=1&offset=2&00100010=Do%2A&includefield=all",
            "/studies/1.2/instances?SOPInstanceUID=1.2.3",
            "/studies/1.2/series/1.3/instances/1.4/frames/1,2",
            "/studies/1.2/series/1.3/instances/1.4/bulk/7fe00010",
            "/studies/1.2/metadata",
            "/series",
            "/instances?SOPInstanceUID=1.2.3",
        ],
    )
    def test_is_passed_on_with_the_gateways_own_login(self, registry: Registry, path: str) -> None:
        """Never with the client's token; with what it accepts, uncompressed."""
        assert registry.ask(path, Accept=XML, Cookie="a=b", X_Forwarded_Host="evil").status_code == 200
        (asked,) = registry.asked
        assert str(asked.url) == f"{INNER}{path}"
        assert (asked.headers["authorization"], asked.headers["accept"]) == (LOGIN, XML)
        assert asked.headers["accept-encoding"] == "identity"
        assert not {"cookie", "x-forwarded-host", "x_forwarded_host"} & set(asked.headers)

    @pytest.mark.parametrize(
        "path",
        [
            "/studies/1.2/...",
            "/studies/%2e%2e/%2e%2e/tools/shutdown",
            "/studies/1.2/..%2f..%2fsystem",
            "/studies//1.2",
            "/studies/",
            "/studies/1.2/",
            "/studies/1.2\\..\\system",
            "/studies/1.2;x",
            "/studies/@evil.example",
        ],
    )
    def test_never_leaves_the_dicomweb_service(self, registry: Registry, path: str) -> None:
        """Orthanc's own interface is beside it, and can delete."""
        assert registry.ask(path).status_code == 404
        assert registry.asked == []

    @pytest.mark.parametrize("path", ["/system", "/tools/find", "/patients", "/dicom-web/studies"])
    def test_is_for_studies_series_and_instances(self, registry: Registry, path: str) -> None:
        assert registry.ask(path).status_code == 404
        assert registry.asked == []


class TestAnswer:
    @pytest.mark.parametrize("status", [200, 204, 206, 400, 404, 406, 413, 500, 503])
    def test_comes_back_as_it_is(self, registry: Registry, status: int) -> None:
        """Status, type, and when to come again; and no header that says what the server is."""
        headers = {"Retry_After": "7", "Server": "Orthanc", "Set_Cookie": "a=b", "Content_Type": "text/plain"}
        registry.answer = lambda: streamed(status, b"no", **headers)
        answer = registry.ask("/studies")
        assert (answer.status_code, answer.text) == (status, "no")
        assert (answer.headers["retry-after"], answer.headers["content-type"]) == ("7", "text/plain")
        assert not {"server", "set-cookie"} & set(answer.headers)

    @pytest.mark.parametrize(
        "kind", [JSON, "application/json; charset=utf-8", f"multipart/related; type={XML}; boundary=b"]
    )
    def test_leads_to_the_gateway(self, registry: Registry, kind: str) -> None:
        """RetrieveURL and BulkDataURI, which the server writes with its own address."""
        text = f'{{"BulkDataURI": "{INNER}/studies/1.2/bulk/7fe00010"}}--b--'
        registry.answer = lambda: streamed(200, text.encode(), Content_Type=kind)
        answer = registry.ask("/studies/1.2/metadata")
        assert answer.text == '{"BulkDataURI": "http://gateway/studies/1.2/bulk/7fe00010"}--b--'

    def test_of_instances_is_not_touched(self, registry: Registry) -> None:
        """Whatever is in them."""
        kind = 'multipart/related; type="application/dicom"; boundary="b c"'
        body = f"{INNER}/studies".encode() * 3 + b"\r\n--b c--\r\n"
        registry.answer = lambda: streamed(200, body, Content_Type=kind)
        answer = registry.ask("/studies/1.2")
        assert (answer.content, answer.headers["content-type"]) == (body, kind)
        assert answer.headers["content-length"] == str(len(body))

    @pytest.mark.parametrize("status", [401, 403, 302])
    def test_that_the_gateway_is_not_welcome_is_no_refusal_of_the_client(
        self, registry: Registry, status: int
    ) -> None:
        """Who would else fetch another token, and another."""
        headers = {"Location": "http://elsewhere/"} if status == 302 else {}
        registry.answer = lambda: streamed(status, **headers)
        answer = registry.ask("/studies")
        assert (answer.status_code, len(registry.asked)) == (502, 1)
        assert "location" not in answer.headers

    @pytest.mark.parametrize(
        ("error", "status"), [(httpx.ConnectError("x"), 503), (httpx.ReadTimeout("x"), 504)]
    )
    def test_is_awaited_in_vain(self, registry: Registry, error: Exception, status: int) -> None:
        def fail() -> httpx.Response:
            raise error

        registry.answer = fail
        answer = registry.ask("/studies")
        assert (answer.status_code, answer.headers["retry-after"]) == (status, "5")

    def test_that_breaks_off_is_no_whole_answer(self, registry: Registry) -> None:
        """The connection breaks, too; the error names nothing of the request."""

        async def half() -> AsyncIterator[bytes]:
            yield b"half"
            raise httpx.RemoteProtocolError("of http://registry/studies/1.2")

        registry.answer = lambda: httpx.Response(200, content=half())
        with pytest.raises(Exception, match="broke off") as error:
            registry.ask("/studies/1.2")
        assert "1.2" not in str(error.value)
        assert error.value.__suppress_context__

    @pytest.mark.parametrize("end", [b"", b"--b", b"--b-", b"--c--", b"--b--" + b"x" * 2000])
    def test_that_ends_without_its_last_boundary_is_none_either(self, registry: Registry, end: bytes) -> None:
        """Orthanc, when it ends, closes the connection as it does at the end of an answer."""
        registry.answer = lambda: streamed(
            200, b"--b\r\n\r\n" + end, Content_Type="multipart/related; boundary=b"
        )
        with pytest.raises(ServerBrokeOffError):
            registry.ask("/studies/1.2")

    @given(
        st.lists(st.sampled_from([b"a", b"b", b"ab", b"aab", b"aaab", b"x", b"abab"]), max_size=30), st.data()
    )
    def test_has_its_addresses_replaced_wherever_chunks_end(self, words: list[bytes], data: Any) -> None:
        text = b"".join(words)
        ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]

        async def all_of_it() -> bytes:
            async def chunks() -> AsyncIterator[bytes]:
                for piece in pieces:
                    yield piece

            return b"".join([piece async for piece in replaced(chunks(), b"aab", b"<>")])

        assert anyio.run(all_of_it) == text.replace(b"aab", b"<>")


def test_is_not_there_without_a_registry(tmp_path: Path) -> None:
    """501, and no bytes to nowhere."""
    registry = Registry()
    settings = GatewaySettings(
        client_id="c", client_secret=SecretStr("s"), bucket="scans", region="eu-central-1", data_dir=tmp_path
    )
    registry.transport = httpx.ASGITransport(create_app(settings))
    assert registry.ask("/studies").status_code == 501
