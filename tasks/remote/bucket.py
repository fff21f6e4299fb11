"""A bucket over boto3: its objects listed, read as a stream, tagged, moved without loss.

Credentials, endpoint and region are boto3's own (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, AWS_REGION, its
files and roles). All of it blocks: for threads that may. boto3 takes long to import, so it comes with the
first bucket. Nothing is tried again here: what fails is a Fault (`bucket_faults.py`), and its caller decides.

Only what every store has is counted on. rclone's takes no notice of If-Match, but shows the ETag of what it
sends, and that is compared; where a cursor's key is gone it lists from the start, and what has been is left
out; tags it would take for an object's bytes, so they are read before they are set.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tasks.bucket_settings import BucketAddress
from tasks.core.errors import Fault, FaultKind
from tasks.remote.bucket_faults import AlteredError, GoneError, raise_faults

PIECE_BYTES: Final = 1 << 20
_PAGE: Final = 1000
_CONNECT_S: Final = 10
_SILENT_S: Final = 60
_MOST_CONNECTIONS: Final = 32
_MOST_STARTS: Final = 100_000  # pages that brought again what had been
_MOST_RESUMED: Final = 20  # a stream that broke off goes on where it was, as long as it gets further

AfterFault = Callable[[Fault, int], None]  # pauses before the n-th repetition (from 1), or raises


@dataclass(frozen=True, slots=True)
class BucketObject:
    """An object as the store describes it."""

    key: str
    size_bytes: int
    etag: str  # without quotation marks
    modified_ns: int
    checksum: str = (
        ""  # CRC64NVME of all of it, in base64; empty where the store shows none, and in a listing
    )


class S3(Protocol):
    """As much of boto3's client as is used, for tests that have no store."""

    def list_objects_v2(self, **parameters: Any) -> Mapping[str, Any]:
        """A page of a listing."""
        ...

    def head_object(self, **parameters: Any) -> Mapping[str, Any]:
        """What an object is, without its bytes."""
        ...

    def get_object(self, **parameters: Any) -> Mapping[str, Any]:
        """An object, its bytes as a stream."""
        ...

    def copy_object(self, **parameters: Any) -> Mapping[str, Any]:
        """Copies within the store."""
        ...

    def delete_object(self, **parameters: Any) -> Mapping[str, Any]:
        """Deletes an object."""
        ...

    def get_object_tagging(self, **parameters: Any) -> Mapping[str, Any]:
        """An object's tags."""
        ...

    def put_object_tagging(self, **parameters: Any) -> Mapping[str, Any]:
        """Sets all of an object's tags."""
        ...


