"""Each study's verdict: how much of it is registered and confirmed, and whether its directory may go."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Generic, NamedTuple, TypeVar

from tasks.comparison.fresh_look import FreshLook, Reported, by_study
from tasks.comparison.instance_table import InstanceTable
from tasks.core.completeness import Completeness
from tasks.core.signs import (
    InBucket,
    InRegistry,
    SafeToDelete,
    Sides,
    Sign,
    StudyStanding,
    safe_to_delete,
    sign_of,
)
from tasks.report.studies_csv import WrittenStudy

_IN_BUCKET: Final = (InBucket.SAME, InBucket.THERE)
_T = TypeVar("_T")


class StudyVerdict(NamedTuple):
    """A row of studies.csv, and what it says from now on."""

    study: WrittenStudy
    standing: StudyStanding
    safe: SafeToDelete

    def written(self, *, registry_asked: bool) -> WrittenStudy:
        """The row with its verdict."""
        said = {
            "registered": str(self.standing.registered) if registry_asked else "",
            "confirmed": str(self.standing.confirmed),
            "safe_to_delete": str(self.safe),
        }
        return WrittenStudy(self.study.cells | said, self.study.carried)


def study_verdicts(
    table: InstanceTable,
    studies: Iterator[WrittenStudy],
    look: FreshLook,
    cells: Iterator[list[Any]],
    *,
    bucket_asked: bool,
) -> Iterator[StudyVerdict]:
    """Of each study, in their order. A directory is walked only where all else lets it go.

    `cells`: the report's rows, with `fresh_look.CELLS`.
    """
    counted = _InStep(_by_number(table.counts_by_study()))
    reported = _InStep(by_study(cells))
    for study in studies:
        study_no = int(study.cells["study_no"])
        counts = counted.at(study_no) or iter(())
        is_complete = study.cells["complete"] == Completeness.COMPLETE
        may_go = table.rows_may_go(study_no)
        standing = _standing(counts, is_complete, may_go, bucket_asked=bucket_asked)
        is_unchanged = standing.is_proved and _is_unchanged(look, study, reported.at(study_no))
        yield StudyVerdict(study, standing, safe_to_delete(standing, is_unchanged=is_unchanged))


def _is_unchanged(look: FreshLook, study: WrittenStudy, rows: Iterator[Reported] | None) -> bool:
    return rows is not None and look.is_unchanged(study.entry(), rows)


def _standing(
    counts: Iterator[tuple[int, Sides, int]], is_complete: bool, may_go: bool, *, bucket_asked: bool
) -> StudyStanding:
    instances = registered = in_bucket = confirmed = compared = 0
    for _, sides, count in counts:
        instances += count
        registered += count * (sides.registry is InRegistry.THERE)
        in_bucket += count * (sides.bucket in _IN_BUCKET)
        confirmed += count * (sign_of(sides) is Sign.EVERYWHERE)
        compared += count * sides.is_compared
    return StudyStanding(
        is_complete, may_go, instances, registered, in_bucket, confirmed, compared, bucket_asked
    )


def _by_number(
    rows: Iterator[tuple[int, Sides, int]],
) -> Iterator[tuple[int, Iterator[tuple[int, Sides, int]]]]:
    return groupby(rows, key=itemgetter(0))


class _InStep(Generic[_T]):
    """Something of each study, by rising study_no, asked for in that order."""

    def __init__(self, groups: Iterator[tuple[int, _T]]) -> None:
        self._groups = groups
        self._next = next(groups, None)

    def at(self, study_no: int) -> _T | None:
        """That of this study; None when there is none."""
        while self._next is not None and self._next[0] < study_no:
            self._next = next(self._groups, None)
        if self._next is None or self._next[0] != study_no:
            return None
        return self._next[1]
