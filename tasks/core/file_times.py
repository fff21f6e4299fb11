"""What a file's times are evidence of. Pure; Unix nanoseconds."""

from typing import Final

_MOST: Final = 2**63 - 1  # what a database keeps; SMB's 1601 and some servers' far future are beyond it
RACY_NS: Final = 2_000_000_000  # as coarse as FAT's mtime, and no clock is set better
AHEAD_NS: Final = 24 * 3600 * 1_000_000_000  # a clock that is farther ahead says nothing about a file's age


def kept_ns(time_ns: int) -> int:
    """A file's time as it is kept and compared: the nearest that 64 bits hold."""
    return max(-_MOST, min(time_ns, _MOST))


def is_racy(mtime_ns: int | None, read_ns: int | None) -> bool:
    """Whether a file may have been written after it was read, and its mtime be the same.

    An mtime no older than that may get other bytes under it, as git's index knows. A file that an earlier
    version read, nobody knows when, is not.
    """
    return mtime_ns is not None and read_ns is not None and mtime_ns > read_ns - RACY_NS
