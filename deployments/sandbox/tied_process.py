"""A program that ends with us: `python -m deployments.sandbox.tied_process PROGRAM ARGUMENT...`.

For one that knows nothing of its parent. It runs until stdin closes, which is when the parent ends, however
that ends; and when it ends by itself, so do we, with its exit code.
"""

import os
import subprocess
import sys
from threading import Thread
from typing import Final

_STOP_TIMEOUT_S: Final = (
    0.5  # Orthanc takes two seconds and more to wake its threads; its database minds no kill
)


def main() -> None:
    """Starts the program, and waits for one of the two ends."""
    program = subprocess.Popen(  # noqa: S603 - our caller's own
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        close_fds=False,  # a lock that we inherited lasts as long as it
    )
    Thread(target=_stop_at_end_of_stdin, args=(program,), daemon=True).start()
    sys.exit(program.wait() & 0xFF)


def _stop_at_end_of_stdin(program: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    program.terminate()
    try:
        program.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    main()
