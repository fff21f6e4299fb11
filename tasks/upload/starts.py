"""Which files may start: at most so many, none once the run has lasted long enough, none outside a window.

A file starts when it is begun to be read, and counts once it is to be sent, before a URL is asked for. For
the event loop's thread.
"""

import time
from collections.abc import Callable
from typing import Final

from tasks.core.errors import PlannedEndError
from tasks.core.run_bounds import Bound
from tasks.core.time_windows import Windows

_MOST_STUDIES: Final = 500  # more than files can be under way
_SOON_S: Final = 3600.0  # a window that opens so soon is waited for, whoever began the run
_GOES_ON: Final = "The next run of the same command goes on from here."
_ENOUGH_FILES: Final = f"To be continued: as many files were begun as --max-files says. {_GOES_ON}"
_LONG_ENOUGH: Final = f"To be continued: the run has lasted for --max-duration. {_GOES_ON}"


class Starts:
    """One for all files of a run; it begins with the run."""

    def __init__(
        self,
        max_files: int | None = None,
        max_duration_s: float | None = None,
        windows: Windows = Windows(),  # noqa: B008 - frozen
        elapsed: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
        begun: int = 0,
    ) -> None:
        """`elapsed`: a clock in seconds that nobody sets. `begun`: files that this run has begun before."""
        self._max_files = max_files
        self._elapsed = elapsed
        self._ends_at = None if max_duration_s is None else elapsed() + max_duration_s
        self._windows = windows
        self._clock_ns = clock_ns
        self._ends_with_window = False
        self._is_open = True
        self._known_ns = (0, 0)  # from when until when that holds
        self.begun = begun
        self._studies: dict[int, None] = {}  # of the last files that began, in their order

    def end_with_window(self) -> None:
        """Where no window is open, or opens soon, the run is over, and does not wait for the next one."""
        self._ends_with_window = True

    @property
    def studies(self) -> list[int]:
        """Those of which files were begun lately, by study_no: all that may be started and not finished."""
        return [*self._studies]

    @property
    def opens(self) -> str:
        """When the next window opens, by the clock on its wall, or "never"; empty while one is open."""
        if self.are_open():
            return ""
        now_s = self._clock_ns() / 1e9
        at_s = self._windows.next_change(now_s)
        return "never" if at_s is None else self._windows.in_words(at_s, now_s)

    def are_open(self) -> bool:
        """Whether a window is, by a clock that may have been set, on a machine that may have slept."""
        if not self._windows.tables:
            return True
        now_ns = self._clock_ns()
        if not self._known_ns[0] <= now_ns < self._known_ns[1]:
            change = self._windows.next_change(now_ns / 1e9)
            self._is_open = self._windows.is_open(now_ns / 1e9)
            self._known_ns = (now_ns, 2**63 if change is None else round(change * 1e9))
        return self._is_open

    def begin(self, study_no: int) -> None:
        """One more file is to be sent. Raises PlannedEndError when it may not."""
        self.raise_if_over()
        if self._max_files is not None and self.begun >= self._max_files:
            raise PlannedEndError(_ENOUGH_FILES, Bound.MAX_FILES)
        self.begun += 1
        self._studies.pop(study_no, None)
        self._studies[study_no] = None
        if len(self._studies) > _MOST_STUDIES:
            del self._studies[next(iter(self._studies))]

    def raise_if_over(self) -> None:
        """PlannedEndError once nothing may be sent any more, be it again."""
        if self._ends_at is not None and self._elapsed() >= self._ends_at:
            raise PlannedEndError(_LONG_ENOUGH, Bound.MAX_DURATION)
        if self._ends_with_window and not self.are_open() and not self._open_soon():
            raise PlannedEndError(
                f"To be continued: the window is closed, and opens {self.opens}. {_GOES_ON}", Bound.WINDOW
            )

    def _open_soon(self) -> bool:
        return self._known_ns[1] - self._clock_ns() <= _SOON_S * 1e9
