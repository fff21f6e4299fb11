"""The client against a far side: what it sends, what it makes of each answer, and how it reads an expiry."""

import asyncio
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any
from urllib.parse import urlencode

import pycurl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.checksums import Evidence
from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import LIMITS, MAX_ANSWER_BYTES, Answer, Limits
from tasks.core.http_messages import Request as Exchanged
from tasks.core.models import Digests, Header, Rejected
from tasks.remote.credentials import StaticToken
from tasks.remote.curl_engine import Engine
from tasks.remote.curl_handle import Handle
from tasks.remote.tls import TlsPolicy
from tasks.remote.upload_api import PresignedUrl, Stored, UploadClient, expiry
from tests.far_side import (
    TOKEN,
    Deviation,
    FarSide,
    Minted,
    Reply,
    Request,
    Reset,
    Step,
    StoredAs,
    all_good,
    always,
    s3_error,
    scripted,
    status,
)
from tests.proxy import API, running_proxy

BODY = b"not much of an image"
MD5 = hashlib.md5(BODY).hexdigest()
HEADER = Header("1.2.3", "1.2", "1.2.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")


@dataclass(slots=True)
class Bytes:
    """A small file's content, or one that comes in pieces."""

    data: bytes = BODY
    pieces: Callable[[], Iterator[bytes]] | None = None
    digests: Digests | None = None
    header: Header = HEADER
    mtime_ns: int = 0
    ctime_ns: int = 0
    held_bytes: int = 0
    rejected: Rejected | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def body(self, *, with_md5: bool = False) -> bytes | Iterator[bytes]:
        return self.pieces() if self.pieces else self.data

    def compute_digests(self, *, with_md5: bool = False) -> Digests:
        return Digests(hashlib.sha256(self.data).hexdigest(), hashlib.md5(self.data).hexdigest())

    def close(self) -> None:
        """Holds no file."""


class Client:
    """An UploadClient and its engine, for who is no coroutine."""

    def __init__(self, endpoint: str, token: str, engine: type[Engine] = Engine, **more: Any) -> None:
        async def opened() -> UploadClient:
            return UploadClient(endpoint, StaticToken(token), engine(TlsPolicy()), **more)

        self._runner = asyncio.Runner()
        self._client = self._runner.run(opened())

    def presign(self) -> PresignedUrl:
        return self._runner.run(self._client.presign())

    def send(self, to: PresignedUrl, content: Bytes) -> Stored:
        return self._runner.run(self._client.put(to, content, with_md5=True))

    def put(self, to: PresignedUrl) -> Stored:
        """A file that was hashed before."""
        content = Bytes()
        content.digests = content.compute_digests()
        return self.send(to, content)

    def close(self) -> None:
        async def close() -> None:
            self._client.close()

        self._runner.run(close())
        self._runner.close()


class Impatient(Engine):
    """Waits for no silent server."""

    async def send(self, request: Exchanged, limits: Limits = LIMITS, *, is_paced: bool = False) -> Answer:
        return await super().send(request, replace(limits, silence_s=0.3))

    async def send_streamed(self, *arguments: Any, **more: Any) -> Answer:
        return await super().send_streamed(*arguments, limits=replace(LIMITS, silence_s=0.3), **more)


Open = Callable[..., Client]


@pytest.fixture
def opened(far_side: FarSide) -> Iterator[Open]:
    """`opened(...)`: a client of the far side; closed at the end."""
    clients: list[Client] = []

    def open_client(endpoint: str = far_side.url, token: str = TOKEN, **more: Any) -> Client:
        clients.append(Client(endpoint, token, **more))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


@pytest.fixture
def client(opened: Open) -> Client:
    return opened()


def kind_of(request: Callable[[], object]) -> FaultKind:
    with pytest.raises(Fault) as raised:
        request()
    return raised.value.kind


def bearer(challenge: str) -> Reply:
    return Reply(401, headers={"WWW-Authenticate": challenge})


