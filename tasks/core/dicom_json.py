"""The DICOM JSON model (PS3.18, F) and the native DICOM model in XML (PS3.19, A.1), as servers write them.

Both become the same: a data set is a mapping of tags, eight capital hexadecimal digits, to lists of values;
an item of a sequence is a data set of its own. What is of another shape is left out, never an error: whoever
asks for a value gets none. No XML parser meets bytes from outside: the few tags of the model are found by
pattern, and entities other than XML's own five stay as they are.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, TypeAlias

DataSet: TypeAlias = Mapping[str, list[Any]]

_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}\Z")
_MARKUP: Final = re.compile(
    r"<(?P<close>/?)(?:[\w.-]+:)?(?P<name>DicomAttribute|Item|Value)(?=[\s/>])"
    r"(?P<attributes>(?:[^<>\"']|\"[^\"<]*\"|'[^'<]*')*?)(?P<empty>/?)>"
)
_XML_TAG: Final = re.compile(r"""(?:^|\s)tag\s*=\s*["']([0-9A-Fa-f]{8})["']""")
_DEEPEST: Final = 32  # sequences within one another
_ENTITIES: Final = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}


class NotDicomError(ValueError):
    """A body that is neither."""


def data_sets(body: bytes, tags: Collection[str] = ()) -> list[DataSet]:
    """Those of a body: JSON has a list of them or one, XML one. None of an empty body.

    `tags`: of many others, those that are wanted of each; empty: all. Raises NotDicomError for a body that is
    neither; which one it is, its first character says.
    """
    text = body.decode("utf-8-sig", "replace").strip("\0 \t\r\n")
    if not text:
        return []
    return [_of_xml(text)] if text.startswith("<") else _of_json(text, tags)


def first_text(data_set: DataSet, tag: str) -> str:
    """The first value as a text without its padding; empty when there is none."""
    values = data_set.get(tag, [])
    value = values[0] if values else ""
    return value.strip("\0 ") if isinstance(value, str) else ""


def first_number(data_set: DataSet, tag: str) -> int | None:
    """The first value, when it is a whole number or the text of one: decimal, or hexadecimal with 0x."""
    values = data_set.get(tag, [])
    value = values[0] if values else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value.strip("\0 ") if isinstance(value, str) else ""
    if re.fullmatch(r"[0-9]{1,12}", text, re.ASCII):
        return int(text)
    return int(text, 16) if re.fullmatch(r"0[xX][0-9A-Fa-f]{1,8}", text) else None


def items(data_set: DataSet, tag: str) -> list[DataSet]:
    """Those of a sequence."""
    return [value for value in data_set.get(tag, []) if isinstance(value, Mapping)]


def _of_json(text: str, tags: Collection[str]) -> list[DataSet]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise NotDicomError from None
    found = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(each, dict) for each in found):
        raise NotDicomError
    wanted = [_members_of(each, tags) for each in found] if tags else found
    return [_data_set(each, _DEEPEST) for each in wanted]


def _members_of(members: dict[str, Any], tags: Collection[str]) -> dict[str, Any]:
    return {tag: value for tag, value in members.items() if tag.upper() in tags}


def _data_set(members: dict[str, Any], depth: int) -> DataSet:
    return {tag.upper(): _values(member, depth) for tag, member in members.items() if _TAG.match(tag)}


def _values(member: object, depth: int) -> list[Any]:
    """Of `{"vr": ..., "Value": [...]}`; some write a single value without the list."""
    value = member.get("Value") if isinstance(member, dict) else None
    if value is None or depth == 0:
        return []
    return [
        _data_set(each, depth - 1) if isinstance(each, dict) else each
        for each in (value if isinstance(value, list) else [value])
    ]


def _of_xml(text: str) -> DataSet:
    """A walk over the tags; `open_at`: the data sets that are open, and the list of values of each."""
    root: dict[str, list[Any]] = {}
    open_at: list[tuple[dict[str, list[Any]], list[Any]]] = [(root, [])]
    for kind, argument in _events(text):
        data_set, values = open_at[-1]
        if kind == "DicomAttribute":
            open_at[-1] = (data_set, data_set.setdefault(argument, []))
        elif kind == "Value":
            values.append(argument)
        elif kind == "Item" and len(open_at) <= _DEEPEST:
            item: dict[str, list[Any]] = {}
            values.append(item)
            open_at.append((item, []))
        elif kind == "/Item" and len(open_at) > 1:
            open_at.pop()
    if not root and "NativeDicomModel" not in text:
        raise NotDicomError
    return root


def _events(text: str) -> Iterator[tuple[str, str]]:
    """What begins and ends, in its order: an attribute with its tag, a value with its text."""
    value_at = -1
    for markup in _MARKUP.finditer(text):
        name, is_end = markup["name"], bool(markup["close"])
        if name == "DicomAttribute" and not is_end:
            tag = _XML_TAG.search(markup["attributes"])
            yield name, tag[1].upper() if tag else ""
        elif name == "Item":
            yield ("/Item" if is_end else "Item"), ""
            if markup["empty"]:
                yield "/Item", ""
        elif name == "Value" and is_end and value_at >= 0:
            yield name, _unescaped(text[value_at : markup.start()])
        value_at = markup.end() if name == "Value" and not (is_end or markup["empty"]) else -1


def _unescaped(text: str) -> str:
    for entity, character in _ENTITIES.items():  # that of & is the last one
        text = text.replace(entity, character)
    return text
