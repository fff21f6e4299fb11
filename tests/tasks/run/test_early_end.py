"""Work that must end in a report, whatever happens; and what of an error a person may read."""

from dataclasses import dataclass, field

import pytest

from tasks.core.errors import IngestError, InternalError, InterruptedRunError, StoppedError
from tasks.run.early_end import early_end, safe_errors

SECRET = "/archive/Jane^Doe"


@dataclass
class Work:
    stopped_by: list[IngestError] = field(default_factory=list)

    def stop(self, why: IngestError) -> None:
        self.stopped_by.append(why)


@pytest.mark.parametrize(
    ("raised", "kind", "exit_code"),
    [
        (StoppedError("Enough."), StoppedError, 3),
        (KeyError(SECRET), InternalError, 3),
        (KeyboardInterrupt(), InterruptedRunError, 130),
        (SystemExit(1), InterruptedRunError, 130),
    ],
    ids=["an error of ours", "a defect", "Ctrl-C", "a signal"],
)
def test_an_exception_stops_the_work_and_is_kept(
    raised: BaseException, kind: type[IngestError], exit_code: int
) -> None:
    """As one of ours, safe to show."""
    work = Work()
    with early_end(work) as end:
        raise raised
    assert isinstance(end.why, kind)
    assert work.stopped_by == [end.why]
    assert end.why.exit_code == exit_code
    assert SECRET not in str(end.why)


def test_work_that_comes_to_its_end_is_not_stopped() -> None:
    work = Work()
    with early_end(work) as end:
        pass
    assert (end.why, work.stopped_by) == (None, [])


def test_errors_of_others_are_hidden_and_ours_pass() -> None:
    with pytest.raises(InternalError) as hidden, safe_errors():
        raise KeyError(SECRET)
    assert SECRET not in str(hidden.value)
    assert hidden.value.__suppress_context__
    with pytest.raises(StoppedError, match="Enough"), safe_errors():
        raise StoppedError("Enough.")
