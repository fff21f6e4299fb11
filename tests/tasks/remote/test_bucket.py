"""A bucket as it is listed, read, tagged and emptied: at rclone's S3 endpoint, and with scripted answers."""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from botocore.response import StreamingBody

from deployments.sandbox.storage import BUCKET, serve_objects
from tasks.bucket_settings import BucketAddress
from tasks.core.errors import CredentialsRefusedError, Fault, FaultKind, UsageError
from tasks.core.pipeline_faults import Side, ending_at
from tasks.remote.bucket import PIECE_BYTES, Bucket, open_bucket
from tasks.remote.bucket_faults import AlteredError, GoneError

ODD_KEYS = ["a b+c%d", 'quote"<&>', "ü/é", "new\nline", "..y", "a/x", "a-b", "A"]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """rclone's, in boto3's environment. It does not see what is put into its folder behind its back."""
    data_dir = tmp_path_factory.mktemp("store")
    with serve_objects(data_dir) as endpoint, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL_S3", endpoint.url)
        patched.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key_id)
        patched.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_access_key)
        patched.setenv("AWS_REGION", "us-east-1")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield


class Store:
    """The bucket, as whoever uploads has it."""

    def __init__(self) -> None:
        self._client = boto3.session.Session().client("s3")
        for page in open_bucket(BucketAddress(BUCKET)).listing():
            for each in page:
                self.remove(each.key)

    def put(self, key: str, body: bytes = b"hello") -> None:
        self._client.put_object(Bucket=BUCKET, Key=key, Body=body)

    def get(self, key: str) -> bytes:
        return bytes(self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture
def store(endpoint: None) -> Store:
    return Store()


@pytest.fixture
def bucket(store: Store) -> Bucket:
    return open_bucket(BucketAddress(BUCKET))


def keys(bucket: Bucket, after: str = "") -> list[str]:
    return [each.key for page in bucket.listing(after) for each in page]


class TestRealStore:
    def test_objects_are_listed_in_the_order_of_their_bytes_whatever_is_in_a_key(
        self, bucket: Bucket, store: Store
    ) -> None:
        for key in ODD_KEYS:
            store.put(key)
        assert keys(bucket) == sorted(ODD_KEYS, key=str.encode)

    def test_a_listing_goes_on_after_a_key(self, bucket: Bucket, store: Store) -> None:
        for key in ODD_KEYS:
            store.put(key)
        in_order = sorted(ODD_KEYS, key=str.encode)
        assert keys(bucket, after=in_order[3]) == in_order[4:]

    def test_a_listing_goes_on_also_after_a_key_that_is_gone(self, bucket: Bucket, store: Store) -> None:
        """rclone's begins anew then: what has been is left out."""
        for number in range(1010):
            store.put(f"{number:05}", b"")
        found: list[str] = []
        for page in bucket.listing("00004x"):
            found += [each.key for each in page]
            store.remove(found[-1])
        assert found == [f"{number:05}" for number in range(5, 1010)]

    def test_a_prefix_is_of_the_key_as_it_is_written(self, bucket: Bucket, store: Store) -> None:
        for key in ("in/one", "inside", "out"):
            store.put(key)
        assert keys(open_bucket(BucketAddress(BUCKET, "in/"))) == ["in/one"]
        assert keys(open_bucket(BucketAddress(BUCKET, "in"))) == ["in/one", "inside"]

    @pytest.mark.long
    def test_more_than_a_page_comes_in_pages_each_object_once(self, bucket: Bucket, store: Store) -> None:
        for number in range(2300):
            store.put(f"{number:05}", b"")
        pages = list(bucket.listing())
        assert [len(page) for page in pages] == [1000, 1000, 300]
        assert [each.key for page in pages for each in page] == [f"{number:05}" for number in range(2300)]

    def test_listing_head_and_bytes_agree(self, bucket: Bucket, store: Store) -> None:
        store.put("one", b"x" * 100)
        ((listed,),) = bucket.listing()
        head = bucket.head("one")
        assert head is not None
        assert (head.size_bytes, head.etag) == (listed.size_bytes, listed.etag) == (100, listed.etag)
        assert len(listed.etag) == 32
        assert abs(head.modified_ns - listed.modified_ns) < 10**9
        assert b"".join(bucket.pieces("one", listed.etag, listed.size_bytes)) == b"x" * 100

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_an_object_with_an_odd_key_is_read_copied_and_deleted(
        self, key: str, bucket: Bucket, store: Store
    ) -> None:
        store.put(key, key.encode())
        ((listed,),) = bucket.listing()
        bucket.copy(key, f"registered/{key}", listed.etag)
        assert store.get(f"registered/{key}") == key.encode()
        bucket.delete(key)
        assert bucket.head(key) is None
        assert b"".join(bucket.pieces(f"registered/{key}")) == key.encode()
        bucket.delete(key)  # that is gone already

    def test_a_large_object_comes_in_pieces(self, bucket: Bucket, store: Store) -> None:
        body = bytes(range(256)) * (5 * PIECE_BYTES // 512)
        store.put("large", body)
        pieces = list(bucket.pieces("large"))
        assert b"".join(pieces) == body
        assert max(map(len, pieces)) <= PIECE_BYTES

    def test_what_is_gone_or_altered_is_no_fault(self, bucket: Bucket, store: Store) -> None:
        store.put("one")
        ((listed,),) = bucket.listing()
        store.put("one", b"other")
        with pytest.raises(AlteredError):
            list(bucket.pieces("one", listed.etag, listed.size_bytes))
        store.put("one", b"other size")
        with pytest.raises(AlteredError):
            list(bucket.pieces("one", "", 5))
        store.remove("one")
        with pytest.raises(GoneError):
            list(bucket.pieces("one", listed.etag, listed.size_bytes))
        with pytest.raises(GoneError):
            bucket.copy("one", "registered/one")

    def test_a_store_without_tags_keeps_its_objects(self, bucket: Bucket, store: Store) -> None:
        """rclone takes new tags for the object's new bytes."""
        store.put("one", b"an instance")
        with pytest.raises(Fault, match="tags"):
            bucket.tag("one", "dicom-ingest", "registered")
        assert store.get("one") == b"an instance"

    def test_a_bucket_that_is_none_is_said_to_be(self, store: Store) -> None:
        with pytest.raises(Fault, match="NoSuchBucket") as caught:
            open_bucket(BucketAddress("nobucket")).check()
        assert isinstance(ending_at(Side.BUCKET, caught.value, is_start=True), UsageError)

    def test_wrong_credentials_are_refused(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        with pytest.raises(Fault, match="SignatureDoesNotMatch") as caught:
            open_bucket(BucketAddress(BUCKET)).check()
        assert caught.value.kind is FaultKind.UNAUTHORIZED
        assert isinstance(ending_at(Side.BUCKET, caught.value, is_start=True), CredentialsRefusedError)


def scripted(**answers: Callable[..., Any]) -> Bucket:
    """A bucket whose client answers as a test says."""
    client: Any = SimpleNamespace(**answers)
    return Bucket(BucketAddress("bucket"), client)


def answer(body: bytes, sent: bytes | None = None, etag: str = "e") -> dict[str, Any]:
    """What GetObject gives: of `body` no more arrives than was `sent`."""
    stream = StreamingBody(io.BytesIO(body if sent is None else sent), len(body))
    return {"Body": stream, "ContentLength": len(body), "ETag": f'"{etag}"'}


def refusal(code: str, status: int, text: str = "") -> ClientError:
    said = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "GetObject")  # type: ignore[arg-type]


def test_a_stream_that_breaks_off_goes_on_where_it_was() -> None:
    asked: list[str] = []
    bodies = [answer(b"0123456789", b"0123"), answer(b"456789", b"45"), answer(b"6789")]

    def get_object(**parameters: Any) -> dict[str, Any]:
        asked.append(parameters.get("Range", ""))
        return bodies.pop(0)

    assert b"".join(scripted(get_object=get_object).pieces("key", "e", 10)) == b"0123456789"
    assert asked == ["", "bytes=4-", "bytes=6-"]


def test_a_stream_that_gets_no_further_is_a_fault() -> None:
    bucket = scripted(get_object=lambda **_: answer(b"0123", b""))
    with pytest.raises(Fault) as caught:
        list(bucket.pieces("key", "e", 4))
    assert caught.value.kind is FaultKind.NETWORK


def test_the_rest_of_an_altered_object_is_not_joined_to_its_beginning() -> None:
    bodies = [answer(b"0123456789", b"0123"), answer(b"456789", etag="another")]
    with pytest.raises(AlteredError):
        list(scripted(get_object=lambda **_: bodies.pop(0)).pieces("key", "e", 10))


def test_a_checksum_is_that_of_all_of_an_object() -> None:
    head = {"ContentLength": 1, "ETag": '"e"', "LastModified": datetime(2026, 1, 1, tzinfo=UTC)}
    whole = scripted(head_object=lambda **_: head | {"ChecksumCRC64NVME": "AAA="}).head("key")
    parts = {"ChecksumCRC64NVME": "AAA=-2", "ChecksumType": "COMPOSITE"}
    of_parts = scripted(head_object=lambda **_: head | parts).head("key")
    assert whole is not None
    assert of_parts is not None
    assert (whole.checksum, of_parts.checksum) == ("AAA=", "")
    assert whole.modified_ns == 1767225600 * 10**9


def test_what_shows_an_empty_folder_is_no_object() -> None:
    page = {"Contents": [{"Key": "in/", "Size": 0}, {"Key": "in/one", "Size": 0}]}
    assert keys(scripted(list_objects_v2=lambda **_: page)) == ["in/one"]


def test_a_listing_that_fails_goes_on_as_its_caller_says() -> None:
    pages: list[Any] = [
        {"Contents": [{"Key": "one", "Size": 1}], "IsTruncated": True, "NextContinuationToken": "t"},
        refusal("SlowDown", 503),
        EndpointConnectionError(endpoint_url="http://10.0.0.1"),
        {"Contents": [{"Key": "two", "Size": 1}]},
    ]
    seen: list[tuple[FaultKind, int]] = []

    def list_objects_v2(**_: Any) -> Any:
        page = pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return page

    bucket = scripted(list_objects_v2=list_objects_v2)
    found = [each.key for page in bucket.listing("", lambda f, n: seen.append((f.kind, n))) for each in page]
    assert found == ["one", "two"]
    assert seen == [(FaultKind.THROTTLED, 1), (FaultKind.NETWORK, 2)]


def test_a_store_that_lists_in_no_order_is_taken_at_its_word() -> None:
    pages: list[Any] = [
        {"Contents": [{"Key": "x", "Size": 1}], "IsTruncated": True, "NextContinuationToken": "t"},
        {"Contents": [{"Key": "b", "Size": 1}, {"Key": "a", "Size": 1}]},
    ]
    assert keys(scripted(list_objects_v2=lambda **_: pages.pop(0))) == ["x", "b", "a"]


def test_a_listing_that_gets_no_further_ends() -> None:
    page = {"Contents": [{"Key": "one", "Size": 1}], "IsTruncated": True, "NextContinuationToken": "t"}
    with pytest.raises(Fault, match="further"):
        keys(scripted(list_objects_v2=lambda **_: page))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (refusal("SlowDown", 503), FaultKind.THROTTLED),
        (refusal("Whatever", 500), FaultKind.SERVER),
        (refusal("InternalError", 200), FaultKind.SERVER),
        (refusal("RequestTimeout", 400), FaultKind.NETWORK),
        (refusal("AccessDenied", 403), FaultKind.FORBIDDEN),
        (refusal("403", 403), FaultKind.FORBIDDEN),
        (refusal("ExpiredToken", 400), FaultKind.UNAUTHORIZED),
        (refusal("InvalidAccessKeyId", 403), FaultKind.UNAUTHORIZED),
        (refusal("InvalidObjectState", 403), FaultKind.REJECTED),
        (refusal("InvalidRequest", 400), FaultKind.REJECTED),
        (refusal("NoSuchBucket", 404), FaultKind.SETTINGS),
        (refusal("PermanentRedirect", 301), FaultKind.SETTINGS),
        (NoCredentialsError(), FaultKind.UNAUTHORIZED),
        (EndpointConnectionError(endpoint_url="http://secret.example/key"), FaultKind.NETWORK),
        (ConnectionResetError("secret"), FaultKind.NETWORK),
    ],
)
def test_what_boto3_raises_is_a_fault_of_ours(error: Exception, kind: FaultKind) -> None:
    def get_object(**_: Any) -> Any:
        raise error

    with pytest.raises(Fault) as caught:
        list(scripted(get_object=get_object).pieces("patient/key"))
    assert caught.value.kind is kind
    assert caught.value.__cause__ is None
    assert "secret" not in str(caught.value)
    assert "patient" not in str(caught.value)


def test_tags_that_there_are_stay() -> None:
    tagging: list[Any] = []
    bucket = scripted(
        get_object_tagging=lambda **_: {"TagSet": [{"Key": "project", "Value": "p"}]},
        put_object_tagging=lambda **given: tagging.append(given["Tagging"]["TagSet"]) or {},
    )
    bucket.tag("key", "dicom-ingest", "registered")
    assert tagging == [[{"Key": "project", "Value": "p"}, {"Key": "dicom-ingest", "Value": "registered"}]]
    bucket.tag("key", "project", "p")
    assert len(tagging) == 1, "a tag that is there is not set again"
