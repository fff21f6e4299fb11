r"""The one escape for text that comes from outside: paths, keys, labels (report, ledger, manifest).

A byte that is not UTF-8, a control or formatting character and a leading formula character (= + - @) become
`\xHH`, one for each UTF-8 byte; a backslash becomes `\\`. All else stays as it is, so most text is its own
escape. `unescape` gives the exact text back, and leaves a lone backslash alone, so that whoever types a
manifest need not know of this.
"""

import re
import unicodedata
from typing import Final

_PLAIN: Final = re.compile(r"[ !-\[\]-~]*\Z")  # printable ASCII but the backslash: the common case, and fast
_FORMULA: Final = frozenset("=+-@")
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode general categories
_LAYOUT: Final = frozenset("\n\t")  # of ours, on a terminal
_PLAIN_LINES: Final = re.compile(r"[\n\t -~]*\Z")
_ESCAPED: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|\\)")


def escape(text: str) -> str:
    """Text that is safe in a CSV cell, on a terminal, in Parquet and in PostgreSQL; `unescape` undoes it."""
    safe = text if _PLAIN.match(text) else "".join(_written(char) for char in text)
    return _hex(safe[0]) + safe[1:] if safe and safe[0] in _FORMULA else safe


def printable(text: str) -> str:
    """Text of lines that is safe on a terminal, whatever a file had a part of it say: not for `unescape`."""
    if _PLAIN_LINES.match(text):
        return text
    return "".join(
        _hex(char) if char not in _LAYOUT and unicodedata.category(char) in _UNSAFE else char for char in text
    )


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    if "\\" not in text:
        return text
    raw = _ESCAPED.sub(_byte, text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def escaped_bytes(text: str) -> str:
    """Each of its bytes written as `\\xHH`; `unescape` undoes it."""
    return _hex(text)


def _written(char: str) -> str:
    if char == "\\":
        return "\\\\"
    return _hex(char) if unicodedata.category(char) in _UNSAFE else char


def _hex(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def _byte(match: re.Match[bytes]) -> bytes:
    digits = match.group(1)
    return b"\\" if digits is None else bytes.fromhex(digits.decode())
