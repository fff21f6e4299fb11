"""Which manifests lie in a folder, or match a pattern: for schedules."""

import glob
from collections import Counter
from pathlib import Path
from typing import Final

from tasks.core.errors import UsageError
from tasks.core.store_urls import is_store_url
from tasks.source.manifest_reader import READERS

_PATTERN: Final = frozenset("*?[")


def manifests_at(location: str) -> list[Path] | None:
    """The manifests of a folder, or that a glob pattern finds, by name; None when the location is one file.

    Raises UsageError when some have one name: each has a report directory named after it.
    """
    path = Path(location)
    if is_store_url(location):
        return None
    if path.is_dir():
        found = list(path.iterdir())
    elif _PATTERN & set(location) and not path.exists():
        found = [Path(name) for name in glob.glob(location, recursive=True)]  # noqa: PTH207 - also absolute ones
    else:
        return None
    manifests = sorted(each for each in found if each.suffix.lower() in READERS and each.is_file())
    if shared := sum(count for count in Counter(each.name for each in manifests).values() if count > 1):
        raise UsageError(
            f"{shared} of these manifests have the name of another: their reports would share a directory. "
            "Nothing was sent. Rename them, or run one folder at a time."
        )
    return manifests
