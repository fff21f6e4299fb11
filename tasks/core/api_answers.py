"""What the upload API may answer to GET /upload/: JSON with a url and a key; else what is wrong. Pure.

Nothing but the documented shape is accepted. What comes close to it is named, so that whoever runs the API,
or the proxy before it, need not search.
"""

import json
import re
from typing import Final

MAX_KEY_BYTES: Final = 1024  # S3: an object key is at most 1024 bytes of UTF-8
# The report's word for what is wrong with an answer, and a clause that says it.
WRONG_SHAPES: Final = {
    "empty_answer": "is empty",
    "html_answer": "is HTML or XML",
    "compressed_answer": "is compressed in a way that nobody asked for",
    "no_json": "is no JSON",
    "no_json_object": "is JSON, but no object",
    "other_letters": "has url and key in other letters, such as capitals",
    "nested": "has url and key within another object",
    "no_url": "has no url",
    "no_key": "has no key",
    "no_url_no_key": "has no url and no key",
    "bad_url": "has a url that is no absolute URL",
    "bad_key": "has a key that can be none of S3's",
    "unquoted_key": "has a url that does not lead to its key (signs such as #, ? and % need quoting there)",
}
_NAMES: Final = ("url", "key")
_DEEPEST: Final = 3  # objects within one another that are searched
_MOST_MEMBERS: Final = 100
_NEEDS_CARE: Final = re.compile(r"[#?%\\]|(?:^|/)\.{1,2}(?:/|$)")
_DOT_SEGMENT: Final = re.compile(r"/\.{1,2}(?:/|\Z)")  # which a proxy may remove (RFC 3986, 6.2.2.3)
_LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class WrongAnswerError(Exception):
    """An answer of a wrong shape; `word` is a key of WRONG_SHAPES."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


def what_is_wrong(word: str) -> str:
    """The clause that says it."""
    return f"the API's answer {WRONG_SHAPES[word]}: it has to be JSON with a url and a key"


def url_and_key(body: bytes, coding: str = "") -> tuple[str, str]:
    """The two texts; `coding`: the content coding that the body still has. Raises WrongAnswerError."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise WrongAnswerError(_what_it_is(body, coding)) from None
    if not isinstance(answer, dict):
        raise WrongAnswerError("nested" if _holds(answer) else "no_json_object")
    if missing := [f"no_{name}" for name in _NAMES if name not in answer]:
        raise WrongAnswerError(_what_is_near(answer) or "_".join(missing))
    url, key = (answer[name] for name in _NAMES)
    if not isinstance(url, str):
        raise WrongAnswerError("bad_url")
    if not _is_key(key):
        raise WrongAnswerError("bad_key")
    return url, key


def leads_to(key: str, raw_path: str, path: str, fragment: str) -> bool:
    """Whether a URL leads to the key, as far as that can be known. `raw_path` is quoted, as it is sent.

    A key of plain signs may be anywhere; one with signs that end or change a path has to be at its end.
    """
    if fragment or _LONE_PERCENT.search(raw_path) or _DOT_SEGMENT.search(raw_path):
        return False
    return not _NEEDS_CARE.search(key) or path.endswith(key)


def _what_it_is(body: bytes, coding: str) -> str:
    """Of a body that is no JSON."""
    if not body.strip():
        return "empty_answer"
    if coding:
        return "compressed_answer"
    return "html_answer" if body.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<") else "no_json"


def _what_is_near(answer: dict[str, object]) -> str:
    if set(_NAMES) <= {name.lower() for name in answer}:
        return "other_letters"
    return "nested" if any(_holds(value) for value in _members(answer)) else ""


def _holds(value: object, depth: int = _DEEPEST) -> bool:
    """Whether there is an object with a url and a key in it, whatever their letters."""
    if isinstance(value, str) and depth and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)  # JSON in JSON: what a gateway makes of a function's answer
        except (ValueError, RecursionError):
            return False
    if isinstance(value, dict) and set(_NAMES) <= {str(name).lower() for name in value}:
        return True
    return depth > 0 and any(_holds(each, depth - 1) for each in _members(value))


def _members(value: object) -> list[object]:
    if isinstance(value, dict):
        value = list(value.values())
    return value[:_MOST_MEMBERS] if isinstance(value, list) else []


def _is_key(key: object) -> bool:
    try:
        return isinstance(key, str) and 0 < len(key.encode()) <= MAX_KEY_BYTES and key.isprintable()
    except UnicodeEncodeError:  # of a lone surrogate
        return False
