"""Messages of S3 that tell of new objects."""

import json
from typing import Any

import pytest

from tasks.core.event_messages import NewObject, key_of_line, new_objects


def record(key: str, event: str = "ObjectCreated:Put", **more: Any) -> dict[str, Any]:
    its = {"key": key, "size": 7, "eTag": "e"} | more
    return {"eventName": event, "s3": {"bucket": {"name": "b"}, "object": its}}


def message(*records: dict[str, Any]) -> dict[str, Any]:
    return {"Records": list(records)}


PUT = message(record("a/b+c%2Bd%25%C3%BC"))
FOUND = NewObject("b", "a/b c+d%ü", 7, "e")


@pytest.mark.parametrize(
    "text",
    [
        PUT,
        {"Message": json.dumps(PUT), "Type": "Notification"},
        {"body": json.dumps(PUT)},
        {"Records": [{"body": json.dumps(PUT)}]},
        {"Records": [{"Sns": {"Message": json.dumps(PUT)}}]},
        message(record("gone", "ObjectRemoved:Delete"), PUT["Records"][0]),
        message(record("a/b+c%2Bd%25%C3%BC", "s3:ObjectCreated:CompleteMultipartUpload")),
    ],
)
def test_keys_are_decoded_whatever_envelope_a_message_came_in(text: dict[str, Any]) -> None:
    assert new_objects(json.dumps(text)) == [FOUND]


def test_an_event_bridge_s_keys_are_as_they_are() -> None:
    detail = {"bucket": {"name": "b"}, "object": {"key": "a b+c%2B", "size": 7, "etag": "e"}}
    event = {"detail-type": "Object Created", "detail": detail}
    assert new_objects(json.dumps(event)) == [NewObject("b", "a b+c%2B", 7, "e")]


@pytest.mark.parametrize(
    "text",
    [
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"},
        message(record("gone", "ObjectRemoved:Delete")),
        {"detail-type": "Object Deleted", "detail": {}},
    ],
)
def test_other_events_tell_of_nothing(text: dict[str, Any]) -> None:
    assert new_objects(json.dumps(text)) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '"x"', "{}", '{"Records": 1}', '{"Records": [{"eventName": "ObjectCreated:Put"}]}'],
)
def test_what_is_no_message_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError):
        new_objects(text)


def test_sizes_that_are_none_are_not_known() -> None:
    (found,) = new_objects(json.dumps(message(record("k", size="many", eTag=None))))
    assert (found.size_bytes, found.etag) == (None, "")


def test_a_line_is_a_key_but_for_its_end() -> None:
    assert key_of_line(" a b \r\n") == " a b "
    with pytest.raises(ValueError, match="1024"):
        key_of_line("x" * 1025)
