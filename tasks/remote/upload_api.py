"""The upload API and the object store behind it: a presigned URL for one file, and the PUT.

    GET {api}/upload/   Authorization: Bearer ...       ->  {"url": <presigned PUT URL>, "key": <object key>}
    PUT {url}           Content-Type: application/dicom ->  2xx, ETag

Every request that does not work raises a Fault of one kind; `core/retry.py` decides what follows.
"""

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from tasks.core.allowed_hosts import is_private, why_not
from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Answer, Origin, Request, plain_url
from tasks.core.platform_host import host_and_port
from tasks.remote.credentials import ApiKey, Credentials
from tasks.remote.curl_engine import Engine
from tasks.source.file_content import Content

CONTENT_TYPE = "application/dicom"
_MAX_KEY_BYTES = 1024  # S3: an object key is at most 1024 bytes of UTF-8
_MAX_REDIRECTS = 3
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_CODE = re.compile(r"<Code>\s*([A-Z][A-Za-z0-9]{0,63})\s*</Code>")
# What is wrong with a presign answer: the report's word for it, and the log's clause.
_WRONG_SHAPES: Final = {
    "empty_answer": "is empty",
    "html_answer": "is HTML or XML",
    "no_json": "is no JSON",
    "no_json_object": "is JSON, but no object",
    "no_url": "has no url",
    "no_key": "has no key",
    "no_url_no_key": "has no url and no key",
    "bad_url": "has a url that is no absolute URL",
    "bad_key": "has a key that can be none of S3's",
}
_DATE: Final = re.compile(r"[?&]X-Amz-Date=(\d{8}T\d{6}Z)(?:&|\Z)", re.ASCII)
_LIFETIME: Final = re.compile(r"[?&]X-Amz-Expires=(\d{1,9})(?:&|\Z)", re.ASCII)
_BEARER_ERROR = re.compile(r"""\berror\s*=\s*"?(invalid_request|invalid_token|insufficient_scope)\b""")


@dataclass(frozen=True, slots=True)
class PresignedUrl:
    """A presigned URL with its key. The URL is a secret: it is never logged, stored or shown."""

    key: str
    url: str = field(repr=False)
    origin: Origin
    expires_at: float = float("inf")  # Unix seconds by our clock; infinite when the URL does not say

    def lives(self, now: float) -> bool:
        """Whether a PUT that starts now is in time."""
        return now < self.expires_at


@dataclass(frozen=True, slots=True)
class Stored:
    """A PUT that S3 answered with 2xx."""

    http_status: int
    etag: str
    etag_is_md5: bool


