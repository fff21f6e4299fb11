"""What is asked of the ledger for one file. No database comes with it."""

from collections.abc import Collection
from typing import NamedTuple, TypeAlias

from tasks.core.duplicates import Claim
from tasks.core.models import Outcome, Todo


class Claiming(NamedTuple):
    """A file asks for a SOP Instance UID; with `sha256`, for these bytes beside others that are stored."""

    todo: Todo
    sop_instance_uid: str
    sha256: str = ""
    is_to_be_sent: bool = True  # else it asks only whether they are stored


class Issuing(NamedTuple):
    """A file is to be sent to a key."""

    todo: Todo
    sop_instance_uid: str
    key: str
    now_ns: int


class Settling(NamedTuple):
    """A file has its outcome, or none: it waits; `claimed` are the SOP Instance UIDs claimed for it."""

    todo: Todo
    outcome: Outcome | None
    claimed: Collection[str] = ()


class Reaching(NamedTuple):
    """A file is about to go to a host of the store's, host:port, that none went to before."""

    storage_host: str


FileRequest: TypeAlias = Claiming | Issuing | Settling | Reaching
FileAnswer: TypeAlias = Claim | bool | None  # to a claim; whether a key is the file's own; to the others
