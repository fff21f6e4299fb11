"""Messages of S3 that tell of new objects, and lists of keys, as they come in files and lines. Pure.

The JSON of S3's event notifications (S3 User Guide, "Event message structure", versions 2.x), also as SQS or
SNS carry it in a `Message` or `body`, and of EventBridge ("Object Created"). In the former keys are encoded
as in a query, in the latter they are not.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

_CREATED: Final = "ObjectCreated:"
_DEEPEST: Final = 3  # envelopes around a message
LONGEST_KEY_BYTES: Final = 1024  # of S3


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object that a message tells of. None: the message does not say it."""

    bucket: str
    key: str
    size_bytes: int | None
    etag: str


def new_objects(text: str) -> list[NewObject]:
    """What a message tells of; nothing, for an event of another kind. ValueError for what is no message."""
    try:
        return list(_objects(json.loads(text), _DEEPEST))
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("is no event message of S3") from None


def key_of_line(line: str) -> str:
    """The key of a line in a list of keys: all of it but its end. ValueError for one that can't be a key."""
    key = line.rstrip("\r\n")
    if len(key.encode("utf-8", "surrogateescape")) > LONGEST_KEY_BYTES:
        raise ValueError(f"is longer than the {LONGEST_KEY_BYTES} bytes of a key")
    return key


def _objects(message: Any, deepest: int) -> Iterator[NewObject]:
    if not isinstance(message, dict):
        raise TypeError
    if "Records" in message:
        for record in message["Records"]:
            yield from _of_record(record, deepest)
    elif "detail-type" in message:
        yield from _of_event_bridge(message)
    elif isinstance(inner := message.get("Message", message.get("body")), str) and deepest:
        yield from _objects(json.loads(inner), deepest - 1)
    elif message.get("Event") != "s3:TestEvent":
        raise KeyError


def _of_record(record: Any, deepest: int) -> Iterator[NewObject]:
    if "s3" not in record:  # of SQS or SNS, as a Lambda function gets them
        inner = record.get("Sns") or record
        yield from _objects({"body": inner.get("Message", inner.get("body"))}, deepest)
    elif str(record["eventName"]).removeprefix("s3:").startswith(_CREATED):
        its = record["s3"]["object"]
        yield _new(record["s3"]["bucket"]["name"], unquote_plus(its["key"], errors="strict"), its, "eTag")


def _of_event_bridge(message: dict[str, Any]) -> Iterator[NewObject]:
    if message["detail-type"] == "Object Created":
        its = message["detail"]["object"]
        yield _new(message["detail"]["bucket"]["name"], its["key"], its, "etag")


def _new(bucket: Any, key: Any, its: dict[str, Any], etag: str) -> NewObject:
    size = its.get("size")
    if not (isinstance(bucket, str) and isinstance(key, str) and key):
        raise TypeError
    is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return NewObject(bucket, key, size if is_size else None, str(its.get(etag) or "").strip('"'))
