"""The settings of `dicom-ingest plan` alone: how much it reads, and what it is to take for granted."""

import re
from dataclasses import dataclass
from typing import Annotated, Final

from tasks.declaration import PREFIX, Declared, Setting

_RATE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)([kKMGT]?)\Z", re.ASCII)
_UNITS: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def rate_of(text: str) -> float:
    """Bytes a second, as rclone writes them: 200M is 200 MiB; 0 when it is empty. Raises ValueError."""
    if not text:
        return 0.0
    match = _RATE.match(text)
    rate = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if not rate:
        raise ValueError("is a number of bytes a second, such as 500K, 20M or 1.5G")
    return rate


def _checked(text: str) -> str:
    rate_of(text)
    return text


@dataclass(frozen=True, kw_only=True)
class PlanSettings(Declared):
    """Of `dicom-ingest plan`."""

    prefix = f"{PREFIX}PLAN_"

    full: Annotated[
        bool,
        Setting("Read the header of every file, and so find every duplicate and conflict; else a sample."),
    ] = False
    files_per_study: Annotated[
        int, Setting("How many files of each study the sample has, by chance.", limits={"ge": 1, "le": 1000})
    ] = 3
    rate: Annotated[
        str,
        Setting(
            "What the network takes in bytes a second, such as 20M. Default: as an earlier run had it.",
            convert=_checked,
        ),
    ] = ""

    @property
    def bytes_per_s(self) -> float:
        """The rate that was given; 0 when none was."""
        return rate_of(self.rate)
