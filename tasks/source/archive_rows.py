"""The rows of an archive's members, behind its own."""

import os
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from tasks.core.member_paths import member_path
from tasks.core.models import ArchiveState
from tasks.source.archive_file import Member
from tasks.source.archives import Archives

_Row = TypeVar("_Row")


class MemberStat(NamedTuple):
    """A member's size, and the times of its archive: a member is unchanged while that is."""

    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int


def with_members(
    rows: Iterator[tuple[bytes, _Row]], archives: Archives | None
) -> Iterator[tuple[bytes, _Row | MemberStat | ArchiveState]]:
    """The same rows, and behind each archive those of what is in it. None: no archive is read."""
    if archives is None:
        yield from rows
        return
    for path, found in rows:
        yield path, found
        if isinstance(found, os.stat_result):
            yield from _members(os.fsdecode(path), found, archives)


def _members(
    path: str, found: os.stat_result, archives: Archives
) -> Iterator[tuple[bytes, MemberStat | ArchiveState]]:
    times = found.st_mtime_ns, found.st_ctime_ns
    try:
        for each in archives.members(path):
            name = os.fsencode(member_path(path, each.name))
            yield name, MemberStat(each.size_bytes, *times) if isinstance(each, Member) else each.state
    except OSError:  # as its own row will say, with the cause
        yield os.fsencode(member_path(path, "")), ArchiveState.DAMAGED