def detail_of(request: Callable[[], object]) -> str:
    with pytest.raises(Fault) as raised:
        request()
    assert not re.search("jane|doe|archive|113619", str(raised.value), re.IGNORECASE)
    return raised.value.detail


class TestPresign:
    def test_gives_a_url_with_its_key_and_its_end(self, client: Client, far_side: FarSide) -> None:
        """The end as the URL says it, by our clock."""
        presigned = client.presign()
        assert far_side.keys_handed_out == {presigned.key}
        assert presigned.key in presigned.url
        assert presigned.expires_at == pytest.approx(time.time() + 900, abs=3)
        assert presigned.url not in repr(presigned)

    def test_asks_as_the_api_wants_it(self, opened: Open, far_side: FarSide) -> None:
        """With the token, and for no answer out of a cache; a slash at the endpoint's end is no matter."""
        opened(endpoint=f"{far_side.url}/").presign()
        (asked,) = far_side.asked(Step.PRESIGN)
        assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
        assert asked.headers["Cache-Control"] == "no-store"
        assert asked.headers["Accept"] == "application/json"

    def test_without_a_token_sends_no_header_for_it(self, opened: Open, far_side: FarSide) -> None:
        """Not even an empty one."""
        assert kind_of(opened(token="").presign) is FaultKind.UNAUTHORIZED
        assert "Authorization" not in far_side.asked(Step.PRESIGN)[0].headers

    @pytest.mark.parametrize("skew_s", [-86_400, 86_400])
    def test_learns_how_the_servers_clock_differs(
        self, client: Client, far_side: FarSide, skew_s: float
    ) -> None:
        """From the Date header: a day of difference neither kills a URL nor keeps it alive."""
        far_side.clock_skew_s = skew_s
        presigned = client.presign()
        assert presigned.expires_at == pytest.approx(time.time() + 900, abs=3)
        assert client.put(presigned).http_status == 200

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (Reset(), FaultKind.NETWORK),
            (status(429), FaultKind.THROTTLED),
            (status(503), FaultKind.THROTTLED),
            (status(408), FaultKind.SERVER),
            (status(500), FaultKind.SERVER),
            (status(502), FaultKind.SERVER),
            (status(504), FaultKind.SERVER),
            (status(507), FaultKind.SERVER),
            (status(401), FaultKind.UNAUTHORIZED),
            (status(403), FaultKind.FORBIDDEN),
            (status(400), FaultKind.SETTINGS),
            (status(404), FaultKind.SETTINGS),
            (status(410), FaultKind.SETTINGS),
            (status(422), FaultKind.SETTINGS),
            (Reply(302, headers={"Location": "/login"}), FaultKind.SETTINGS),
            (Reply(200, b""), FaultKind.PRESIGN),
            (Reply(200, b"<html></html>"), FaultKind.PRESIGN),
            (Reply(200, b'"text"'), FaultKind.PRESIGN),
            (Reply(200, b"null"), FaultKind.PRESIGN),
            (Reply(200, b'{"url": "http://127.0.0.1/"}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "k"}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": 1, "url": "http://127.0.0.1/"}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "k", "url": 1}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "", "url": "http://127.0.0.1/"}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "a\\nb", "url": "http://127.0.0.1/"}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "\\ud800", "url": "http://127.0.0.1/"}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "%s", "url": "http://127.0.0.1/"}' % (b"k" * 1025)), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "k", "url": "http://["}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "k", "url": ""}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "k", "url": "/relative"}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "k", "url": "https://user:password@127.0.0.1/"}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "k", "url": "ftp://127.0.0.1/"}'), FaultKind.PRESIGN),
            (Reply(200, b'{"key": "k", "url": "http://10.0.0.7/"}'), FaultKind.SETTINGS),
            (Minted(host="storage.example.org"), FaultKind.SETTINGS),
            (Reply(200, b"[" * 60_000), FaultKind.PRESIGN),
            (Reply(200, b" " * (MAX_ANSWER_BYTES + 1)), FaultKind.PRESIGN),
        ],
    )
    def test_that_does_not_work_is_a_fault_of_its_kind(
        self, client: Client, far_side: FarSide, answer: Deviation, kind: FaultKind
    ) -> None:
        """As DESIGN.md section 7 groups them; whatever comes is a fault, never another exception."""
        far_side.script = scripted((Step.PRESIGN, 1, answer))
        assert kind_of(client.presign) is kind
        assert client.presign().key

    @pytest.mark.parametrize(
        ("answer", "detail"),
        [
            (Reply(200, b""), "empty_answer"),
            (Reply(200, b" <html>Jane Doe</html>"), "html_answer"),
            (Reply(200, b"Jane Doe"), "no_json"),
            (Reply(200, b"[]"), "no_json_object"),
            (Reply(200, b"{}"), "no_url_no_key"),
            (Reply(200, b'{"key": "k"}'), "no_url"),
            (Reply(200, b'{"url": "http://127.0.0.1/"}'), "no_key"),
            (Reply(200, b'{"key": "k", "url": "/relative"}'), "bad_url"),
            (Reply(200, b'{"key": "", "url": "http://127.0.0.1/"}'), "bad_key"),
            (bearer('Bearer realm="Jane", error="invalid_token", error_description="Jane"'), "invalid_token"),
            (bearer("Bearer error=insufficient_scope"), "insufficient_scope"),
            (bearer('Bearer error="jane_doe"'), ""),
            (bearer('Bearer error_description="invalid_token"'), ""),
            (status(500), ""),
            (Reset(), ""),
        ],
    )
    def test_that_does_not_work_says_why_in_a_closed_form(
        self, client: Client, far_side: FarSide, answer: Deviation, detail: str
    ) -> None:
        """The shape of the answer, or RFC 6750's word; nothing of the answer's own text."""
        far_side.script = always(Step.PRESIGN, answer)
        assert detail_of(client.presign) == detail

    def test_never_follows_a_redirect(self, client: Client, far_side: FarSide) -> None:
        """The token would go along."""
        with FarSide() as elsewhere:
            headers = {"Location": f"{elsewhere.url}/upload/"}
            far_side.script = always(Step.PRESIGN, Reply(307, headers=headers))
            assert kind_of(client.presign) is FaultKind.SETTINGS
            assert elsewhere.requests == []

    def test_refuses_a_url_to_a_host_that_is_not_allowed(self, opened: Open, far_side: FarSide) -> None:
        """Before a byte goes there."""
        allowing = opened(storage_hosts=["127.0.0.*"])
        assert allowing.presign().key
        assert kind_of(opened(storage_hosts=["*.amazonaws.com"]).presign) is FaultKind.SETTINGS
        far_side.script = always(Step.PRESIGN, Minted(host="127.0.0.2:1"))
        assert allowing.presign().key
        far_side.script = always(Step.PRESIGN, Minted(host="127.1.0.2:1"))
        assert kind_of(allowing.presign) is FaultKind.SETTINGS

    @pytest.mark.parametrize("code", [429, 503])
    def test_tells_how_long_the_server_asks_to_wait(
        self, client: Client, far_side: FarSide, code: int
    ) -> None:
        """Retry-After in seconds, or as a date; what is neither counts for nothing."""
        waits = []
        for value in ("7", formatdate(time.time() + 100, usegmt=True), "soon", "-3", ""):
            far_side.script = always(Step.PRESIGN, status(code, retry_after=value))
            with pytest.raises(Fault) as raised:
                client.presign()
            waits.append(raised.value.retry_after_s)
        assert waits == [7, pytest.approx(100, abs=3), 0, 0, 0]

    def test_reads_a_retry_after_date_by_the_servers_clock(self, client: Client, far_side: FarSide) -> None:
        """A date and a clock that differ from ours by the same hour ask for a short wait all the same."""
        far_side.clock_skew_s = 3600
        date = formatdate(time.time() + 3600 + 5, usegmt=True)
        far_side.script = always(Step.PRESIGN, status(503, retry_after=date))
        with pytest.raises(Fault) as raised:
            client.presign()
        assert raised.value.retry_after_s == pytest.approx(5, abs=3)


