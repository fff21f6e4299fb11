"""Objects read by presigned URLs: at rclone's S3 endpoint, and at one that answers as a test says."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from tasks.bucket_settings import BucketAddress
from tasks.core.errors import Fault, FaultKind
from tasks.remote.bucket import Bucket, open_bucket
from tasks.remote.bucket_faults import AlteredError, GoneError
from tasks.remote.curl_engine import Engine
from tasks.remote.signed_reads import SignedReads
from tasks.remote.tls import TlsPolicy
from tests.object_store import ObjectStore, object_store
from tests.raw_server import RawServer, reply
from tests.tasks.remote.test_bucket import ODD_KEYS

BODY = bytes(range(256)) * 200


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def bucket(store: ObjectStore) -> Bucket:
    return open_bucket(BucketAddress(store.address.split("/")[2]))


def read(bucket: Bucket, key: str, etag: str, size_bytes: int) -> bytes | None:
    async def play() -> bytes | None:
        engine = Engine(TlsPolicy())
        try:
            return await SignedReads(bucket, engine).read(bucket.signed_url(key), etag, size_bytes)
        finally:
            engine.close()

    return asyncio.run(play())


class TestRealStore:
    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_the_bytes_are_those_of_the_key(self, key: str, bucket: Bucket, store: ObjectStore) -> None:
        store.put(key, BODY + key.encode())
        etag = getattr(bucket.head(key), "etag", "")
        assert etag
        assert read(bucket, key, etag, len(BODY) + len(key.encode())) == BODY + key.encode()

    def test_what_is_gone_or_altered_is_said(self, bucket: Bucket, store: ObjectStore) -> None:
        key = store.put("one", BODY)
        etag = getattr(bucket.head(key), "etag", "")
        store.put("one", BODY[::-1])
        with pytest.raises(AlteredError):
            read(bucket, key, etag, len(BODY))
        with pytest.raises(AlteredError):
            read(bucket, key, "", len(BODY) - 1)
        store.remove(key)
        with pytest.raises(GoneError):
            read(bucket, key, etag, len(BODY))

    def test_a_url_is_signed_by_version_4_wherever_the_bucket_is(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By itself boto3 takes version 2 in the oldest regions, which no new bucket takes."""
        for region in ("us-east-1", "eu-west-1", "eu-central-1", "elsewhere"):
            monkeypatch.setenv("AWS_DEFAULT_REGION", region)
            monkeypatch.setenv("AWS_REGION", region)
            assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in open_bucket(bucket.address).signed_url("k")

    def test_a_signature_that_the_store_refuses_is_for_boto3(
        self, bucket: Bucket, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = store.put("one", BODY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        assert read(open_bucket(bucket.address), key, "", len(BODY)) is None


def answered(answer: bytes) -> bytes | None:
    """What is read of an object of four bytes, with the ETag "e", when this is the answer."""
    server = RawServer(reply(answer))
    client: Any = SimpleNamespace(generate_presigned_url=lambda *_, **__: f"{server.url}k?X-Signature=secret")
    try:
        return read(Bucket(BucketAddress("bucket"), client), "k", "e", 4)
    finally:
        server.close()


def http(status: str, body: bytes = b"", *lines: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""])
    return head.encode() + body


def error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>of patient/key</Message></Error>".encode()


class TestAnswers:
    def test_the_object_with_its_etag_or_without_any(self) -> None:
        assert answered(http("200 OK", b"data", 'ETag: "e"')) == b"data"
        assert answered(http("200 OK", b"data")) == b"data"

    def test_bytes_are_taken_as_they_are_stored(self) -> None:
        assert answered(http("200 OK", b"data", "Content-Encoding: gzip")) == b"data"

    @pytest.mark.parametrize(
        "answer",
        [
            http("200 OK", b"data", 'ETag: "another"'),
            http("200 OK", b"dat"),
            http("200 OK", b"longer"),
            http("204 No Content"),
            http("412 Precondition Failed", error("PreconditionFailed")),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndat\r\n0\r\n\r\n",
        ],
    )
    def test_another_object_is_not_taken(self, answer: bytes) -> None:
        with pytest.raises(AlteredError):
            answered(answer)

    @pytest.mark.parametrize("body", [error("NoSuchKey"), b""])
    def test_one_that_is_gone(self, body: bytes) -> None:
        with pytest.raises(GoneError):
            answered(http("404 Not Found", body))

    @pytest.mark.parametrize(
        ("answer", "kind", "wait_s"),
        [
            (http("503 Slow Down", error("SlowDown"), "Retry-After: 7"), FaultKind.THROTTLED, 7),
            (http("429 Too Many"), FaultKind.THROTTLED, 0),
            (http("400 Bad Request", error("SlowDown")), FaultKind.THROTTLED, 0),
            (http("500 Error", error("InternalError")), FaultKind.SERVER, 0),
            (http("400 Bad Request", error("RequestTimeout")), FaultKind.NETWORK, 0),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nda", FaultKind.NETWORK, 0),
            (b"", FaultKind.NETWORK, 0),
        ],
    )
    def test_trouble_that_may_pass_is_a_fault(self, answer: bytes, kind: FaultKind, wait_s: float) -> None:
        with pytest.raises(Fault) as caught:
            answered(answer)
        assert (caught.value.kind, caught.value.retry_after_s) == (kind, wait_s)
        assert "secret" not in str(caught.value)
        assert "patient" not in f"{caught.value} {caught.value.detail}"

    @pytest.mark.parametrize(
        "answer",
        [
            http("301 Moved", error("PermanentRedirect")),
            http("400 Bad Request", error("AuthorizationHeaderMalformed")),
            http("403 Forbidden", error("AccessDenied")),
            http("403 Forbidden"),
            http("401 Unauthorized"),
            http("404 Not Found", error("NoSuchBucket")),
        ],
    )
    def test_what_may_be_the_signature_s_fault_is_for_boto3(self, answer: bytes) -> None:
        assert answered(answer) is None

    def test_an_address_that_the_engine_does_not_ask_is_for_boto3(self) -> None:
        client: Any = SimpleNamespace(generate_presigned_url=lambda *_, **__: "nowhere:/k")
        assert read(Bucket(BucketAddress("bucket"), client), "k", "e", 4) is None


def test_a_client_that_can_not_sign_is_not_asked_to() -> None:
    client: Any = SimpleNamespace()
    assert not Bucket(BucketAddress("bucket"), client).signs
    assert Bucket(BucketAddress("bucket"), boto3.session.Session().client("s3", "us-east-1")).signs
