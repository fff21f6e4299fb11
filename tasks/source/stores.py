"""What lies in a store that fsspec knows: listed page by page, read as a stream; no path of it is local.

Credentials are those of the library: of S3 the environment or profile (AWS_...), of SFTP the agent and keys
of ~/.ssh, and a host has to be in ~/.ssh/known_hosts.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from io import RawIOBase
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tasks.core.errors import UsageError
from tasks.core.file_times import kept_ns
from tasks.core.models import Reason
from tasks.core.store_urls import split_url

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MISSING_EXTRA: Final = (
    "Manifests and studies in a store (s3://, sftp://) need packages that are not installed. In the "
    "directory of this project, pip install '.[stores]' adds them. Nothing was sent."
)
_PAGE_KEYS: Final = 1000
_BLOCK_BYTES: Final = 1 << 20  # read at once of what is streamed
_PIECE_BYTES: Final = 32 * 1024  # of an SFTP request


class StoreStat(NamedTuple):
    """Size and times of an object or a remote file, by the names of `os.stat_result`.

    `st_ctime_ns` is no time: a number of the object's ETag, which is another one when its bytes are.
    """

    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int


def require_stores(urls: bool) -> None:
    """UsageError when there are addresses in a store and the packages for them are not installed."""
    if not urls:
        return
    try:
        import paramiko  # noqa: F401
        import s3fs  # noqa: F401
    except ImportError:
        raise UsageError(_MISSING_EXTRA) from None


class _StoreFile(RawIOBase):
    """A file of the library's, of which every fault is an OSError."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        with _opened(self._url):
            data = self._read(len(view))
        view[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        """Of SFTP in pieces that are asked for at once: one after the other they take a round trip each."""
        if not hasattr(self._file, "readv"):
            return bytes(self._file.read(size))
        start = self._file.tell()
        end = min(start + size, self._file.stat().st_size)
        pieces = [(at, min(_PIECE_BYTES, end - at)) for at in range(start, end, _PIECE_BYTES)]
        data = b"".join(self._file.readv(pieces))
        self._file.seek(start + len(data))
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _opened(self._url):
            self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        with suppress(OSError), _opened(self._url):
            self._file.close()
        super().close()


def open_store_file(url: str) -> RawIOBase:
    """An object or remote file, to be read from any place. OSError when it can't be."""
    with _opened(url) as (files, path):
        return _StoreFile(files.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="readahead"), url)


def read_store_file(url: str) -> bytes:
    """All of its bytes. OSError when they can't be read."""
    if url.startswith("s3:"):  # by one request
        with _opened(url) as (files, path):
            return bytes(files.cat_file(path))
    with open_store_file(url) as file:
        return b"".join(iter(lambda: file.read(_BLOCK_BYTES) or b"", b""))


