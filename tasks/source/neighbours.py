"""An empty file beside images of its name: "IM0001" of no bytes, where "IM0002" is an image.

It is an image whose copy failed. The directory decides, not the ledger: whichever file was read before, and
whether a run opens the others at all.
"""

import os
import re
from typing import Final

from tasks.core.models import ZEROS, Header, Status
from tasks.source.header_reader import read_header

_DIGITS: Final = re.compile(r"\d+")
_MOST_KEPT: Final = 4096  # names, digits aside, whose answer is kept


class Neighbours:
    """What is beside the empty files of one run: a directory is listed once for each name, digits aside."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], bool] = {}

    def have_image_like(self, path: str) -> bool:
        """Whether a file of its directory that has its name, digits aside, is an image, whole or not."""
        directory, name = os.path.split(path)
        asked = directory, _DIGITS.sub("", name)
        if (answer := self._answers.get(asked)) is None:
            if len(self._answers) >= _MOST_KEPT:
                self._answers.clear()
            answer = self._answers[asked] = any(map(_is_image, _paths(*asked)))
        return answer


def _paths(directory: str, name: str) -> list[str]:
    try:
        with os.scandir(directory) as listing:
            return [entry.path for entry in listing if _DIGITS.sub("", entry.name) == name]
    except OSError:
        return []


def _is_image(path: str) -> bool:
    found, _ = read_header(path)
    return isinstance(found, Header) or (found.status is Status.INVALID and found.detail != ZEROS)