class TestPut:
    def test_stores_the_bytes(self, client: Client, far_side: FarSide) -> None:
        """With what S3 wants to know, and without the token."""
        presigned = client.presign()
        assert client.put(presigned) == Stored(200, MD5, Evidence(md5=MD5), with_content_md5=True)
        assert far_side.objects == {presigned.key: [BODY]}
        (sent,) = far_side.asked(Step.PUT)
        assert (sent.headers["Content-Length"], sent.md5) == (str(len(BODY)), MD5)
        assert sent.headers["Content-Type"] == "application/dicom"
        assert "Authorization" not in sent.headers

    def test_of_an_iterator_is_not_chunked(self, client: Client, far_side: FarSide) -> None:
        """S3 refuses chunked presigned PUTs."""
        presigned = client.presign()
        client.send(presigned, Bytes(pieces=lambda: iter([BODY[:5], BODY[5:]])))
        (sent,) = far_side.asked(Step.PUT)
        assert far_side.bodies == {presigned.key: BODY}
        assert (sent.headers["Content-Length"], sent.headers["Transfer-Encoding"]) == (str(len(BODY)), None)

    def test_to_an_older_url_sends_no_digest(self, client: Client, far_side: FarSide) -> None:
        """A SigV2 signature would have to cover it."""
        presigned = client.presign()
        signed = f"AWSAccessKeyId=x&Expires={int(time.time()) + 9}&Signature=y"
        url = f"{far_side.url}/bucket/{presigned.key}?{signed}"
        kind_of(lambda: client.put(replace(presigned, url=url)))
        assert far_side.asked(Step.PUT)[0].md5 == ""

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (Reset(), FaultKind.NETWORK),
            (Reset(stored=True), FaultKind.NETWORK),
            (s3_error(400, "RequestTimeout"), FaultKind.NETWORK),
            (status(429), FaultKind.THROTTLED),
            (status(503), FaultKind.THROTTLED),
            (s3_error(503, "SlowDown"), FaultKind.THROTTLED),
            (s3_error(400, "SlowDown"), FaultKind.THROTTLED),
            (status(408), FaultKind.SERVER),
            (s3_error(500, "InternalError"), FaultKind.SERVER),
            (status(502), FaultKind.SERVER),
            (status(504), FaultKind.SERVER),
            (s3_error(403, "AccessDenied", "Request has expired"), FaultKind.EXPIRED),
            (s3_error(400, "AccessDenied", "Request has expired"), FaultKind.EXPIRED),
            (s3_error(400, "ExpiredToken"), FaultKind.EXPIRED),
            (s3_error(403, "AccessDenied"), FaultKind.REFUSED),
            (s3_error(403, "SignatureDoesNotMatch"), FaultKind.REFUSED),
            (status(403), FaultKind.REFUSED),
            (s3_error(400, "InvalidRequest"), FaultKind.REJECTED),
            (s3_error(404, "NoSuchBucket"), FaultKind.REJECTED),
            (s3_error(411, "MissingContentLength"), FaultKind.REJECTED),
            (s3_error(412, "PreconditionFailed"), FaultKind.REJECTED),
            (Reply(302, headers={"Location": "http://127.0.0.1:1/"}), FaultKind.REJECTED),
            (s3_error(400, "BadDigest"), FaultKind.INTEGRITY),
        ],
    )
    def test_that_does_not_work_is_a_fault_of_its_kind(
        self, client: Client, far_side: FarSide, answer: Deviation, kind: FaultKind
    ) -> None:
        """As DESIGN.md section 7 groups them; the connection, or another, serves on."""
        presigned = client.presign()
        far_side.script = always(Step.PUT, answer)
        assert kind_of(lambda: client.put(presigned)) is kind
        far_side.script = all_good
        assert client.put(presigned).http_status == 200

    @pytest.mark.parametrize(
        ("answer", "detail"),
        [
            (s3_error(403, "AccessDenied"), "AccessDenied"),
            (s3_error(403, "AccessDenied", "Request has expired"), "AccessDenied"),
            (s3_error(503, "SlowDown"), "SlowDown"),
            (s3_error(400, "XAmzContentSHA256Mismatch"), "XAmzContentSHA256Mismatch"),
            (s3_error(400, "A" * 64), "A" * 64),
            (s3_error(400, "A" * 65), ""),
            (s3_error(400, "accessDenied"), ""),
            (s3_error(400, "1.2.840.113619"), ""),
            (s3_error(400, "/archive/Doe"), ""),
            (s3_error(400, "Doe^Jane"), ""),
            (s3_error(400, "Doe_Jane"), ""),
            (s3_error(400, "Müller"), ""),
            (status(403), ""),
            (Reset(), ""),
        ],
    )
    def test_that_does_not_work_says_s3_s_code_if_it_is_one(
        self, client: Client, far_side: FarSide, answer: Deviation, detail: str
    ) -> None:
        """Letters and digits, 64 at most; what else a server writes there is nobody's business."""
        presigned = client.presign()
        far_side.script = always(Step.PUT, answer)
        assert detail_of(lambda: client.put(presigned)) == detail

    @pytest.mark.parametrize("stored", [False, True])
    def test_whose_connection_ends_is_not_sent_again_behind_our_back(
        self, client: Client, far_side: FarSide, stored: bool
    ) -> None:
        """It may be stored: what follows is up to who counts the attempts."""
        presigned = client.presign()
        far_side.script = always(Step.PUT, Reset(stored=stored))
        assert kind_of(lambda: client.put(presigned)) is FaultKind.NETWORK
        assert len(far_side.asked(Step.PUT)) == 1

    def test_of_other_bytes_than_were_hashed_is_refused(self, client: Client, far_side: FarSide) -> None:
        """Content-MD5 goes with the bytes: the store compares."""
        presigned = client.presign()
        other = Bytes(digests=Digests("0" * 64, "0" * 32))
        assert kind_of(lambda: client.send(presigned, other)) is FaultKind.INTEGRITY
        assert far_side.objects == {}

    def test_to_a_dead_url_is_not_sent(self, client: Client, far_side: FarSide) -> None:
        """It would be refused after all bytes went out."""
        presigned = client.presign()
        dead = replace(presigned, expires_at=time.time() - 1)
        assert kind_of(lambda: client.put(dead)) is FaultKind.EXPIRED
        assert far_side.asked(Step.PUT) == []

    def test_403_for_a_url_that_died_meanwhile_is_expired(self, opened: Open, far_side: FarSide) -> None:
        """Whatever the store calls it."""
        seconds = iter([0.0, 0.0])  # when the URL comes, and before it is used
        client = opened(clock=lambda: time.time() + next(seconds, 1000.0))
        presigned = client.presign()
        far_side.script = always(Step.PUT, s3_error(403, "AccessDenied"))
        assert kind_of(lambda: client.put(presigned)) is FaultKind.EXPIRED
        assert len(far_side.asked(Step.PUT)) == 1

    @pytest.mark.parametrize(
        ("answer", "etag", "evidence"),
        [
            (StoredAs(f'"{MD5}"'), MD5, Evidence(md5=MD5)),
            (StoredAs(MD5), MD5, Evidence(md5=MD5)),
            (StoredAs(f'"{MD5.upper()}"'), MD5.upper(), Evidence(md5=MD5)),
            (StoredAs(f'"{MD5}"', headers={"X-Amz-Server-Side-Encryption": "aws:kms"}), MD5, Evidence()),
            (StoredAs(f'"{MD5}-2"'), f"{MD5}-2", Evidence()),
            (StoredAs('"abc"'), "abc", Evidence()),
            (StoredAs(f'W/"{MD5}"'), f'W/"{MD5}', Evidence()),
            (StoredAs('""'), "", Evidence()),
            (StoredAs(None), "", Evidence()),
            (StoredAs(None, headers={"X-Amz-Request-Id": "4442587FB7D0A2F9"}), "", Evidence(is_s3=True)),
            (
                StoredAs(None, headers={"X-Amz-Checksum-CRC64NVME": "rosUhgp5mIg="}),
                "",
                Evidence("rosUhgp5mIg="),
            ),
        ],
    )
    def test_gives_what_the_answer_shows(
        self, client: Client, far_side: FarSide, answer: StoredAs, etag: str, evidence: Evidence
    ) -> None:
        """However a server writes the names; the ETag is recorded as it is."""
        far_side.script = always(Step.PUT, answer)
        assert client.put(client.presign()) == Stored(200, etag, evidence, with_content_md5=True)

    def test_without_content_md5_says_so(self, client: Client) -> None:
        """What is hashed while it is sent."""
        assert not client.send(client.presign(), Bytes()).with_content_md5

    def test_is_done_with_any_2xx(self, client: Client, far_side: FarSide) -> None:
        """Stores differ."""
        for code in (200, 201, 202, 204):
            far_side.script = always(Step.PUT, StoredAs(None, status=code))
            assert client.put(client.presign()).http_status == code

    def test_passes_on_what_the_body_raises(self, client: Client, far_side: FarSide) -> None:
        """A file that changes while it is sent; the next request is none the worse."""

        def body() -> Iterator[bytes]:
            yield BODY[:5]
            raise Fault(FaultKind.CHANGED, "the file changed")

        presigned = client.presign()
        assert kind_of(lambda: client.send(presigned, Bytes(pieces=body))) is FaultKind.CHANGED
        assert client.put(presigned).http_status == 200
        assert far_side.objects == {presigned.key: [BODY]}


