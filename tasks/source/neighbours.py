"""An empty file beside images of its name: "IM0001" of no bytes, where "IM0002" is an image.

It is an image whose copy failed. The directory decides, not the ledger: whichever file was read before, and
whether a run opens the others at all.
"""

import os
import re
from functools import partial
from typing import Final

from tasks.core.member_paths import is_member, member_path, split_member
from tasks.core.models import ZEROS, Header, Status
from tasks.core.store_urls import is_store_url
from tasks.source.archives import Archives
from tasks.source.header_reader import read_header
from tasks.source.member_content import examine_member
from tasks.source.store_content import examine_stored
from tasks.source.stores import StoreStat, store_rows

_DIGITS: Final = re.compile(r"\d+")
_MOST_KEPT: Final = 4096  # names, digits aside, whose answer is kept


class Neighbours:
    """What is beside the empty files of one run: a directory is listed once for each name, digits aside."""

    def __init__(self, archives: Archives | None = None) -> None:
        self._archives = archives or Archives()
        self._answers: dict[tuple[str, str], bool] = {}

    def have_image_like(self, path: str) -> bool:
        """Whether a file of its directory that has its name, digits aside, is an image, whole or not."""
        directory, name = _split(path)
        asked = directory, _DIGITS.sub("", name)
        if (answer := self._answers.get(asked)) is None:
            if len(self._answers) >= _MOST_KEPT:
                self._answers.clear()
            answer = self._answers[asked] = any(map(self._is_image, self._paths(*asked)))
        return answer

    def _paths(self, directory: str, name: str) -> list[str]:
        if is_member(directory):
            return _members(self._archives, *split_member(directory), name)
        return _objects(directory, name) if is_store_url(directory) else _files(directory, name)

    def _is_image(self, path: str) -> bool:
        examine = partial(examine_member, self._archives) if is_member(path) else read_header
        found, _ = examine_stored(path) if is_store_url(path) else examine(path)
        return isinstance(found, Header) or (found.status is Status.INVALID and found.detail != ZEROS)


def _split(path: str) -> tuple[str, str]:
    """Directory and name; of a member within its archive."""
    if not is_member(path):
        return os.path.split(path)
    archive, member = split_member(path)
    directory, name = os.path.split(member)
    return member_path(archive, directory), name


def _files(directory: str, name: str) -> list[str]:
    try:
        with os.scandir(directory) as listing:
            return [entry.path for entry in listing if _DIGITS.sub("", entry.name) == name]
    except OSError:
        return []


def _objects(directory: str, name: str) -> list[str]:
    paths = (os.fsdecode(path) for path, found in store_rows(directory) if isinstance(found, StoreStat))
    return [path for path in paths if _DIGITS.sub("", path[len(directory) + 1 :]) == name]


def _members(archives: Archives, archive: str, directory: str, name: str) -> list[str]:
    try:
        found = [os.path.split(each.name) for each in archives.members(archive)]
    except OSError:
        return []
    names = [base for beside, base in found if beside == directory and _DIGITS.sub("", base) == name]
    return [member_path(archive, f"{directory}/{base}" if directory else base) for base in names]
