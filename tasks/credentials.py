"""The bearer token for the upload API, when it is a static one; `oauth2.py` is for the others."""

from pathlib import Path
from typing import Final, Protocol

from tasks.core.errors import RefusedError

_MAX_SECRET: Final = 64 * 1024


class Credentials(Protocol):
    """Where a request's Authorization header comes from."""

    def authorization(self, refused: str = "") -> str:
        """The header's value, empty for none. `refused` is the value that the API just answered 401 to."""
        ...


class StaticToken:
    """One token for the whole run, or none."""

    def __init__(self, token: str) -> None:
        self._value = f"Bearer {token}" if token else ""

    def authorization(self, refused: str = "") -> str:
        """Always the same: a refused static token can't be renewed."""
        del refused
        return self._value


class TokenFile:
    """A token that something else renews in a file, as Kubernetes does with projected ones."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def authorization(self, refused: str = "") -> str:
        """What the file holds now. Raises RefusedError when it can't be read."""
        del refused
        return f"Bearer {secret_in(self._path, 'DICOM_INGEST_TOKEN_FILE')}"


def secret_in(path: Path, setting: str) -> str:
    """The one line of a file; RefusedError, which names the setting, when there is none."""
    try:
        with path.open(encoding="ascii") as file:
            secret = file.read(_MAX_SECRET).strip()
    except (OSError, ValueError):
        secret = ""
    if not secret or not secret.isprintable():
        raise RefusedError(f"The file that {setting} names can't be read, or holds no line of ASCII text.")
    return secret
