"""The lines of a text manifest, whatever a spreadsheet or a database made of them: any Unicode, any line end.

Lines are bounded and read block by block, so that no row takes all memory.
"""

import codecs
import io
import re
from collections.abc import Iterator
from io import BufferedReader
from itertools import chain
from typing import TYPE_CHECKING, Final

from tasks.core.errors import ManifestError, Problem

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_ROW_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 1 << 16
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF32_BOMS: Final = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_UTF16_BOMS: Final = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_END_OF_FILE: Final = b"\x1a"  # Ctrl-Z: DOS writes it behind the last line, or fills the last block with it
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_LEFT_OVER: Final = b"\xff"  # a piece of a character at the end: no UTF-8, so its row is refused


class RowTooLongError(Exception):
    """A row takes more than MAX_ROW_BYTES."""


class Lines:
    """Lines of text as an iterator that stops one row from taking all memory.

    Bytes that are not UTF-8 become surrogates, which the rules refuse by row and column. Raises
    RowTooLongError unless `start_row` is called now and then, ManifestError for what is no such text at all.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = BufferedReader(_Blocks(_with_line_feeds(_to_end_of_file(_utf8_blocks(file)))))
        self._bytes_left = MAX_ROW_BYTES

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._bytes_left + 1)
        self._bytes_left -= len(line)
        if self._bytes_left < 0:
            raise RowTooLongError
        if not line:
            raise StopIteration
        return line.decode("utf-8", "surrogateescape")

    def start_row(self) -> None:
        """What follows is another row."""
        self._bytes_left = MAX_ROW_BYTES


class _Blocks(io.RawIOBase):
    """A file of these blocks, one after another."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        room = memoryview(buffer)
        count = min(len(room), len(self._left))
        room[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _utf8_blocks(file: BufferedReader) -> Iterator[bytes]:
    """The text without its byte order mark, as UTF-8."""
    start = file.read(4)
    blocks = iter(lambda: file.read1(_BLOCK_BYTES), b"")
    if start.startswith(_UTF32_BOMS):
        raise ManifestError([Problem(0, "", "it is UTF-32; write the file as UTF-8")])
    if encoding := _UTF16_BOMS.get(start[:2]):
        return _from_utf16(chain([start[2:]], blocks), encoding)
    if b"\0" in start:
        raise ManifestError(
            [Problem(0, "", "it is UTF-16 without a byte order mark; write the file as UTF-8")]
        )
    return chain([start.removeprefix(_UTF8_BOM)], blocks)


def _from_utf16(blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Half a surrogate pair stays what it is, and is no UTF-8."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    for block in blocks:
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    if decoder.getstate()[0]:
        yield _LEFT_OVER


def _to_end_of_file(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Without the signs that end it; before anything but padding it is one like any other."""
    held = b""
    for block in blocks:
        text = held + block
        rest = text.rstrip(_END_OF_FILE + b"\r\n \t\0")
        end = text.find(_END_OF_FILE, len(rest))
        end = len(text) if end < 0 else end
        held = text[end:]
        if len(held) > MAX_ROW_BYTES:
            end, held = len(text), b""
        yield text[:end]


def _with_line_feeds(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Where the first line ends with a carriage return alone (Excel for Mac), all do; else they are left."""
    head, end = b"", None
    for block in blocks:
        head += block
        end = _LINE_END.search(head)
        # A carriage return at the end of what has come may have a line feed behind it.
        if len(head) > MAX_ROW_BYTES or (end and (end.group() != b"\r" or end.end() < len(head))):
            break
    if end is None or end.group() != b"\r":
        yield head
        yield from blocks
    else:
        yield head.replace(b"\r", b"\n")
        yield from (block.replace(b"\r", b"\n") for block in blocks)