class TestSilence:
    """What time-outs are for; test_curl_engine.py has every kind of it."""

    def test_is_a_network_fault(self, opened: Open, far_side: FarSide, let_go: threading.Event) -> None:
        """The server has the request and says nothing."""
        client = opened(engine=Impatient)
        presigned = client.presign()
        assert kind_of(lambda: client.put(presigned)) is FaultKind.NETWORK

    def test_does_not_bound_a_transfer_that_goes_on(self, opened: Open, far_side: FarSide) -> None:
        """However long a large file takes."""

        def body() -> Iterator[bytes]:
            for byte in BODY:
                time.sleep(0.03)
                yield bytes([byte])

        client = opened(engine=Impatient)
        assert client.send(client.presign(), Bytes(pieces=body)).http_status == 200


class TestExpiry:
    @pytest.mark.parametrize(
        ("query", "end"),
        [
            ("X-Amz-Date=20240229T120000Z&X-Amz-Expires=900", 1709208900),
            ("x-amz-expires=1&x-amz-date=19700101T000000Z", 1),
            ("AWSAccessKeyId=x&Expires=1709208900&Signature=y", 1709208900),
            ("X-Amz-Date=20240229T120000Z", float("inf")),
            ("X-Amz-Date=yesterday&X-Amz-Expires=900", float("inf")),
            ("X-Amz-Date=20240229T120000Z&X-Amz-Expires=soon", float("inf")),
            ("Expires=Thu", float("inf")),
            ("", float("inf")),
        ],
    )
    def test_is_what_the_url_says(self, query: str, end: float) -> None:
        """SigV4's two parameters, or the older one; without either the URL is tried until it is refused."""
        assert expiry(f"https://example.org/key?{query}") == end

    @given(st.text(), st.text())
    def test_of_any_text_is_a_number(self, date: str, lifetime: str) -> None:
        """A URL comes from outside: nothing in it makes a run fail, and none of it is 'not a number'."""
        for query in ({"X-Amz-Date": date, "X-Amz-Expires": lifetime}, {"Expires": lifetime}):
            url = f"https://example.org/key?{urlencode(query, errors='surrogatepass')}"
            assert expiry(url) == expiry(url)

    @pytest.mark.parametrize("value", ["nan", "NaN", "-nan"])
    def test_is_never_not_a_number(self, value: str) -> None:
        """It would be neither alive nor dead."""
        assert expiry(f"https://example.org/key?Expires={value}") == float("inf")


