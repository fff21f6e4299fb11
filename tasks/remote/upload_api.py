"""The upload API and the object store behind it: a presigned URL for one file, and the PUT.

    GET {api}/upload/   Authorization: Bearer ...       ->  {"url": <presigned PUT URL>, "key": <object key>}
    PUT {url}           Content-Type: application/dicom ->  2xx, ETag

Every request that does not work raises a Fault of one kind; `core/retry.py` decides what follows.
"""

import asyncio
import base64
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from tasks.core.allowed_hosts import is_named, is_private, why_not
from tasks.core.api_answers import WrongAnswerError, leads_to, url_and_key, what_is_wrong
from tasks.core.checksums import Evidence
from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Answer, Origin, Request, plain_url
from tasks.core.platform_host import host_and_port
from tasks.core.store_answers import advice, error_code, kind_of_answer, unsent_headers
from tasks.remote.credentials import ApiKey, Credentials
from tasks.remote.curl_engine import Engine
from tasks.source.file_content import Content

CONTENT_TYPE = "application/dicom"
_MAX_REDIRECTS = 3
_SENT: Final = frozenset(
    {"host", "content-type", "content-length", "content-md5", "accept-encoding"}
)  # of a PUT
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

    @property
    def host(self) -> str:
        """Host and port of the object store."""
        return f"{self.origin.host}:{self.origin.port}"

    def lives(self, now: float) -> bool:
        """Whether a PUT that starts now is in time."""
        return now < self.expires_at


@dataclass(frozen=True, slots=True)
class Stored:
    """A PUT that S3 answered with 2xx."""

    http_status: int
    etag: str
    evidence: Evidence  # of what is stored
    with_content_md5: bool = False  # it was sent, and so not refused


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
        self._allow_private = self._allow_private or (bool(answer.address) and is_private(answer.address))
        self._check_host(origin)
        now = self._clock()
        server_time = answer.server_time()
        if server_time is not None:
            self._skew_s = server_time - now
        return PresignedUrl(key, url, origin, expiry(url) - self._skew_s)

    async def put(self, to: PresignedUrl, content: Content, *, with_md5: bool = False) -> Stored:
        """Send the bytes, with Content-Length, to where the URL says; 307 and 308 to permitted hosts.

        `with_md5`: as Content-MD5 where it is known by now, else it is taken on the way of what is streamed.
        """
        if not to.lives(self._clock()):
            raise Fault(FaultKind.EXPIRED, "the presigned URL expired before it was used")
        headers = {"Content-Type": CONTENT_TYPE}
        md5 = content.digests.md5 if with_md5 and content.digests else ""
        if md5 and "X-Amz-Signature=" in to.url:  # a SigV2 signature would have to cover it
            headers["Content-MD5"] = base64.b64encode(bytes.fromhex(md5)).decode()
        answer = await self._put(to, partial(self._sent, headers, content, with_md5))
        if not 200 <= answer.status < 300:
            raise self._put_fault(answer, to)
        etag = answer.headers.get("etag", "").strip().strip('"')
        evidence = Evidence.of(answer.headers)
        return Stored(answer.status, etag if etag.isprintable() else "", evidence, "Content-MD5" in headers)

    @property
    def clock_skew_s(self) -> float:
        """The API's clock less ours, as of the last URL; 0 when it shows none."""
        return self._skew_s

    async def try_host(self, url: PresignedUrl) -> int:
        """The status with which a URL's host answers a question after its root: neither key nor signature.

        Name, proxy, TCP and TLS are as they will be for a PUT. Raises Fault when there is no answer.
        """
        scheme, host, port = url.origin
        allow_private = self._allow_private or is_named(host, self._storage_hosts)
        request = Request("HEAD", f"{scheme}://{host}:{port}/", allow_private=allow_private)
        return (await self._engine.send(request)).status

    async def _put(
        self, to: PresignedUrl, send: Callable[[str, Origin], Coroutine[Any, Any, Answer]]
    ) -> Answer:
        url, origin = to.url, to.origin
        for _ in range(_MAX_REDIRECTS):
            answer = await send(url, origin)
            location = answer.redirect(url)
            if not location:
                return answer
            try:
                url, origin = plain_url(location)
            except Fault:
                return answer
            self._check_host(origin)
        return await send(url, origin)

    async def _sent(
        self, headers: Mapping[str, str], content: Content, with_md5: bool, url: str, origin: Origin
    ) -> Answer:
        await self._reach(origin)
        body = content.body(with_md5=with_md5)
        held = body if isinstance(body, bytes) else b""
        allow_private = self._allow_private or is_named(origin.host, self._storage_hosts)
        request = Request("PUT", url, headers, held, allow_private=allow_private)
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
        status, text = answer.status, answer.text()
        code = error_code(text)
        kind = kind_of_answer(status, code, text)
        if kind is None and status in (400, 403) and not to.lives(self._clock()):
            kind = FaultKind.EXPIRED
        kind = kind or (FaultKind.REFUSED if status == 403 else FaultKind.REJECTED)
        unsent = unsent_headers(parse_qsl(urlsplit(to.url).query, keep_blank_values=True), _SENT)
        what = f"the object store answered {status} {code}".rstrip()
        return Fault(kind, what, status, answer.retry_after_s(), code, advice(code, kind, unsent))


def _bearer_error(answer: Answer) -> str:
    """What is wrong with the token, by the words of RFC 6750, 3.1; empty when the API does not say."""
    found = _BEARER_ERROR.search(answer.headers.get("www-authenticate", ""))
    return found.group(1) if found else ""


def _key_and_url(answer: Answer) -> tuple[str, str, Origin]:
    try:
        text, key = url_and_key(answer.body, answer.coding)
        return key, *_url_of(key, text)
    except WrongAnswerError as wrong:
        raise Fault(FaultKind.PRESIGN, what_is_wrong(wrong.word), answer.status, detail=wrong.word) from None


def _url_of(key: str, text: str) -> tuple[str, Origin]:
    try:
        url, origin = plain_url(text)
    except Fault:
        raise WrongAnswerError("bad_url") from None
    before_fragment, _, fragment = url.partition("#")
    before_query = before_fragment.partition("?")[0]
    path = before_query[before_query.find("/", len("https://")) :]
    if not leads_to(key, path, unquote(path), fragment):
        raise WrongAnswerError("unquoted_key")
    return url, origin


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


async def _nobody_asks(_host: str) -> None:
    pass
