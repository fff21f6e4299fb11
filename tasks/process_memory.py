"""The memory of this process: what becomes of it, and how much of it is reserved.

prctl(2), core(5), mallopt(3).
"""

import gc
import sys
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_M_ARENA_MAX: Final = -8
_COLLECTED_AFTER_AT_FIRST: Final = 400_000  # objects; 700 is usual
_COLLECTED_AFTER: Final = 50_000


def forbid_memory_dumps() -> None:
    """No core dump for the rest of its life: it holds tokens, presigned URLs and images.

    The limit is for children, too; whether a process can be dumped at all each has to say for itself, as an
    exec takes it back. By that, its memory and /proc/PID/environ are closed to the same user. Where the
    system refuses, nothing changes.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, *map(ctypes.c_ulong, (0, 0, 0, 0)))


def share_memory_between_threads() -> None:
    """Before threads start: glibc would reserve 64 MiB of address space for each, used or not."""
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # another libc has no arenas
            import ctypes

            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def defer_collection() -> None:
    """While a process imports: that makes some hundred thousand objects, and among them is no garbage."""
    gc.set_threshold(_COLLECTED_AFTER_AT_FIRST)


def keep_imports() -> None:
    """Once all is imported, where collection was deferred: in what there is now nobody looks for garbage."""
    if gc.get_threshold()[0] == _COLLECTED_AFTER_AT_FIRST:
        gc.freeze()
        gc.set_threshold(_COLLECTED_AFTER)


def skip_last_collection() -> None:
    """Before a process ends: all that it has would be looked through once more, for a tenth of a second."""
    gc.freeze()