class TestRedirect:
    """The object store may name another host of its own, as S3 does for a bucket in another region."""

    @pytest.fixture
    def elsewhere(self) -> Iterator[FarSide]:
        with FarSide() as elsewhere:
            yield elsewhere

    @staticmethod
    def moved(code: int, to: FarSide) -> Callable[[Request], Deviation | None]:
        def script(request: Request) -> Deviation | None:
            url = json.loads(to.mint(Minted(key=request.key)).body)["url"]
            return Reply(code, headers={"Location": url}) if request.step is Step.PUT else None

        return script

    @pytest.mark.parametrize("code", [307, 308])
    def test_that_keeps_the_method_is_followed(
        self, client: Client, far_side: FarSide, elsewhere: FarSide, code: int
    ) -> None:
        """With the whole body, and without the bearer token."""
        far_side.script = self.moved(code, elsewhere)
        presigned = client.presign()
        client.put(presigned)
        assert elsewhere.bodies == {presigned.key: BODY}
        assert far_side.objects == {}
        assert all("Authorization" not in request.headers for request in elsewhere.asked(Step.PUT))

    @pytest.mark.parametrize("code", [301, 302, 303])
    def test_that_may_change_the_method_is_refused(
        self, client: Client, far_side: FarSide, elsewhere: FarSide, code: int
    ) -> None:
        far_side.script = self.moved(code, elsewhere)
        assert kind_of(lambda: client.put(client.presign())) is FaultKind.REJECTED
        assert elsewhere.requests == []

    def test_to_a_host_that_is_not_allowed_is_refused(self, opened: Open, far_side: FarSide) -> None:
        """The settings are wrong, or somebody in between is."""
        client = opened(storage_hosts=["127.0.0.1"])
        presigned = client.presign()
        far_side.script = always(Step.PUT, Reply(307, headers={"Location": "https://elsewhere.example/key"}))
        assert kind_of(lambda: client.put(presigned)) is FaultKind.SETTINGS

    @pytest.mark.parametrize("location", ["https://exa mple/key", "https://[/key", "ftp://127.0.0.1/key"])
    def test_to_what_is_no_address_is_the_files_own_trouble(
        self, client: Client, far_side: FarSide, location: str
    ) -> None:
        presigned = client.presign()
        far_side.script = always(Step.PUT, Reply(307, headers={"Location": location}))
        assert kind_of(lambda: client.put(presigned)) is FaultKind.REJECTED

    def test_without_end_is_given_up(self, client: Client, far_side: FarSide) -> None:
        far_side.script = self.moved(307, far_side)
        assert kind_of(lambda: client.put(client.presign())) is FaultKind.REJECTED
        assert len(far_side.asked(Step.PUT)) == 4