class Bucket:
    """One bucket, of which the objects under a prefix are listed. Thread-safe, as boto3's clients are."""

    def __init__(self, address: BucketAddress, client: S3) -> None:
        self.address = address
        self._client = client
        self._presign: Callable[..., str] | None = getattr(client, "generate_presigned_url", None)

    @property
    def endpoint(self) -> str:
        """Where it is: a URL without credentials."""
        return str(getattr(getattr(self._client, "meta", None), "endpoint_url", ""))

    def check(self) -> None:
        """Asks for one object. Raises Fault when the bucket does not answer, or not to these credentials."""
        self._page(MaxKeys=1)

    def listing(
        self, after_key: str = "", after_fault: AfterFault | None = None
    ) -> Iterator[list[BucketObject]]:
        """All objects under the prefix whose keys follow this one, in the order of their UTF-8 bytes.

        Pages of up to 1,000. What consoles make so that an empty folder shows (a key that ends in a slash,
        no bytes) is no object. A listing that fails goes on as `after_fault` says, else it raises.
        """
        position: dict[str, str] = {"StartAfter": after_key} if after_key else {}
        last, starts = after_key, 0
        while True:
            page = self._page_in_the_end(position, after_fault)
            listed = [_listed(each) for each in page.get("Contents", ()) if not _is_folder(each)]
            found = _not_seen(listed, last)
            starts += len(found) < len(listed)
            if found:
                yield found
                last = found[-1].key
            token = page.get("NextContinuationToken", "")
            if not page.get("IsTruncated") or not token:
                return
            if token == position.get("ContinuationToken") or (starts > _MOST_STARTS and not found):
                raise Fault(FaultKind.SETTINGS, "the bucket's listing does not get any further")
            position = {"ContinuationToken": token}

    def head(self, key: str) -> BucketObject | None:
        """What an object is, with its checksum where the store has one; None: there is none."""
        with suppress(GoneError), raise_faults("HEAD of an object", of_object=True):
            head = self._client.head_object(**self._of(key), ChecksumMode="ENABLED")
            is_whole = head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
            checksum = head.get("ChecksumCRC64NVME", "") if is_whole else ""
            modified_ns = _ns(head.get("LastModified"))
            return BucketObject(key, int(head["ContentLength"]), _etag(head), modified_ns, checksum)
        return None

    def pieces(self, key: str, etag: str = "", size_bytes: int | None = None) -> Iterator[bytes]:
        """An object's bytes in pieces of up to a MiB, as a stream that is begun only when it is asked for.

        Raises GoneError, and AlteredError when it is not the object with this ETag and size any more. One
        that breaks off goes on where it was, as long as it gets further; else Fault.
        """
        done, resumed = 0, 0
        while True:
            begun = done
            try:
                for piece in self._stream(key, etag, done, size_bytes):
                    done += len(piece)
                    yield piece
            except Fault as fault:
                resumed += 1
                is_short = fault.kind is FaultKind.NETWORK and etag and size_bytes is not None
                if not is_short or done == begun or resumed > _MOST_RESUMED:
                    raise
            else:
                return

    @property
    def signs(self) -> bool:
        """Whether `signed_url` gives URLs."""
        return self._presign is not None

    def signed_url(self, key: str) -> str:
        """A presigned URL of an object, for an hour: it gives access, and is for no log and no record.

        boto3 makes it without a request, unless a role's credentials have to be renewed.
        """
        with raise_faults("signing a URL", of_object=True):
            assert self._presign is not None
            return self._presign("get_object", Params=self._of(key))

    def beginning(self, key: str, etag: str, count: int) -> bytes:
        """An object's first bytes, so many at most. GoneError, AlteredError as `pieces`."""
        if_same = {"IfMatch": f'"{etag}"'} if etag else {}
        with raise_faults("reading an object", of_object=True):
            got = self._client.get_object(**self._of(key), **if_same, Range=f"bytes=0-{count - 1}")
            with closing(got["Body"]) as body:
                if etag and _etag(got) not in ("", etag):
                    raise AlteredError
                return bytes(body.read(count))

    def copy(self, key: str, to_key: str, etag: str = "") -> None:
        """Copies an object within the bucket, with its metadata. GoneError, AlteredError as `pieces`."""
        source = {"Bucket": self.address.name, "Key": key}
        if_same = {"CopySourceIfMatch": f'"{etag}"'} if etag else {}
        with raise_faults("a copy of an object", of_object=True):
            self._client.copy_object(**self._of(to_key), CopySource=source, **if_same)

    def delete(self, key: str) -> None:
        """Deletes an object; one that is gone is."""
        with suppress(GoneError), raise_faults("deleting an object", of_object=True):
            self._client.delete_object(**self._of(key))

    def tags(self, key: str) -> dict[str, str]:
        """An object's tags. A store that knows no tags is a Fault: it would take new ones for its bytes."""
        with raise_faults("reading an object's tags", of_object=True):
            found = self._client.get_object_tagging(**self._of(key))
        if not isinstance(found.get("TagSet"), list):
            raise Fault(FaultKind.REJECTED, "the store knows no tags of objects", detail="NoTags")
        return {str(each["Key"]): str(each["Value"]) for each in found["TagSet"]}

    def tag(self, key: str, name: str, value: str) -> None:
        """Sets one tag, beside those that there are; they are read first (see `tags`)."""
        tags = self.tags(key)
        if tags.get(name) == value:
            return
        tag_set = [{"Key": each, "Value": text} for each, text in (tags | {name: value}).items()]
        with raise_faults("tagging an object", of_object=True):
            self._client.put_object_tagging(**self._of(key), Tagging={"TagSet": tag_set})

    def _of(self, key: str) -> dict[str, str]:
        return {"Bucket": self.address.name, "Key": key}

    def _page_in_the_end(
        self, position: Mapping[str, str], after_fault: AfterFault | None
    ) -> Mapping[str, Any]:
        seen = 0
        while True:
            try:
                return self._page(**position)
            except Fault as fault:
                seen += 1
                if after_fault is None:
                    raise
                after_fault(fault, seen)

    def _page(self, **position: Any) -> Mapping[str, Any]:
        where = {"Bucket": self.address.name, "Prefix": self.address.prefix, "MaxKeys": _PAGE}
        with raise_faults("the listing of the bucket"):
            return self._client.list_objects_v2(**where | position)

    def _stream(self, key: str, etag: str, begin: int, size_bytes: int | None) -> Iterator[bytes]:
        asked: dict[str, Any] = self._of(key) | ({"IfMatch": f'"{etag}"'} if etag else {})
        if begin:
            asked["Range"] = f"bytes={begin}-"
        left = None if size_bytes is None else size_bytes - begin
        with raise_faults("reading an object", of_object=True):
            got = self._client.get_object(**asked)
            with closing(got["Body"]) as body:
                is_other = (etag and _etag(got) not in ("", etag)) or left not in (None, got["ContentLength"])
                if is_other:
                    raise AlteredError
                while piece := body.read(PIECE_BYTES):
                    yield piece


