"""An S3 client without a store: objects in memory, or made up as they are read; with tags, and faults."""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError
from botocore.response import StreamingBody

_MODIFIED = datetime(2026, 1, 1, tzinfo=UTC)


def refusal(code: str, status: int) -> ClientError:
    said: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "Operation")


@dataclass(slots=True)
class Stored:
    """An object: its bytes are made when they are read."""

    size_bytes: int
    etag: str
    read: Callable[[int, int], bytes]  # from, to
    tags: dict[str, str] = field(default_factory=dict)


class _Lazy(io.RawIOBase):
    """A stream of an object's bytes."""

    def __init__(self, stored: Stored, begin: int, end: int) -> None:
        self._stored, self._at, self._end = stored, begin, end

    def read(self, size: int = -1) -> bytes:
        end = self._end if size is None or size < 0 else min(self._at + size, self._end)
        data = self._stored.read(self._at, end)
        self._at = end
        return data


class MemoryS3:
    """As much of boto3's client as `tasks/remote/bucket.py` uses."""

    def __init__(self, *, encrypts: bool = False) -> None:
        """`encrypts`: as with KMS keys, an ETag is no MD5 and another one for each copy."""
        self.objects: dict[str, Stored] = {}
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda _call, _key: None  # may raise
        self._encrypts = encrypts

    def put(self, key: str, body: bytes) -> None:
        self.objects[key] = Stored(len(body), self._etag(body, key), lambda begin, end: body[begin:end])

    def body(self, key: str) -> bytes:
        return self.objects[key].read(0, self.objects[key].size_bytes)

    def list_objects_v2(self, **asked: Any) -> Mapping[str, Any]:
        self._note("list", "")
        after = asked.get("ContinuationToken", asked.get("StartAfter", ""))
        keys = [key for key in sorted(self.objects) if key.startswith(asked["Prefix"]) and key > after]
        page = keys[: asked["MaxKeys"]]
        found = [self._described(key) | {"Key": key, "Size": self.objects[key].size_bytes} for key in page]
        more = len(keys) > len(page)
        return {"Contents": found, "IsTruncated": more} | (
            {"NextContinuationToken": page[-1]} if more else {}
        )

    def head_object(self, **asked: Any) -> Mapping[str, Any]:
        stored = self._found("head", asked["Key"])
        return self._described(asked["Key"]) | {"ContentLength": stored.size_bytes}

    def get_object(self, **asked: Any) -> Mapping[str, Any]:
        stored = self._found("get", asked["Key"])
        if asked.get("IfMatch", f'"{stored.etag}"') != f'"{stored.etag}"':
            raise refusal("PreconditionFailed", 412)
        begin, end = 0, stored.size_bytes
        if asked.get("Range"):
            first, last = asked["Range"].removeprefix("bytes=").split("-")
            begin, end = int(first), min(int(last or end) + 1, end)
        body = StreamingBody(_Lazy(stored, begin, end), end - begin)
        return self._described(asked["Key"]) | {"ContentLength": end - begin, "Body": body}

    def copy_object(self, **asked: Any) -> Mapping[str, Any]:
        stored = self._found("copy", asked["CopySource"]["Key"])
        self.put(asked["Key"], stored.read(0, stored.size_bytes))
        return {}

    def delete_object(self, **asked: Any) -> Mapping[str, Any]:
        self._note("delete", asked["Key"])
        self.objects.pop(asked["Key"], None)
        return {}

    def get_object_tagging(self, **asked: Any) -> Mapping[str, Any]:
        tags = self._found("tags", asked["Key"]).tags
        return {"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]}

    def put_object_tagging(self, **asked: Any) -> Mapping[str, Any]:
        stored = self._found("tag", asked["Key"])
        stored.tags = {each["Key"]: each["Value"] for each in asked["Tagging"]["TagSet"]}
        return {}

    def _etag(self, body: bytes, key: str) -> str:
        return hashlib.md5(body + (key.encode() if self._encrypts else b"")).hexdigest()

    def _described(self, key: str) -> dict[str, Any]:
        return {"ETag": f'"{self.objects[key].etag}"', "LastModified": _MODIFIED}

    def _found(self, call: str, key: str) -> Stored:
        self._note(call, key)
        if key not in self.objects:
            raise refusal("NoSuchKey", 404)
        return self.objects[key]

    def _note(self, call: str, key: str) -> None:
        self.before(call, key)
        self.calls.append((call, key))