class TestHost:
    @pytest.mark.parametrize(
        "host", ["10.0.0.7", "localhost.", "[64:ff9b::10.0.0.7]", "[::ffff:a00:7]", "0xa.7"]
    )
    @pytest.mark.parametrize(
        ("endpoint", "hosts", "is_permitted"),
        [
            ("https://api.example.org", (), False),
            ("https://api.example.org", ("{host}",), True),
            ("https://api.example.org", ("*",), False),
            ("https://10.0.0.1", (), True),
        ],
    )
    def test_is_in_no_private_network_when_the_api_is_public(
        self, opened: Open, host: str, endpoint: str, hosts: tuple[str, ...], is_permitted: bool
    ) -> None:
        """Or the API could make us send images to any machine of our own network; the operator may."""
        answer = json.dumps({"url": f"https://{host}/bucket/key?X-Amz-Signature=x", "key": "key"}).encode()

        class Canned(Engine):
            async def send(
                self, request: Exchanged, limits: Limits = LIMITS, *, is_paced: bool = False
            ) -> Answer:
                return Answer(200, {}, answer)

        client = opened(endpoint, engine=Canned, storage_hosts=[each.format(host=host) for each in hosts])
        if is_permitted:
            assert client.presign().key == "key"
        else:
            assert kind_of(client.presign) is FaultKind.SETTINGS


