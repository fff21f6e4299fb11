"""Addresses of what lies in a store: `s3://bucket/key`, `sftp://user@host:port/path`. Nothing is encoded."""

import posixpath
import re
from typing import Final, NamedTuple

_URL: Final = re.compile(r"(?P<scheme>s3|sftp)://(?P<place>[^/]*)(?P<path>/.*)?\Z", re.DOTALL)
_COLLAPSED: Final = re.compile(r"(?P<scheme>s3|sftp):/(?P<rest>[^/].*)\Z", re.DOTALL)


class StoreUrl(NamedTuple):
    """Parts of an address; `path` begins with a slash, or is empty."""

    scheme: str
    place: str  # the bucket, or user, host and port
    path: str

    @property
    def has_password(self) -> bool:
        """Whether it holds one: it would be in every row of the report."""
        return ":" in self.place.rpartition("@")[0]


def is_store_url(text: str) -> bool:
    """Whether it names something in a store."""
    return text.startswith(("s3://", "sftp://"))


def split_url(url: str) -> StoreUrl:
    """Its parts; ValueError for what is none."""
    found = _URL.match(url)
    if found is None:
        raise ValueError("no address in a store")
    return StoreUrl(found["scheme"], found["place"], found["path"] or "")


def as_url(path: str) -> str:
    """The address that a path of the command line was: a path holds no two slashes; else empty."""
    if is_store_url(path):
        return path
    found = _COLLAPSED.match(path)
    return f"{found['scheme']}://{found['rest']}" if found else ""


def joined(base: str, path: str) -> str:
    """The address of a directory below another, or as it stands where it is one itself; `..` is resolved."""
    url = path if is_store_url(path) else f"{base.rstrip('/')}/{path}"
    scheme, place, inside = split_url(url)
    normal = posixpath.normpath(f"/{inside.lstrip('/')}")
    return f"{scheme}://{place}{normal.rstrip('/')}"
