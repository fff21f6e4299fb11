"""QIDO-RS and WADO-RS: passed on to the DICOMweb server behind the gateway, and its answers as they come.

With the gateway's own credentials, never the client's. Addresses in DICOM JSON and XML (RetrieveURL,
BulkDataURI) that lead to that server lead to the gateway instead; in instances nothing is changed.
"""

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import httpx
from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.sandbox.gateway.media_types import media_type
from tasks.sandbox_settings import GatewaySettings

# Nothing that a server could take for another path than one of these: no dots alone, nothing percent-encoded.
_PATH: Final = re.compile(r"/(?:studies|series|instances)(?:/(?!\.+(?:/|\Z))[A-Za-z0-9._~,-]+)*")
_REQUEST_HEADERS: Final = ("accept", "accept-charset", "if-none-match", "if-modified-since", "range")
_ANSWER_HEADERS: Final = ("content-type", "content-range", "etag", "last-modified", "warning", "retry-after")
_CONNECT_TIMEOUT_S: Final = 5.0
_TIMEOUT_S: Final = 300.0
_AGAIN: Final = {"Retry-After": "5"}
_EPILOGUE_BYTES: Final = 1024  # RFC 2046 5.1.1: after the last boundary something may follow


class ServerBrokeOffError(Exception):
    """In the middle of an answer: the client must see that it is not whole."""


class PassedOn:
    """Answers GET below /studies, /series and /instances."""

    def __init__(self, settings: GatewaySettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        user, password = settings.dicomweb_user, settings.dicomweb_password.get_secret_value()
        self._url = settings.dicomweb_url.rstrip("/")
        self._public_url = settings.public_url.rstrip("/")
        self._client = httpx.AsyncClient(
            auth=(user, password) if user else None,
            trust_env=False,
            transport=transport,
            timeout=httpx.Timeout(_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_keepalive_connections=0),  # Orthanc closes what is idle for a second
        )

    async def answer(self, request: Request) -> Response:
        """What the server answers, as it comes. HTTPException when there is none, or it does not."""
        if not self._url:
            raise HTTPException(501, "no DICOMweb server is set")
        path = request.scope["raw_path"].decode("ascii", "replace")
        if not _PATH.fullmatch(path):
            raise HTTPException(404, "no such resource")
        query = request.scope["query_string"].decode("ascii", "replace")
        headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
        asked = self._client.build_request(
            "GET", f"{self._url}{path}{'?' if query else ''}{query}", headers=headers
        )
        asked.headers["Accept-Encoding"] = "identity"
        try:
            answer = await self._client.send(asked, stream=True)
        except httpx.TimeoutException:
            raise HTTPException(504, "the DICOMweb server does not answer", _AGAIN) from None
        except httpx.HTTPError:
            raise HTTPException(503, "the DICOMweb server is away", _AGAIN) from None
        if answer.status_code in (401, 403) or answer.is_redirect:
            await answer.aclose()
            raise HTTPException(502, "the DICOMweb server does not answer the gateway")
        return self._passed_on(answer, self._public_url or str(request.base_url).rstrip("/"))

    def _passed_on(self, answer: httpx.Response, base_url: str) -> Response:
        headers = {name: answer.headers[name] for name in _ANSWER_HEADERS if name in answer.headers}
        headers["Cache-Control"] = "no-store"
        kind, parameters = media_type(answer.headers.get("content-type", ""))
        chunks = _chunks(answer)
        if kind.startswith("multipart/"):
            chunks = whole_multipart(chunks, parameters.get("boundary", ""))
        if "json" in kind or "xml" in kind or "xml" in parameters.get("type", ""):
            chunks = replaced(chunks, self._url.encode(), base_url.encode())
        elif "content-length" in answer.headers:
            headers["content-length"] = answer.headers["content-length"]
        return StreamingResponse(chunks, answer.status_code, headers)


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.HTTPError:
        raise ServerBrokeOffError("the DICOMweb server broke off its answer") from None
    finally:
        await answer.aclose()


def closing_what_broke_off(app: ASGIApp) -> ASGIApp:
    """The same application; what breaks off closes the connection, with a line in the log, no traceback."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ServerBrokeOffError):
            await app(scope, receive, send)

    return call


async def whole_multipart(chunks: AsyncIterator[bytes], boundary: str) -> AsyncIterator[bytes]:
    """The same chunks. ServerBrokeOffError when the last boundary does not come.

    Of a long answer Orthanc says neither how long it is nor that it has ended: it closes the connection.
    """
    last = f"--{boundary}--".encode()
    end = b""
    async for chunk in chunks:
        end = (end + chunk)[-len(last) - _EPILOGUE_BYTES :]
        yield chunk
    if last not in end:
        raise ServerBrokeOffError("the DICOMweb server broke off its answer")


async def replaced(chunks: AsyncIterator[bytes], old: bytes, new: bytes) -> AsyncIterator[bytes]:
    """The same bytes with each `old` replaced, wherever chunks end."""
    rest = b""
    async for chunk in chunks:
        text = (rest + chunk).replace(old, new)
        kept = _started(text, old)
        rest = text[len(text) - kept :]
        if text := text[: len(text) - kept]:
            yield text
    if rest:
        yield rest


def _started(text: bytes, old: bytes) -> int:
    """How many bytes at the end may be the start of `old`."""
    return next(
        (count for count in range(min(len(old) - 1, len(text)), 0, -1) if text.endswith(old[:count])), 0
    )
