"""A far side in a process of its own, so that its CPU is not ours.

It waits so many seconds per presign and per PUT, prints its URL, serves until its standard input ends, and
then prints what it saw: the most PUTs at once, how old URLs were when they were used, when the first PUT and
the last byte came, by the machine's monotonic clock, and how many bytes bodies had.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.far_side import FarSide, Minted, Reply, Request, Step


@dataclass(slots=True)
class FarProcess:
    """Its address; after its end what it saw."""

    url: str
    saw: dict[str, float] = field(default_factory=dict)


@contextmanager
def far_process(presign_s: float = 0.0, put_s: float = 0.0) -> Iterator[FarProcess]:
    """A far side that takes so long for each request."""
    command = [sys.executable, "-m", "tests.benchmarks.far_process", str(presign_s), str(put_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        far = FarProcess(process.stdout.readline().strip())
        yield far
        process.stdin.close()
        far.saw = json.loads(process.stdout.read())


class _Watched(FarSide):
    """Remembers when each key was handed out; a PUT takes its time in all, not after its body was read."""

    def __init__(self, put_s: float) -> None:
        super().__init__()
        self.put_s = put_s
        self.minted_at: dict[str, float] = {}
        self.begun_at: dict[str, float] = {}
        self.ages: list[float] = []
        self.came: list[tuple[float, int]] = []  # when the last byte of a body did, and how many it had

    def mint(self, wanted: Minted) -> Reply:
        reply = super().mint(wanted)
        self.minted_at[json.loads(reply.body)["key"]] = time.monotonic()
        return reply

    def store(self, key: str, body: bytes) -> None:
        """Counts, and keeps nothing."""
        self.came.append((time.monotonic(), len(body)))
        super().store(key, b"")
        time.sleep(max(0.0, self.begun_at[key] + self.put_s - time.monotonic()))


def main() -> None:
    """Serves."""
    presign_s, put_s = map(float, sys.argv[1:])

    def script(request: Request) -> None:
        if request.step is Step.PUT:
            far_side.begun_at[request.key] = time.monotonic()
            far_side.ages.append(time.monotonic() - far_side.minted_at[request.key])
        elif request.step is Step.PRESIGN:
            time.sleep(presign_s)

    with _Watched(put_s) as far_side:
        far_side.script = script
        print(far_side.url, flush=True)
        sys.stdin.read()
        ages = sorted(far_side.ages) or [0.0]
        print(
            json.dumps(
                {
                    "most_puts": far_side.most_puts_under_way,
                    "median_age_s": ages[len(ages) // 2],
                    "oldest_s": ages[-1],
                    "first_put_at": min(far_side.begun_at.values(), default=0.0),
                    "last_byte_at": max(far_side.came, default=(0.0, 0))[0],
                    "body_bytes": sum(count for _, count in far_side.came),
                }
            )
        )


if __name__ == "__main__":
    main()