def open_bucket(address: BucketAddress) -> Bucket:
    """The bucket, with a client made from boto3's own environment. Nothing is asked of it yet.

    Raises Fault (settings) when that environment says something that can't be.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_SILENT_S,
        retries={"total_max_attempts": 1},  # ours are seen: in the progress, and by --max-outage
        max_pool_connections=_MOST_CONNECTIONS,
        # Some stores answer a part of an object with the checksum of all of it.
        response_checksum_validation="when_required",
        request_checksum_calculation="when_required",
        user_agent_extra="dicom-ingest",
    )
    with raise_faults("the environment of boto3"):
        client: Any = boto3.session.Session().client("s3", config=config)
        client.meta.events.register_first("choose-signer.s3", _same_signature)
        return Bucket(address, client)


def _same_signature(signature_version: Any, **_: Any) -> Any:
    """Signs URLs as requests are: by itself boto3 takes version 2 for many, which new buckets refuse."""
    if not isinstance(signature_version, str) or not signature_version.endswith("-query"):
        return None
    return "s3v4-query" if signature_version == "v4-query" else signature_version


def _not_seen(page: list[BucketObject], last: str) -> list[BucketObject]:
    """What follows the last key, of a page in order; a store that lists in no order is taken at its word."""
    keys = [each.key.encode("utf-8", "surrogatepass") for each in page]
    if keys != sorted(keys):
        return page
    return page[bisect_right(keys, last.encode("utf-8", "surrogatepass")) :]


def _is_folder(listed: Mapping[str, Any]) -> bool:
    return str(listed["Key"]).endswith("/") and not listed["Size"]


def _listed(listed: Mapping[str, Any]) -> BucketObject:
    return BucketObject(
        str(listed["Key"]), int(listed["Size"]), _etag(listed), _ns(listed.get("LastModified"))
    )


def _etag(described: Mapping[str, Any]) -> str:
    return str(described.get("ETag", "")).strip('"')


def _ns(moment: Any) -> int:
    """Of a datetime, in Unix nanoseconds; whole microseconds, for seconds as a float would round."""
    if moment is None:
        return 0
    whole = int(moment.replace(microsecond=0).timestamp())
    return (whole * 1_000_000 + int(moment.microsecond)) * 1000