def stat_store_file(url: str) -> StoreStat:
    """Its size and times now. OSError when it is gone, or no file."""
    with _opened(url) as (files, path):
        found = files.info(path)
        if found["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, "no file")
        return _stat(found)


def is_in_store(url: str) -> bool | None:
    """Whether something is there; None when that can't be known."""
    try:
        with _opened(url) as (files, path):
            files.info(path)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return True


def store_rows(url: str) -> Iterator[tuple[bytes, StoreStat | Reason]]:
    """Every file below an address, in the order of whole paths; with a slash behind what can't be listed.

    Of S3 each key, a page at a time; what stands for a directory there has no row.
    """
    at = os.fsencode(f"{url}/")
    try:
        rows = _keys(url) if url.startswith("s3:") else _remote_files(url)
        yield next(rows, None) or (at, Reason.NOT_FOUND)
        yield from rows
    except OSError as error:
        yield at, _reason(error)


def _keys(url: str) -> Iterator[tuple[bytes, StoreStat | Reason]]:
    _, bucket, inside = split_url(url)
    prefix = f"{inside.strip('/')}/" if inside.strip("/") else ""
    asked = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": _PAGE_KEYS}
    more = True
    while more:
        with _opened(url) as (files, _):
            page = files.call_s3("list_objects_v2", **asked)
        for each in page.get("Contents", ()):
            path = os.fsencode(f"s3://{bucket}/{each['Key']}")
            if not path.endswith(b"/"):
                yield path, _stat({**each, "size": each["Size"]})
            elif each["Size"]:  # no path of a file
                yield path, Reason.IO_ERROR
        more = bool(page.get("IsTruncated"))
        asked["ContinuationToken"] = page.get("NextContinuationToken", "")


def _remote_files(top: str) -> Iterator[tuple[bytes, StoreStat | Reason]]:
    """Directory by directory: the names of one path are held."""
    waiting = [(top.rstrip("/"), True)]
    while waiting:
        url, is_directory = waiting.pop()
        try:
            if is_directory:
                waiting += _below(url)
            else:
                yield os.fsencode(url), stat_store_file(url)
        except IsADirectoryError:  # by a link
            yield os.fsencode(url), Reason.LINK_OUTSIDE_ROOT
        except OSError as error:
            if url == top.rstrip("/"):
                raise
            yield os.fsencode(url + "/" * is_directory), _reason(error)


def _below(directory: str) -> list[tuple[str, bool]]:
    """Addresses in a directory, each with whether it is one, last first."""
    with _opened(directory) as (files, path):
        names = [
            (each["name"].rpartition("/")[2], each["type"]) for each in files.ls(path or "/", detail=True)
        ]
    found = [(f"{directory}/{name}", kind == "directory") for name, kind in names]
    return sorted(found, key=lambda each: os.fsencode(each[0]) + b"/" * each[1], reverse=True)


def _stat(found: Any) -> StoreStat:
    time = found.get("LastModified") or found["mtime"]
    etag = str(found.get("ETag", "")).strip('"')
    number = int.from_bytes(hashlib.sha256(etag.encode()).digest()[:7], "big") if etag else 0
    return StoreStat(int(found["size"]), kept_ns(int(time.timestamp()) * 10**9), number)


def _reason(error: OSError) -> Reason:
    if isinstance(error, FileNotFoundError):
        return Reason.NOT_FOUND
    if isinstance(error, NotADirectoryError):
        return Reason.NOT_A_DIRECTORY
    return Reason.PERMISSION if isinstance(error, PermissionError) else Reason.IO_ERROR


# --- the library ---

_CONNECTIONS: Final = 4  # to one SFTP server
_TIMEOUT_S: Final = 60.0
_ALIVE_S: Final = 30


class _Shared(NamedTuple):
    """A file system of the library, and who may use it: paramiko's has one user at a time."""

    files: Any
    lock: AbstractContextManager[object]


_connections: dict[tuple[str, str, int], _Shared] = {}  # by scheme, user, host and port, and connection
_lock: Final = threading.Lock()


@contextmanager
def _opened(url: str) -> Iterator[tuple[Any, str]]:
    """The library's file system for an address, and the path there, for one request and its answer.

    What it raises becomes an OSError that has none of its words: they name what it is about.
    """
    parts = split_url(url)
    is_s3 = parts.scheme == "s3"
    at = ("s3", "", 0) if is_s3 else (parts.scheme, parts.place, hash(url) % _CONNECTIONS)
    try:
        with _lock:
            if at not in _connections:
                _connections[at] = (
                    _Shared(_s3(), nullcontext()) if is_s3 else _Shared(_sftp(parts.place), RLock())
                )
            files, lock = _connections[at]
        with lock:
            yield files, f"{parts.place}{parts.path}" if is_s3 else parts.path
    except IsADirectoryError:
        raise IsADirectoryError(errno.EISDIR, "no file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, "not there") from None
    except Exception as error:  # noqa: BLE001 - of three libraries, each with kinds of its own
        kind = type(error).__name__
        if isinstance(error, PermissionError) or "Credential" in kind or "Authentication" in kind:
            raise PermissionError(errno.EACCES, "not permitted") from None
        if not is_s3:  # its connection may be lost: who comes next makes another
            with _lock:
                _connections.pop(at, None)
        raise OSError(errno.EIO, "it can't be read") from None


def _s3() -> Any:
    import s3fs

    # Some stores answer a range with the checksum of the whole object, which botocore would hold it against.
    config = {"response_checksum_validation": "when_required"}
    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, config_kwargs=config)


def _sftp(place: str) -> Any:
    import paramiko
    from fsspec.implementations.sftp import SFTPFileSystem

    class KnownHosts(SFTPFileSystem):  # type: ignore[misc]
        """To hosts that ~/.ssh/known_hosts has, and no others."""

        def _connect(self) -> None:
            self.client = paramiko.SSHClient()
            self.client.load_system_host_keys()
            self.client.set_missing_host_key_policy(paramiko.RejectPolicy())
            timeouts = dict.fromkeys(("timeout", "banner_timeout", "auth_timeout"), _TIMEOUT_S)
            self.client.connect(self.host, **timeouts, **self.ssh_kwargs)
            self.client.get_transport().set_keepalive(_ALIVE_S)
            self.ftp = self.client.open_sftp()
            self.ftp.get_channel().settimeout(_TIMEOUT_S)

    user, _, address = place.rpartition("@")
    host, _, port = address.partition(":")
    given: dict[str, Any] = {"username": user} if user else {}
    if port.isdecimal():
        given["port"] = int(port)
    return KnownHosts(host, skip_instance_cache=True, **given)
