"""How fast a run may send."""

from dataclasses import dataclass
from typing import Annotated

from tasks.core.bandwidth import bandwidth_of
from tasks.declaration import Declared, Setting


def understood(text: str) -> str:
    """The same. Raises ValueError for what says no bandwidth."""
    return bandwidth_of(text.strip()).text if text.strip() else ""


@dataclass(frozen=True, kw_only=True)
class BandwidthSettings(Declared):
    """Of what sends files."""

    bandwidth: Annotated[
        str,
        Setting(
            "Send at most so many bytes a second: 200M, off, or rclone's timetable, such as "
            "'Mon-Fri 08:00,20M 19:00,off Europe/Berlin'. B, k, M, G: powers of 1024, a number alone: KiB.",
            convert=understood,
        ),
    ] = ""
