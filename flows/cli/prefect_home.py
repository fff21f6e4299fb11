"""Where Prefect keeps its database: ~/.prefect, the directory that PREFECT_HOME names, or a temporary one."""

import os
import pwd
import tempfile
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

from tasks.core.errors import UsageError

_NAME: Final = "PREFECT_HOME"


def require_home(environ: MutableMapping[str, str]) -> None:
    """UsageError when Prefect could keep nothing."""
    if _has_named_home(environ) or _is_usable(_default_home(environ)):
        return
    raise UsageError(
        "The home directory is missing or can't be written, and Prefect keeps its database there. Set "
        "PREFECT_HOME to a directory that can be written."
    )


def temporary_home(environ: MutableMapping[str, str]) -> Path | None:
    """A new directory that `environ` names from now on, when the usual one can't be used; else None.

    UsageError when the operator has named one that can't be written, or when there is nowhere to make one.
    """
    if _has_named_home(environ):
        return None
    usual = _default_home(environ)
    if _is_usable(usual):
        return None
    try:
        made = Path(tempfile.mkdtemp(prefix="dicom-ingest-prefect-"))  # mode 0700
    except OSError:
        raise UsageError(
            "Neither the home directory nor one for temporary files can be written, and Prefect needs one. "
            "Nothing was sent. Set PREFECT_HOME to a directory that can be written."
        ) from None
    if usual and (profiles := usual / "profiles.toml").is_file():  # a server may be named there
        environ.setdefault("PREFECT_PROFILES_PATH", str(profiles))
    if usual is None:  # Prefect's client looks for a home even when it needs none
        environ["HOME"] = str(made)
    environ[_NAME] = str(made)
    return made


def _has_named_home(environ: MutableMapping[str, str]) -> bool:
    named = environ.get(_NAME)
    if not named:
        environ.pop(_NAME, None)
        return False
    if not _is_writable(Path(os.path.expanduser(named)), parents=True):  # noqa: PTH111 - without a home, too
        raise UsageError(
            "PREFECT_HOME can't be written. Nothing was sent. Set it to a directory that can be, or unset it."
        )
    return True


def _default_home(environ: MutableMapping[str, str]) -> Path | None:
    """As Prefect finds it; None where the user has no home."""
    home = Path(environ["HOME"] if "HOME" in environ else _home_of_user_database())
    return home / ".prefect" if home.is_absolute() else None


def _home_of_user_database() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # as in a container under a user of its own
        return ""


def _is_usable(home: Path | None) -> bool:
    """A home directory that does not exist is not made: its owner is meant to have none."""
    return home is not None and home.parent.is_dir() and _is_writable(home)


def _is_writable(directory: Path, *, parents: bool = False) -> bool:
    try:
        directory.mkdir(mode=0o700, parents=parents, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError:
        return False
    return all(os.access(path, os.W_OK) for path in directory.glob("prefect.db*"))
