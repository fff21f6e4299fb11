"""Which files may start: at most so many, and none once the run has lasted long enough.

A file starts when it is to be sent, before a URL is asked for. For the event loop's thread.
"""

import time
from collections.abc import Callable
from typing import Final

from tasks.core.errors import PlannedEndError
from tasks.core.run_bounds import Bound

_GOES_ON: Final = "The next run of the same command goes on from here."
_MOST_STUDIES: Final = 500  # more than files can be under way
_ENOUGH_FILES: Final = f"To be continued: as many files were begun as --max-files says. {_GOES_ON}"
_LONG_ENOUGH: Final = f"To be continued: the run has lasted for --max-duration. {_GOES_ON}"


class Starts:
    """One for all files of a run; it begins with the run."""

    def __init__(
        self,
        max_files: int | None = None,
        max_duration_s: float | None = None,
        elapsed: Callable[[], float] = time.monotonic,
        begun: int = 0,
    ) -> None:
        """`elapsed`: a clock in seconds that nobody sets. `begun`: files that this run has begun before."""
        self._max_files = max_files
        self._elapsed = elapsed
        self._ends_at = None if max_duration_s is None else elapsed() + max_duration_s
        self.begun = begun
        self._studies: dict[int, None] = {}  # of the last files that began, in their order

    @property
    def studies(self) -> list[int]:
        """Those of which files were begun lately, by study_no: all that may be started and not finished."""
        return [*self._studies]

    def begin(self, study_no: int) -> None:
        """One more file starts. Raises PlannedEndError when it may not."""
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
