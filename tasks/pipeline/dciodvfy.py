"""dciodvfy of dicom3tools, which holds an instance against the standard's modules: to warn, never to reject.

It finds something in most of what real scanners write, so what it says is counted, not shown.
"""

import shutil
import subprocess
from tempfile import NamedTemporaryFile
from typing import Final

from tasks.core.errors import UsageError

_NAME: Final = "dciodvfy"
_LONGEST_S: Final = 60.0


def dciodvfy_path() -> str:
    """Where it is. UsageError when it is not installed."""
    if found := shutil.which(_NAME):
        return found
    raise UsageError(
        "--dciodvfy: dicom3tools is not installed (apt install dicom3tools). Nothing was registered."
    )


def finds_errors(path: str, data: bytes) -> bool:
    """Whether it finds an error in an instance; what it can't read, or is too slow for, counts as one."""
    with NamedTemporaryFile(suffix=".dcm") as file:
        file.write(data)
        file.flush()
        try:
            said = subprocess.run(  # noqa: S603 - the operator's own
                [path, file.name], capture_output=True, timeout=_LONGEST_S, check=False
            )
        except (OSError, subprocess.SubprocessError):
            return True
        return said.returncode != 0 or b"Error" in said.stderr + said.stdout
