"""The settings that say how much of its work a run does, and when, and in which order."""

from dataclasses import dataclass
from typing import Annotated, Any

from tasks.core.models import Order
from tasks.core.run_bounds import DURATION, duration_s
from tasks.core.time_windows import Windows, windows_of
from tasks.declaration import Declared, Setting


def _not_negative(count: int | None) -> int | None:
    if count is not None and count < 0:
        raise ValueError("is a number of files, or nothing")
    return count


def _checked(convert: Any) -> Any:
    """The same text, when it can be converted."""

    def check(text: str) -> str:
        convert(text)
        return text

    return check


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(Declared):
    """Bounds of one run: what they leave undone, the next one does."""

    window: Annotated[
        str,
        Setting(
            "When files may start, such as Mon-Fri 19:00-06:00 Europe/Berlin; several separated by commas.",
            convert=_checked(windows_of),
        ),
    ] = ""
    max_files: Annotated[
        int | None,
        Setting(
            "Send no more than so many files in this run. Default: all.",
            convert=_not_negative,
            form={"minimum": 0},
        ),
    ] = None
    max_duration: Annotated[
        str,
        Setting(
            "Begin to send no file once the run has lasted so long: 8h, 90m, 1h30m, or seconds.",
            convert=_checked(duration_s),
            form={"pattern": DURATION},
        ),
    ] = ""

    order: Annotated[
        Order,
        Setting("Which studies first: by the manifest's priority, or the newest, oldest or smallest ones."),
    ] = Order.MANIFEST

    @property
    def windows(self) -> Windows:
        """When files may start."""
        return windows_of(self.window)

    @property
    def max_duration_s(self) -> int | None:
        """In seconds; None: as long as it takes."""
        return duration_s(self.max_duration)
