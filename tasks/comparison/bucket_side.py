"""The bucket's side: its listing, and by itself whatever that does not show or say enough of."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, NamedTuple, Protocol

from tasks.comparison.instance_table import InstanceTable
from tasks.comparison.patience import Patience
from tasks.comparison.table_rows import Location
from tasks.core.comparison_progress import ComparisonProgress
from tasks.core.errors import Fault, UsageError
from tasks.core.escape import escape, unescape
from tasks.core.signs import InBucket, SeenObject, judge_asked, judge_listed

_ASKED_AT_ONCE: Final = 16  # objects by themselves
_TRIED: Final = 100  # of a bucket whose listing has none of the report's keys
_CONFIRMED: Final = (InBucket.SAME, InBucket.THERE)
WRONG_BUCKET: Final = (
    "Not one of the report's keys is in the bucket: it is another bucket, or another prefix. Nothing was "
    "written. Check --bucket and AWS_ENDPOINT_URL_S3."
)


class Described(Protocol):
    """An object as a store describes it."""

    @property
    def key(self) -> str:
        """Its name."""
        ...

    @property
    def size_bytes(self) -> int:
        """Its size."""
        ...

    @property
    def etag(self) -> str:
        """What the store calls its content."""
        ...

    @property
    def checksum(self) -> str:
        """CRC64NVME of all of it, in base64; empty where it is not shown."""
        ...


class Bucket(Protocol):
    """A bucket, as far as it is asked here; each may raise Fault."""

    def pages(self) -> Iterable[Sequence[Described]]:
        """All objects, so many at once."""
        ...

    def head(self, key: str) -> Described | None:
        """One object with its checksum; None: there is none."""
        ...


class _Said(NamedTuple):
    at: int
    bucket: InBucket
    size_bytes: int = 0  # of the object
    key: str = ""  # escaped: under which it was found, where that is another than it was looked for


def ask_bucket(
    table: InstanceTable, bucket: Bucket, patience: Patience, progress: ComparisonProgress
) -> None:
    """Keeps in the table what the bucket says of every stored instance.

    What it does not list is asked for by itself before it is missing, and so is what of which neither size
    nor ETag say enough, for its checksum. Raises UsageError for a bucket that has none of the keys.
    """
    progress.begin("objects", table.count_stored(), _ASKED_AT_ONCE)
    side = _BucketSide(table, bucket, patience, progress)
    for page in bucket.pages():
        side.compare_listed(page)
    if not side.found and not side.is_any_there():
        raise UsageError(WRONG_BUCKET)
    for locations in table.not_in_bucket():
        side.ask(locations)


class _BucketSide:
    def __init__(
        self, table: InstanceTable, bucket: Bucket, patience: Patience, progress: ComparisonProgress
    ) -> None:
        self.found = 0
        self._table = table
        self._bucket = bucket
        self._patience = patience
        self._progress = progress

    def compare_listed(self, page: Sequence[Described]) -> None:
        """Of one page of the listing: what it says, and by themselves what it says nothing of."""
        objects = {escape(each.key): each for each in page}
        said, unclear = [], []
        for location in self._table.at_keys(each.key for each in page):
            judged = judge_listed(location.sent, _seen(objects[location.key]))
            if judged is None:
                unclear.append(location)
            else:
                said.append(_Said(location.id, judged, objects[location.key].size_bytes))
        self.found += len(said) + len(unclear)
        self._keep(said)
        self.ask(unclear)

    def ask(self, locations: Sequence[Location]) -> None:
        """Each of them by itself."""
        self._keep(self._asked(locations))

    def is_any_there(self) -> bool:
        """Whether one of the first is there, listed or not. True where nothing is to be looked for."""
        for locations in self._table.not_in_bucket():
            said = [*self._asked(locations[:_TRIED])]
            return any(each.bucket is not InBucket.MISSING for each in said)
        return True

    def _asked(self, locations: Sequence[Location]) -> Iterator[_Said]:
        with ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="head") as pool:
            waiting = iter(locations)
            while some := [*islice(waiting, 4 * _ASKED_AT_ONCE)]:
                yield from pool.map(self._ask_one, some)

    def _ask_one(self, location: Location) -> _Said:
        """Also where it was before it was moved: a move that was interrupted leaves it there."""
        said, size_bytes = self._said_of(location.key, location)
        if said is InBucket.MISSING and location.current_key != location.key:
            said, size_bytes = self._said_of(location.current_key, location)
            found_at = location.current_key if said is not InBucket.MISSING else ""
            return _Said(location.id, said, size_bytes, found_at)
        return _Said(location.id, said, size_bytes)

    def _said_of(self, key: str, location: Location) -> tuple[InBucket, int]:
        """With the object's size."""
        if self._patience.is_over:
            return InBucket.UNKNOWN, 0
        seen = 0
        while True:
            try:
                with self._progress.asking():
                    described = self._bucket.head(unescape(key))
            except Fault as fault:
                seen += 1
                pause_s = self._patience.pause_s(fault, seen)
                if pause_s is None:
                    self._patience.record(is_answered=False)
                    return InBucket.UNKNOWN, 0
                self._patience.sleep(pause_s)
            else:
                self._patience.record(is_answered=True)
                if described is None:
                    return InBucket.MISSING, 0
                return judge_asked(location.sent, _seen(described)), described.size_bytes

    def _keep(self, said: Iterable[_Said]) -> None:
        kept = [*said]
        self._table.set_bucket((each.at, each.bucket) for each in kept)
        self._table.set_found((each.at, each.key) for each in kept if each.key)
        self._progress.count(len(kept))
        self._progress.count_bytes(sum(each.size_bytes for each in kept))
        self._progress.count_not_confirmed("bucket", sum(each.bucket not in _CONFIRMED for each in kept))


def _seen(described: Described) -> SeenObject:
    return SeenObject(described.size_bytes, described.etag, described.checksum)