class Resolving(Engine):
    """Knows the API by name on this machine, and the store by name on another of these networks."""

    addresses = "127.0.0.1", "127.0.0.2"  # of the API, of the store

    def _new_handle(self, kind: Any) -> Handle:
        handle, port = super()._new_handle(kind), kind[1].port
        names = zip(("api.example.org", "store.example.org"), self.addresses, strict=True)
        handle.curl.setopt(pycurl.RESOLVE, [f"{name}:{port}:{address}" for name, address in names])
        return handle


class TestPlainHttpToAName:
    """What the store's name leads to is known when the connection is made, and no sooner."""

    @pytest.fixture
    def named(self, opened: Open, far_side: FarSide, monkeypatch: pytest.MonkeyPatch) -> Client:
        port = far_side.url.rpartition(":")[2]
        monkeypatch.setenv("no_proxy", "*")
        far_side.script = lambda request: (
            Minted(host=f"store.example.org:{port}") if request.step is Step.PRESIGN else None
        )
        return opened(f"http://api.example.org:{port}", engine=Resolving, allow_http=True)

    def test_in_the_network_of_the_api_is_permitted(
        self, named: Client, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As services of one compose file are."""
        monkeypatch.setattr(Resolving, "addresses", ("127.0.0.1", "127.0.0.1"))
        named.put(named.presign())
        assert list(far_side.bodies.values()) == [BODY]

    @pytest.mark.parametrize("is_in_pieces", [False, True])
    def test_in_a_private_network_is_refused_when_the_api_is_public(
        self, named: Client, far_side: FarSide, monkeypatch: pytest.MonkeyPatch, is_in_pieces: bool
    ) -> None:
        """Before a byte of the request is sent."""
        for module in ("upload_api", "curl_handle"):
            monkeypatch.setattr(f"tasks.remote.{module}.is_private", "127.0.0.2".__eq__)
        with socket.create_server(("127.0.0.2", int(far_side.url.rpartition(":")[2]))) as store:
            url = named.presign()
            sent = Bytes(pieces=lambda: iter([BODY])) if is_in_pieces else Bytes()
            with pytest.raises(Fault, match="private network") as fault:
                named.send(url, sent)
            connection, _ = store.accept()
            connection.settimeout(10)
            assert (fault.value.kind, connection.recv(100)) == (FaultKind.SETTINGS, b"")
            connection.close()

    def test_that_is_permitted_by_its_very_name_may_be_in_any_network(
        self, opened: Open, named: Client, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever names it knows where it is."""
        monkeypatch.setattr(Resolving, "addresses", ("127.0.0.1", "127.0.0.1"))
        monkeypatch.setattr("tasks.remote.curl_handle.is_private", "127.0.0.1".__eq__)
        monkeypatch.setattr("tasks.remote.upload_api.is_private", lambda _host: False)
        api = f"http://api.example.org:{far_side.url.rpartition(':')[2]}"
        hosts = {"*.example.org": False, "store.example.org": True}
        for host, is_permitted in hosts.items():
            client = opened(api, engine=Resolving, allow_http=True, storage_hosts=[host])
            with nullcontext() if is_permitted else pytest.raises(Fault, match="private network"):
                client.put(client.presign())
        assert list(far_side.bodies.values()) == [BODY]

    def test_through_a_proxy_is_the_proxys_business(
        self, opened: Open, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It resolves names itself; its own address says nothing of either."""
        with running_proxy() as proxy:
            proxy.answer_to_get = lambda: far_side.mint(Minted(host="store.example.org")).body
            monkeypatch.setenv("http_proxy", proxy.url)
            client = opened(API, allow_http=True)
            client.put(client.presign())
            assert proxy.asked == ["api.example.org", "store.example.org"]
