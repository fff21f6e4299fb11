"""The counters of a run, over runs that are killed, resumed and run again: true after each step."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from tasks.core.models import EXIT_ONE, Outcome, Reason, Status
from tasks.core.object_outcomes import ObjectOutcome, ObjectStatus
from tasks.core.plan import Enrolled
from tasks.core.progress import OBJECTS, Found, Progress, is_bad

# What a file may end in; a stored one is not looked at again.
OUTCOMES = [
    Status.UPLOADED,
    Status.ALREADY_UPLOADED,
    Status.DUPLICATE,
    Status.CONFLICT,
    Status.NOT_DICOM,
    Status.INVALID,
    Status.UNREADABLE,
    Status.CHANGED,
    Status.FAILED,
]
STORED = {Status.UPLOADED, Status.ALREADY_UPLOADED, Status.DUPLICATE}
sizes = st.integers(0, 10_000)


@dataclass
class Campaign:
    """Files, what became of each so far, and a progress that each run begins anew."""

    sizes: list[int]
    ledger: dict[int, Status] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    listed: int = 0
    to_do: list[int] = field(default_factory=list)
    stored: int = 0  # by this run
    stored_bytes: int = 0

    def begin(self) -> None:
        """Also after a kill: what was under way is as the ledger has it."""
        self.progress, self.listed, self.to_do, self.stored, self.stored_bytes = Progress(), 0, [], 0, 0

    def scan(self, count: int) -> None:
        rows = range(self.listed, min(len(self.sizes), self.listed + count))
        self.listed += len(rows)
        left = [row for row in rows if self.ledger.get(row) not in STORED]
        self.to_do += left
        again = {row: self.ledger[row] for row in left if is_bad(self.ledger.get(row, ""))}
        size, to_do = (sum(self.sizes[row] for row in some) for some in (rows, left))
        self.progress.count_listed(Found(len(rows), len(left), size, to_do, again=again))

    def settle(self, which: int, status: Status, size: int | None) -> None:
        if not self.to_do:
            return
        row = self.to_do.pop(which % len(self.to_do))
        self.ledger[row] = status
        self.stored += status is Status.UPLOADED
        self.stored_bytes += (size or 0) if status is Status.UPLOADED else 0
        self.progress.count_sent(Outcome(status, Reason.NONE, size_bytes=size), row)

    def check(self) -> None:
        said = self.progress
        seen = [self.ledger.get(row, "") for row in range(self.listed)]
        assert (said.files_listed, said.files_done) == (self.listed, self.listed - len(self.to_do))
        assert said.files_failed == seen.count(Status.FAILED)
        assert said.files_held_back == sum(each in EXIT_ONE for each in seen) - said.files_failed
        assert (said.files_stored, said.bytes_stored) == (self.stored, self.stored_bytes)
        assert said.bytes_listed == sum(self.sizes[: self.listed])
        assert 0 <= said.bytes_done <= said.bytes_listed
        assert said.bytes_done == said.bytes_listed or self.to_do


steps = st.one_of(
    st.tuples(st.just("scan"), st.integers(1, 5)),
    st.tuples(st.just("settle"), st.integers(0, 99), st.sampled_from(OUTCOMES), st.none() | sizes),
    st.tuples(st.just("begin")),
)


@given(st.lists(sizes, max_size=12), st.lists(steps, max_size=60))
def test_counters_are_true_over_kills_and_resumes(files: list[int], did: list[tuple[object, ...]]) -> None:
    """What is stored is done and not stored twice; what failed has failed until it is tried again; and bytes
    go from none to all, whatever a file's size has become since it was listed."""
    campaign = Campaign(files)
    for name, *arguments in did:
        getattr(campaign, str(name))(*arguments)
        campaign.check()


@given(st.lists(sizes, min_size=1, max_size=12), st.lists(st.sampled_from(OUTCOMES), min_size=12))
def test_counters_never_fall_within_a_run_but_for_what_is_tried_again(
    files: list[int], outcomes: list[Status]
) -> None:
    campaign = Campaign(files)
    campaign.scan(len(files))
    before = campaign.progress.counters()
    for status in outcomes:
        campaign.settle(0, status, None)
        now = campaign.progress.counters()
        assert all(now[name] >= before[name] for name in before)
        before = now


def test_what_failed_counts_as_failed_until_it_is_tried_again() -> None:
    progress = Progress()
    progress.count_listed(Found(3, 2, 30, 20, again={7: Status.FAILED, 8: Status.INVALID}))
    assert (progress.files_done, progress.files_failed, progress.files_held_back) == (1, 1, 1)
    progress.count_sent(Outcome(Status.UPLOADED, size_bytes=10), 7)
    assert (progress.files_stored, progress.files_failed, progress.files_held_back) == (1, 0, 1)
    progress.count_sent(Outcome(Status.INVALID, size_bytes=10), 8)
    assert (progress.files_failed, progress.files_held_back, progress.bytes_done) == (0, 1, 30)


def test_what_the_scan_itself_holds_back_is_counted() -> None:
    """A directory that can't be read, a file that changed a moment ago."""
    progress = Progress()
    progress.count_listed(Found(2, 0, 5, 0, held_back=1))
    assert (progress.files_done, progress.files_held_back, progress.bytes_done) == (2, 1, 5)


def test_an_object_that_an_earlier_run_has_listed_is_counted_when_it_is_done() -> None:
    """A listing that was cut off goes on where it was: never is more done than there is."""
    progress = Progress(nouns=OBJECTS)
    progress.count_listed(Found(1, 1, 10, 10))
    for _ in range(2):
        progress.count_object(ObjectOutcome(status=ObjectStatus.REGISTERED, size_bytes=10))
    progress.count_done()
    assert (progress.files_listed, progress.files_done) == (3, 3)
    assert (progress.bytes_listed, progress.bytes_done) == (20, 20)


def test_rows_that_are_enrolled_in_halves_count_once() -> None:
    """As they are when the database refuses one of them."""
    one = Enrolled(1, 0, Found(2, 1, 20, 10, again={1: Status.FAILED}))
    other = Enrolled(2, 1, Found(3, 2, 30, 20, 1, again={2: Status.INVALID}))
    found = Found(5, 3, 50, 30, 1, again={1: Status.FAILED, 2: Status.INVALID})
    assert one.beside(other) == Enrolled(3, 1, found)
