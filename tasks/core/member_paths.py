"""The path of a member of an archive: the archive's, a NUL, the member's name in it.

No path of an operating system holds a NUL, so none is taken for a member's. Written down it is a `!`:
`core/escape.py`. What is read as an archive has a name that says so: a scan opens no other file.
"""

import re
from typing import Final

SEPARATOR: Final = "\0"
SUFFIXES: Final = (".zip", ".tar", ".tgz", ".gz")
_IS_ARCHIVE: Final = re.compile(rf"(?:{'|'.join(map(re.escape, SUFFIXES))})\Z", re.IGNORECASE)
# What stands behind such a name: before a `!` or a NUL that have to differ when a path is written down.
BEHIND_ARCHIVE: Final = f"(?:{'|'.join(f'(?<={re.escape(each)})' for each in SUFFIXES)})"


def is_archive_name(name: str) -> bool:
    """Whether a file of this name may be an archive that is read."""
    return _IS_ARCHIVE.search(name) is not None


def member_path(archive: str, name: str) -> str:
    """The path of a member. Without a name: of what of an archive can't be read."""
    return f"{archive}{SEPARATOR}{name}"


def is_member(path: str) -> bool:
    """Whether it is a member's path, not a file's."""
    return SEPARATOR in path


def split_member(path: str) -> tuple[str, str]:
    """The archive's path, and the member's name."""
    archive, _, name = path.partition(SEPARATOR)
    return archive, name
