"""The embedded object store: `rclone serve s3`, which verifies SigV4 and answers ETag = MD5 as AWS S3 does.

It is a folder: an object is the file `bucket_dir(data_dir) / key`. A bucket of AWS S3 or MinIO needs none of
this; the gateway finds it by settings alone.
"""

import importlib.resources
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from tasks.core.errors import StoppedError, UsageError

BUCKET: Final = "dicom-ingest"
MISSING_EXTRA: Final = (
    "The sandbox needs packages that are not installed. In the directory of this project, "
    "pip install '.[sandbox]' adds them."
)
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0
_LOG: Final = "storage.log"
_SHOWN_LINES: Final = 5
_LISTENING: Final = re.compile(r"Starting s3 server on \[(http://127\.0\.0\.1:\d+)/\]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running S3 endpoint with the bucket BUCKET, and the one pair of keys that it accepts."""

    url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)


@contextmanager
def serve_objects(data_dir: Path, keys: tuple[str, str] | None = None) -> Iterator[Endpoint]:
    """Serves the objects under `data_dir` on a free loopback port until the block ends.

    To whoever has `keys`, an id and a secret; fresh ones where they are not given.

    rclone stays in the caller's process group, so that who ends the group ends both. Raises UsageError when
    the extra is not installed, StoppedError when rclone does not start.
    """
    bucket = bucket_dir(data_dir)
    bucket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    bucket.mkdir(mode=0o700, exist_ok=True)
    log = data_dir / _LOG
    access_key_id, secret_access_key = keys or new_keys()
    with open_private(log) as output:
        rclone = subprocess.Popen(  # noqa: S603 - our own binary, our own arguments
            [
                rclone_binary(),
                "serve",
                "s3",
                "--addr",
                "127.0.0.1:0",
                str(bucket.parent.resolve()),
            ],  # from "/" on: no "remote:"
            env=_environment(access_key_id, secret_access_key),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            umask=0o077,
        )
    try:
        yield Endpoint(_await_url(rclone, data_dir), access_key_id, secret_access_key)
    finally:
        _stop(rclone)


def new_keys() -> tuple[str, str]:
    """An access key id and a secret access key."""
    return secrets.token_hex(10), secrets.token_hex(20)


def listening_url(data_dir: Path) -> str:
    """Where the store with this data directory is, from rclone's log; empty before it says so."""
    listening = _LISTENING.search((data_dir / _LOG).read_text(encoding="utf-8", errors="replace"))
    return listening.group(1) if listening else ""


def bucket_dir(data_dir: Path) -> Path:
    """The folder that is the bucket."""
    return data_dir / "objects" / BUCKET


def open_private(path: Path) -> IO[str]:
    """A new file for writing text that its owner alone may read; it replaces what was there."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "w", encoding="utf-8")


def last_lines(log: Path) -> str:
    """The end of a log, for the message about the process that wrote it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_SHOWN_LINES:])


def rclone_binary() -> str:
    """The path of the rclone that its wheel carries. UsageError when the extra is not installed."""
    try:
        return str(importlib.resources.files("rclone_api") / "bin" / "rclone")
    except ModuleNotFoundError:
        raise UsageError(MISSING_EXTRA) from None


def _environment(access_key_id: str, secret_access_key: str) -> dict[str, str]:
    """Keys go by the environment: every user of the machine can see a command line."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
    return inherited | {
        "RCLONE_CONFIG": os.devnull,  # the user's own remotes are none of our business
        "RCLONE_AUTH_KEY": f'"{access_key_id},{secret_access_key}"',
    }


def _await_url(rclone: subprocess.Popen[bytes], data_dir: Path) -> str:
    """It takes a free port itself: one chosen here might be gone by then."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and rclone.poll() is None:
        if url := listening_url(data_dir):
            return url
        time.sleep(0.01)
    raise StoppedError(
        f"The object store of the sandbox did not start. Its log ends with:\n{last_lines(data_dir / _LOG)}"
    )


def _stop(rclone: subprocess.Popen[bytes]) -> None:
    rclone.terminate()
    try:
        rclone.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        rclone.kill()
        rclone.wait()
