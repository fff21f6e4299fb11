"""The upload API and the object store behind it: a presigned URL for one file, and the PUT.

    GET {api}/upload/   Authorization: Bearer ...       ->  {"url": <presigned PUT URL>, "key": <object key>}
    PUT {url}           Content-Type: application/dicom ->  2xx, ETag

Every request that does not work raises a Fault of one kind; `core/retry.py` decides what follows.
"""

import base64
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import httpx

from tasks.core.allowed_hosts import is_private, why_not
from tasks.core.api_answers import WrongAnswerError, leads_to, url_and_key, what_is_wrong
from tasks.core.checksums import Evidence
from tasks.core.errors import Fault, FaultKind
from tasks.core.platform_host import host_and_port
from tasks.core.store_answers import advice, error_code, kind_of_answer, unsent_headers
from tasks.remote.credentials import ApiKey, Credentials
from tasks.remote.http_pool import Answer, Connections

CONTENT_TYPE = "application/dicom"
_MAX_REDIRECTS = 3
_SENT: Final = frozenset(
    {"host", "content-type", "content-length", "content-md5", "accept-encoding"}
)  # of a PUT
_BEARER_ERROR = re.compile(r"""\berror\s*=\s*"?(invalid_request|invalid_token|insufficient_scope)\b""")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A presigned URL with its key. The URL is a secret: it is never logged, stored or shown."""

    key: str
    url: httpx.URL = field(repr=False)
    expires_at: float = float("inf")  # Unix seconds by our clock; infinite when the URL does not say

    @property
    def host(self) -> str:
        """Host and port of the object store, as the URL has them."""
        return self.url.netloc.decode("ascii")

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
    """Thread-safe: every request takes a connection of its own."""

    def __init__(
        self,
        api_endpoint: str,
        credentials: Credentials,
        connections: Connections,
        *,
        api_key: ApiKey | None = None,
        signs_in_by: str = "",
        storage_hosts: Sequence[str] = (),
        allow_http: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`signs_in_by`: the settings that hold the credentials, for the sentence about a refusal."""
        self._api = httpx.URL(f"{api_endpoint.rstrip('/')}/")
        self._upload = httpx.URL(f"{self._api}upload/")
        self._credentials = credentials
        self._api_key = api_key
        self._signs_in_by = signs_in_by
        self._connections = connections
        self._storage_hosts = tuple(storage_hosts)
        self._allow_http = allow_http
        self._allow_private = is_private(self._api.host)
        self._clock = clock
        self._skew_s = 0.0  # the server's clock less ours, from the last presign answer
        self._permitted: set[tuple[str, str]] = set()
        self._reached: set[tuple[str, bytes, int | None]] = set()
        self.reach: Callable[[str], None] = lambda _: None  # called with each host:port before its first PUT

    def presign(self) -> Ticket:
        """A URL and key for one file that is ready to be sent."""
        answer = self._ask_for_url()
        if not 200 <= answer.status < 300:
            raise self._presign_fault(answer)
        key, url = _key_and_url(answer)
        self._check_host(url)
        now = self._clock()
        server_time = answer.server_time()
        if server_time is not None:
            self._skew_s = server_time - now
        return Ticket(key, url, expiry(url) - self._skew_s)

    def put(
        self,
        ticket: Ticket,
        body: Callable[[], bytes | Iterable[bytes]],
        size_bytes: int,
        md5: str = "",
    ) -> Stored:
        """Send the bytes, with Content-Length, to where the ticket says; `md5` when known before the body.

        `body` is asked for once more when the object store names another host of its own (307, 308).
        """
        if not ticket.lives(self._clock()):
            raise Fault(FaultKind.EXPIRED, "the presigned URL expired before it was used")
        headers = {"Content-Type": CONTENT_TYPE, "Content-Length": str(size_bytes)}
        if md5 and b"X-Amz-Signature=" in ticket.url.query:  # a SigV2 signature would have to cover it
            headers["Content-MD5"] = base64.b64encode(bytes.fromhex(md5)).decode()
        answer = self._put(ticket.url, headers, body)
        if not 200 <= answer.status < 300:
            raise self._put_fault(answer, ticket)
        etag = answer.headers.get("etag", "").strip().strip('"')
        evidence = Evidence.of(answer.headers)
        return Stored(answer.status, etag if etag.isprintable() else "", evidence, "Content-MD5" in headers)

    def _put(
        self, url: httpx.URL, headers: Mapping[str, str], body: Callable[[], bytes | Iterable[bytes]]
    ) -> Answer:
        """Follows redirects that keep the method, to permitted hosts alone."""
        self._reach(url)
        answer = self._connections.send("PUT", url, headers, body())
        for _ in range(_MAX_REDIRECTS):
            location = answer.headers.get("location", "")
            if answer.status not in (307, 308) or not location:
                break
            try:
                url = url.join(location)
                self._check_host(url)
            except (httpx.InvalidURL, UnicodeError):  # of IDNA
                break
            self._reach(url)
            answer = self._connections.send("PUT", url, headers, body())
        return answer

    def _reach(self, url: httpx.URL) -> None:
        origin = (url.scheme, url.raw_host, url.port)
        if origin not in self._reached:
            self.reach(host_and_port(url.scheme, url.raw_host.decode("ascii"), url.port))
            self._reached.add(origin)

    def close(self) -> None:
        """Give back the idle connections."""
        self._connections.close()

    def _ask_for_url(self) -> Answer:
        """GET /upload/; a refused token is renewed once, by whoever sees it first."""
        signed = self._signed()
        answer = self._get_upload(signed)
        if answer.status in (401, 403):
            renewed = self._signed(signed.get("Authorization", ""), answer.status)
            if renewed != signed:
                answer = self._get_upload(renewed)
        return answer

    def _signed(self, refused: str = "", http_status: int = 401) -> dict[str, str]:
        """The headers that sign in; `refused`: the Authorization that the API has just refused so."""
        authorization = self._credentials.authorization(refused, http_status)
        token = {"Authorization": authorization} if authorization else {}
        return token | (self._api_key.headers() if self._api_key else {})

    def _get_upload(self, signed: Mapping[str, str]) -> Answer:
        headers = {"Accept": "application/json", "Cache-Control": "no-store", **signed}
        return self._connections.send("GET", self._upload, headers)

    def _check_host(self, url: httpx.URL) -> None:
        origin = (url.scheme, url.host)
        if origin in self._permitted:
            return
        objection = why_not(
            url.scheme,
            url.host,
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

    def _put_fault(self, answer: Answer, ticket: Ticket) -> Fault:
        status, text = answer.status, answer.text()
        code = error_code(text)
        kind = kind_of_answer(status, code, text)
        if kind is None and status in (400, 403) and not ticket.lives(self._clock()):
            kind = FaultKind.EXPIRED
        kind = kind or (FaultKind.REFUSED if status == 403 else FaultKind.REJECTED)
        unsent = unsent_headers(ticket.url.params.multi_items(), _SENT)
        what = f"the object store answered {status} {code}".rstrip()
        return Fault(kind, what, status, answer.retry_after_s(), code, advice(code, kind, unsent))


def _bearer_error(answer: Answer) -> str:
    """What is wrong with the token, by the words of RFC 6750, 3.1; empty when the API does not say."""
    found = _BEARER_ERROR.search(answer.headers.get("www-authenticate", ""))
    return found.group(1) if found else ""


def _key_and_url(answer: Answer) -> tuple[str, httpx.URL]:
    try:
        text, key = url_and_key(answer.body, answer.coding)
        return key, _url_of(key, text)
    except WrongAnswerError as wrong:
        raise Fault(FaultKind.PRESIGN, what_is_wrong(wrong.word), answer.status, detail=wrong.word) from None


def _url_of(key: str, text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
        host = url.host
    except (httpx.InvalidURL, UnicodeError):  # of IDNA
        raise WrongAnswerError("bad_url") from None
    if not host:
        raise WrongAnswerError("bad_url")
    raw_path = url.raw_path.partition(b"?")[0].decode("ascii")
    if not leads_to(key, raw_path, url.path, url.fragment):
        raise WrongAnswerError("unquoted_key")
    return url


def expiry(url: httpx.URL) -> float:
    """When a presigned URL ends, in Unix seconds of the server's clock; infinity when it does not say.

    SigV4 has X-Amz-Date and X-Amz-Expires (seconds), SigV2 and others have Expires (Unix seconds).
    """
    query = {name.lower(): value for name, value in url.params.items()}
    try:
        if "x-amz-date" in query and "x-amz-expires" in query:
            signed = datetime.strptime(query["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return signed.timestamp() + int(query["x-amz-expires"])
        return float(int(query["expires"]))
    except (KeyError, ValueError, OverflowError):
        return float("inf")
