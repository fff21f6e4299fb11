"""A far side in a process of its own, so that its CPU is not ours.

It waits so many seconds per presign and per PUT, prints its URL, and serves until its standard input ends.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.far_side import FarSide, Request, Step


@contextmanager
def far_process(presign_s: float = 0.0, put_s: float = 0.0) -> Iterator[str]:
    """The URL of a far side that takes so long for each request."""
    command = [sys.executable, "-m", "tests.benchmarks.far_process", str(presign_s), str(put_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


def main() -> None:
    """Serves."""
    waits = dict(zip((Step.PRESIGN, Step.PUT), map(float, sys.argv[1:]), strict=True))

    def script(request: Request) -> None:
        time.sleep(waits.get(request.step, 0.0))

    with FarSide() as far_side:
        far_side.script = script
        print(far_side.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