class UploadClient:
    """To be used in the event loop's thread alone."""

    def __init__(
        self,
        api_endpoint: str,
        credentials: Credentials,
        engine: Engine,
        *,
        api_key: ApiKey | None = None,
        signs_in_by: str = "",
        storage_hosts: Sequence[str] = (),
        allow_http: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`signs_in_by`: the settings that hold the credentials, for the sentence about a refusal."""
        self._upload, origin = plain_url(f"{api_endpoint.rstrip('/')}/upload/")
        self._credentials = credentials
        self._api_key = api_key
        self._signs_in_by = signs_in_by
        self._engine = engine
        self._storage_hosts = tuple(storage_hosts)
        self._allow_http = allow_http
        self._allow_private = is_private(origin.host)
        self._clock = clock
        self._skew_s = 0.0  # the server's clock less ours, from the last presign answer
        self._permitted: set[Origin] = set()
        self._reached: dict[Origin, asyncio.Task[None]] = {}
        self.reach: Callable[[str], Coroutine[Any, Any, None]] = _nobody_asks  # before a host's first PUT

    async def presign(self) -> PresignedUrl:
        """A URL and key for one file that is ready to be sent."""
        answer = await self._ask_for_url()
        if not 200 <= answer.status < 300:
            raise self._presign_fault(answer)
        key, url, origin = _key_and_url(answer)
        self._check_host(origin)
        now = self._clock()
        server_time = answer.server_time()
        if server_time is not None:
            self._skew_s = server_time - now
        return PresignedUrl(key, url, origin, expiry(url) - self._skew_s)

    async def put(self, to: PresignedUrl, content: Content) -> Stored:
        """Send the bytes, with Content-Length, to where the URL says; 307 and 308 to permitted hosts."""
        if not to.lives(self._clock()):
            raise Fault(FaultKind.EXPIRED, "the presigned URL expired before it was used")
        headers = {"Content-Type": CONTENT_TYPE}
        if content.digests and "X-Amz-Signature=" in to.url:  # a SigV2 signature would have to cover it
            md5 = bytes.fromhex(content.digests.md5)
            headers["Content-MD5"] = base64.b64encode(md5).decode()
        answer = await self._put(to, headers, content)
        if not 200 <= answer.status < 300:
            raise self._put_fault(answer, to)
        etag = answer.headers.get("etag", "").strip().strip('"')
        return Stored(answer.status, etag if etag.isprintable() else "", _etag_is_md5(etag, answer.headers))

    async def _put(self, to: PresignedUrl, headers: Mapping[str, str], content: Content) -> Answer:
        url, origin = to.url, to.origin
        for _ in range(_MAX_REDIRECTS):
            answer = await self._sent(url, origin, headers, content)
            location = answer.redirect(url)
            if not location:
                return answer
            try:
                url, origin = plain_url(location)
            except Fault:
                return answer
            self._check_host(origin)
        return await self._sent(url, origin, headers, content)

    async def _sent(self, url: str, origin: Origin, headers: Mapping[str, str], content: Content) -> Answer:
        await self._reach(origin)
        body = content.body()
        held = body if isinstance(body, bytes) else b""
        request = Request("PUT", url, headers, held, allow_private=self._allow_private)
        if isinstance(body, bytes):
            return await self._engine.send(request)
        return await self._engine.send_streamed(request, body, content.size_bytes)

    async def _reach(self, origin: Origin) -> None:
        """The first file that goes to a host makes that durable; all others wait for it."""
        if (reached := self._reached.get(origin)) is None:
            host = host_and_port(*origin)
            reached = self._reached[origin] = asyncio.create_task(self.reach(host))
        if not reached.done():
            await asyncio.shield(reached)
        else:
            reached.result()

    def close(self) -> None:
        """Give back the idle connections."""
        self._engine.close()

    async def _ask_for_url(self) -> Answer:
        """GET /upload/; a refused token is renewed once, by whoever sees it first."""
        signed = await self._signed()
        answer = await self._get_upload(signed)
        if answer.status in (401, 403):
            renewed = await self._signed(signed.get("Authorization", ""), answer.status)
            if renewed != signed:
                answer = await self._get_upload(renewed)
        return answer

    async def _signed(self, refused: str = "", http_status: int = 401) -> dict[str, str]:
        """The headers that sign in; `refused`: the Authorization that the API has just refused so."""
        authorization = await self._credentials.authorization(refused, http_status)
        token = {"Authorization": authorization} if authorization else {}
        return token | (self._api_key.headers() if self._api_key else {})

    async def _get_upload(self, signed: Mapping[str, str]) -> Answer:
        headers = {"Accept": "application/json", "Cache-Control": "no-store", **signed}
        return await self._engine.send(Request("GET", self._upload, headers))

    def _check_host(self, origin: Origin) -> None:
        if origin in self._permitted:
            return
        objection = why_not(
            origin.scheme,
            origin.host,
            allow_http=self._allow_http,
            patterns=self._storage_hosts,
            allow_private=self._allow_private,
        )
        if objection:
            raise Fault(FaultKind.SETTINGS, f"the object store's URL {objection}")
        self._permitted.add(origin)

    def _presign_fault(self, answer: Answer) -> Fault:
        status = answer.status
        what = f"the API answered {status} to GET /upload/"
        detail = _bearer_error(answer)
        if common := answer.trouble():
            return Fault(common, what, status, answer.retry_after_s(), detail)
        if status in (401, 403):
            kind = FaultKind.UNAUTHORIZED if status == 401 else FaultKind.FORBIDDEN
            return Fault(kind, f"{what} {self._signs_in_by}".rstrip(), status, detail=detail)
        kind = FaultKind.SETTINGS if 300 <= status < 500 else FaultKind.PRESIGN
        return Fault(kind, what, status, detail=detail)

    def _put_fault(self, answer: Answer, to: PresignedUrl) -> Fault:
        status, code = answer.status, _s3_code(answer)
        what = f"the object store answered {status} {code}".rstrip()
        if common := _S3_CODES.get(code) or answer.trouble():
            return Fault(common, what, status, answer.retry_after_s(), code)
        if status in (400, 403) and (not to.lives(self._clock()) or "expired" in answer.text().lower()):
            return Fault(FaultKind.EXPIRED, what, status, detail=code)
        kind = FaultKind.REFUSED if status == 403 else FaultKind.REJECTED
        return Fault(kind, what, status, detail=code)


_S3_CODES = {
    "RequestTimeout": FaultKind.NETWORK,
    "SlowDown": FaultKind.THROTTLED,
    "BadDigest": FaultKind.INTEGRITY,
    "ExpiredToken": FaultKind.EXPIRED,
}


def _s3_code(answer: Answer) -> str:
    """The error code of S3's XML answer, found by pattern: no XML parser meets bytes from outside.

    Letters and digits, as all of S3's are; anything else that a server writes there is not passed on.
    """
    found = _CODE.search(answer.text())
    return found.group(1) if found else ""


def _bearer_error(answer: Answer) -> str:
    """What is wrong with the token, by the words of RFC 6750, 3.1; empty when the API does not say."""
    found = _BEARER_ERROR.search(answer.headers.get("www-authenticate", ""))
    return found.group(1) if found else ""


def _key_and_url(answer: Answer) -> tuple[str, str, Origin]:
    try:
        parsed = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise _wrong_shape(answer, _what_it_is(answer.body)) from None
    if not isinstance(parsed, dict):
        raise _wrong_shape(answer, "no_json_object")
    if missing := [f"no_{name}" for name in ("url", "key") if name not in parsed]:
        raise _wrong_shape(answer, "_".join(missing))
    try:
        url, origin = plain_url(parsed["url"] if isinstance(parsed["url"], str) else "")
    except Fault:
        raise _wrong_shape(answer, "bad_url") from None
    if not _is_key(parsed["key"]):
        raise _wrong_shape(answer, "bad_key")
    return parsed["key"], url, origin


def _wrong_shape(answer: Answer, word: str) -> Fault:
    what = f"the API's answer {_WRONG_SHAPES[word]}: it has to be JSON with a url and a key"
    return Fault(FaultKind.PRESIGN, what, answer.status, detail=word)


def _what_it_is(body: bytes) -> str:
    """Of a body that is no JSON."""
    if not body.strip():
        return "empty_answer"
    return "html_answer" if body.lstrip().startswith(b"<") else "no_json"


def _is_key(parsed: object) -> bool:
    try:
        return isinstance(parsed, str) and 0 < len(parsed.encode()) <= _MAX_KEY_BYTES and parsed.isprintable()
    except UnicodeEncodeError:  # of a lone surrogate
        return False


def expiry(url: str) -> float:
    """When a presigned URL ends, in Unix seconds of the server's clock; infinity when it does not say.

    SigV4 has X-Amz-Date and X-Amz-Expires (seconds), SigV2 and others have Expires (Unix seconds).
    """
    if (date := _DATE.search(url)) and (lifetime := _LIFETIME.search(url)):  # as AWS writes them
        with suppress(ValueError):
            return datetime.fromisoformat(date[1]).timestamp() + int(lifetime[1])
    query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    try:
        if "x-amz-date" in query and "x-amz-expires" in query:
            signed = datetime.strptime(query["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return signed.timestamp() + int(query["x-amz-expires"])
        return float(int(query["expires"]))
    except (KeyError, ValueError, OverflowError):
        return float("inf")


def _etag_is_md5(etag: str, headers: Mapping[str, str]) -> bool:
    """Whether an ETag says the MD5 of the bytes: not with KMS or customer keys, nor after multipart."""
    encryption = headers.get("x-amz-server-side-encryption", "")
    customer_key = "x-amz-server-side-encryption-customer-algorithm" in headers
    return bool(_MD5.match(etag.lower())) and not encryption.startswith("aws:kms") and not customer_key


async def _nobody_asks(_host: str) -> None:
    pass
