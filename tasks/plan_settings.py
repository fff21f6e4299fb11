"""The settings of `dicom-ingest plan` alone: how much it reads, and what it is to take for granted."""

from dataclasses import dataclass
from typing import Annotated

from tasks.core.bandwidth import OFF, rate_of
from tasks.declaration import PREFIX, Declared, Setting


def _checked(text: str) -> str:
    rate_of(text or OFF)
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
            "What the network takes in bytes a second, as 20M. Default: what an earlier run made of it.",
            convert=_checked,
        ),
    ] = ""

    @property
    def bytes_per_s(self) -> float:
        """The rate that was given; 0 when none was."""
        return rate_of(self.rate or OFF) or 0.0
