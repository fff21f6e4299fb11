"""No core dump of this process: its memory holds tokens, presigned URLs and images.

prctl(2), core(5). The limit is for children, too; whether a process can be dumped at all each has to say for
itself, for an exec takes it back. By that, /proc/PID/environ and the memory are closed to the same user, too.
"""

import sys
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def forbid_memory_dumps() -> None:
    """For the rest of this process's life. Where the system refuses, nothing changes."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, *map(ctypes.c_ulong, (0, 0, 0, 0)))
