"""Instances of the table, as each side is given them."""

from typing import NamedTuple

from tasks.core.signs import SentObject


class Location(NamedTuple):
    """An instance of the report, where its object is looked for, and what was sent there."""

    id: int
    key: str  # escaped
    current_key: str  # the same, or from where it was moved there, or is to be in a moment
    sent: SentObject


class Asked(NamedTuple):
    """An instance that the registry is asked for."""

    id: int
    study_uid: str
    uid: str


class Picked(NamedTuple):
    """An instance to be retrieved, and the file that was sent."""

    id: int
    study_uid: str
    series_uid: str
    uid: str
    path: str  # escaped
    sha256: str
    size_bytes: int | None


class Lacking(NamedTuple):
    """An instance that the bucket lacks."""

    uid: str
    current_key: str  # escaped, as the ledger has it
    sha256: str
