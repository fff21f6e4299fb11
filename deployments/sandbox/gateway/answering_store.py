"""A store that answers as another would: PUTs go through the gateway, which passes them on and says the rest.

The store behind it checks signature, expiry and Content-MD5, and its own ETag is the MD5 of what it got. Of
a PUT that is to arrive damaged the gateway passes on other bytes than it got: the answer is of those.
"""

import base64
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx
from awscrt.checksums import crc64nvme
from fastapi import FastAPI, Request, Response

from tasks.sandbox_settings import GatewaySettings, StoreAnswers

_AT: Final = "/store"
_PASSED_ON: Final = ("content-type", "content-length", "content-md5")
_TIMEOUT_S: Final = 60.0
_KMS: Final = {"x-amz-server-side-encryption": "aws:kms"}
_OTHER_CLOUD: Final = {"x-goog-encryption-kms-key-name": "projects/p/locations/l/keyRings/r/cryptoKeys/k"}


class AnsweringStore:
    """Where presigned URLs lead, in place of the store."""

    def __init__(self, settings: GatewaySettings, presign: Callable[[str], str]) -> None:
        """`presign`: the store's own URL for a key."""
        self._kind = settings.store_answers
        self._damage_every = settings.damage_every
        self._presign = presign
        parts = urlsplit(presign("any"))
        self._store = f"{parts.scheme}://{parts.netloc}"
        self._client = httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S)
        self._seen: set[str] = set()  # paths of which a PUT has come

    def presigned(self, key: str, request: Request) -> str:
        """A URL for a key by which it is asked: at the gateway, by the address that the client has of it."""
        parts = urlsplit(self._presign(key))
        return f"{request.base_url.scheme}://{request.base_url.netloc}{_AT}{parts.path}?{parts.query}"

    def add_to(self, app: FastAPI) -> None:
        """The gateway takes PUTs from here on."""

        @app.put(f"{_AT}/{{path:path}}")
        async def put(request: Request) -> Response:
            return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode("ascii").removeprefix(_AT)  # as it is signed
        body = _Body(request.stream(), damaged=self._is_damaged(path))
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        url = f"{self._store}{path}?{request.url.query}"
        stored = await self._client.put(url, content=body.chunks(), headers=headers)
        answer = {name: stored.headers[name] for name in ("content-type",) if name in stored.headers}
        if stored.is_success:
            answer |= _headers(self._kind, stored.headers.get("etag", ""), body.crc64nvme)
        return Response(stored.content, stored.status_code, answer)

    def _is_damaged(self, path: str) -> bool:
        """Whether this is the first PUT of an object whose turn it is."""
        if not self._damage_every or path in self._seen:
            return False
        self._seen.add(path)
        return len(self._seen) % self._damage_every == 0


class _Body:
    """A body as it is passed on, and its checksum once it was."""

    def __init__(self, chunks: AsyncIterator[bytes], *, damaged: bool) -> None:
        self._chunks = chunks
        self._damaged = damaged
        self._crc = 0

    @property
    def crc64nvme(self) -> str:
        """In base64, as S3 shows it."""
        return base64.b64encode(self._crc.to_bytes(8, "big")).decode()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Of the same length, also where one bit is another."""
        async for chunk in self._chunks:
            if self._damaged and chunk:
                chunk, self._damaged = bytes([chunk[0] ^ 1]) + chunk[1:], False
            self._crc = crc64nvme(chunk, self._crc)
            yield chunk


def _headers(kind: StoreAnswers, etag: str, crc: str) -> Mapping[str, str]:
    s3 = {"x-amz-request-id": secrets.token_hex(8).upper()}
    no_md5 = {"etag": f'"{secrets.token_hex(16)}"'}
    checksum = {"x-amz-checksum-crc64nvme": crc, "x-amz-checksum-type": "FULL_OBJECT"}
    match kind:
        case StoreAnswers.PLAIN:
            return s3 | {"etag": etag}
        case StoreAnswers.S3:
            return s3 | {"etag": etag} | checksum
        case StoreAnswers.KMS:
            return s3 | no_md5 | _KMS | checksum
        case StoreAnswers.KMS_WITHOUT_CRC:
            return s3 | no_md5 | _KMS
        case StoreAnswers.OTHER_CLOUD:
            return no_md5 | _OTHER_CLOUD
