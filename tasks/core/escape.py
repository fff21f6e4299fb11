r"""The one escape for text that comes from outside: paths, keys, labels (report, ledger, manifest).

A byte that is not UTF-8, a control or formatting character and a leading formula character (= + - @) become
`\xHH`, one for each UTF-8 byte; a backslash becomes `\\`. All else stays as it is, so most text is its own
escape. `unescape` gives the exact text back, and leaves a lone backslash alone, so that whoever types a
manifest need not know of this.

The NUL in the path of an archive's member (`core/member_paths.py`) becomes `!`, or `\!` where no name of an
archive stands before it; a real `!` behind such a name becomes `\x21`.
"""

import re
import unicodedata
from typing import Final

from tasks.core.member_paths import BEHIND_ARCHIVE, SEPARATOR

_PLAIN: Final = re.compile(
    r'[ "-\[\]-~]*\Z'
)  # printable ASCII but `!` and the backslash: the common case, and fast
_FORMULA: Final = frozenset("=+-@")
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode general categories
_LAYOUT: Final = frozenset("\n\t")  # of ours, on a terminal
_PLAIN_LINES: Final = re.compile(r"[\n\t -~]*\Z")
# What marks a member in a path: a real `!` behind an archive's name, and the NUL, behind one or not.
_MARK: Final = re.compile(f"(?P<behind>{BEHIND_ARCHIVE})?[!\0]", re.IGNORECASE | re.ASCII)
_ESCAPED: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(\\)|!)|" + f"(?i:{BEHIND_ARCHIVE})!".encode())


def escape(text: str) -> str:
    """Text that is safe in a CSV cell, on a terminal, in Parquet and in PostgreSQL; `unescape` undoes it."""
    safe = text if _PLAIN.match(text) else _written(text)
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
    if "\\" not in text and "!" not in text:
        return text
    raw = _ESCAPED.sub(_byte, text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def escaped_bytes(text: str) -> str:
    """Each of its bytes written as `\\xHH`; `unescape` undoes it."""
    return _hex(text)


def _written(text: str) -> str:
    pieces, done = [], 0
    for mark in _MARK.finditer(text):
        pieces += [*map(_written_char, text[done : mark.start()]), _written_mark(mark)]
        done = mark.end()
    return "".join([*pieces, *map(_written_char, text[done:])])


def _written_mark(mark: re.Match[str]) -> str:
    is_behind = mark["behind"] is not None
    if mark[0] == SEPARATOR:
        return "!" if is_behind else "\\!"
    return _hex("!") if is_behind else "!"


def _written_char(char: str) -> str:
    if char == "\\":
        return "\\\\"
    return _hex(char) if unicodedata.category(char) in _UNSAFE else char


def _hex(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def _byte(match: re.Match[bytes]) -> bytes:
    digits, backslash = match.groups()
    if digits is not None:
        return bytes.fromhex(digits.decode())
    return backslash or SEPARATOR.encode()
