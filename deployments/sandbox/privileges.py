"""Lets root go without its exemption from file permissions: mode 000 then means to root what it means to all.

Linux: capabilities(7), capset(2), prctl(2). Elsewhere root keeps the exemption.
"""

import ctypes
import os
import sys
from typing import Final

_CAP_DAC_OVERRIDE: Final = 1
_CAP_DAC_READ_SEARCH: Final = 2
_MASK: Final = 1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH  # both stand in the first of the two words
_CAPABILITY_VERSION_3: Final = 0x20080522
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop_dac_capabilities() -> bool:
    """Whether file permissions bind this process and its children from now on, for good.

    Call it before any thread is started: the kernel keeps capabilities by thread, and new threads and
    children take after the caller. It changes nothing for a user who has no such capability.
    """
    if sys.platform != "linux":
        return os.geteuid() != 0
    libc = ctypes.CDLL(None, use_errno=True)
    if not _held(libc):
        return True
    _keep_from_children(libc)
    _drop(libc)
    return not _held(libc)


def _held(libc: ctypes.CDLL) -> bool:
    sets = _read(libc)
    return bool((sets[0].effective | sets[0].permitted) & _MASK)


def _read(libc: ctypes.CDLL) -> ctypes.Array[_Sets]:
    sets = (_Sets * 2)()
    if libc.capget(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    return sets


def _keep_from_children(libc: ctypes.CDLL) -> None:
    """A program that root executes is given the whole bounding set again, unless one of these forbids it.

    Each is enough; leaving the bounding set takes CAP_SETPCAP, which a container may lack.
    """
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        libc.prctl(_PR_CAPBSET_DROP, *map(ctypes.c_ulong, (capability, 0, 0, 0)))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))


def _drop(libc: ctypes.CDLL) -> None:
    sets = _read(libc)
    sets[0].effective &= ~_MASK
    sets[0].permitted &= ~_MASK
    sets[0].inheritable &= ~_MASK
    libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets)
