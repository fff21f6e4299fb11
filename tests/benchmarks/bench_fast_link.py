"""As fast as the machine goes: ours beside rclone, a sequential script and curl, into the same nginx.

Each is a process of its own, timed as a whole from start to end; they take turns, and each one's median round
counts. Ours does more than the others: header, checksums, ledger, audit trail, report.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks import parts
from tests.benchmarks.archives import SIZES, archive
from tests.benchmarks.nginx import certificates, nginx
from tests.benchmarks.senders import (
    Cost,
    Sender,
    curl,
    median_of,
    ours,
    rclone,
    rounds,
    script,
    steady_rate,
    timed,
)
from tests.benchmarks.table import Row

COUNTS = {"516 KB": 2000, "33 KB": 5000}
ROUNDS = 3
SENDERS: dict[str, Sender] = {"ours": ours, "rclone": rclone, "script": script, "curl": curl}
BARS = {
    ("516 KB", False, "rclone"): "0.7",
    ("516 KB", False, "script"): "1.4",
    ("516 KB", True, "rclone"): "0.7",
    ("516 KB", True, "script"): "1.4",
    ("33 KB", False, "script"): "1.8",
    ("33 KB", True, "script"): "4",
}
STEADY_BARS = {"516 KB": "1.0 of rclone's whole process"}
CPU_BARS = {"516 KB": "at most rclone's", "33 KB": "at most 1.0 ms, or 2 x rclone's"}


def rows(scale: float) -> Iterator[Row]:
    for name, count in COUNTS.items():
        count = max(40, int(count * scale))
        with archive(count, SIZES[name]) as directory:
            for is_tls in (False, True):
                yield from _one_link(name, count, directory, rounds(ROUNDS, scale), is_tls=is_tls)
            yield _by_part(name, count, directory)


def _one_link(name: str, count: int, directory: Path, times: int, *, is_tls: bool) -> Iterator[Row]:
    what = f"fast link, {name}{', TLS' if is_tls else ''}"
    costs, steady = _side_by_side(count, directory, times, is_tls=is_tls)
    rate = {sender: count / cost.wall_s for sender, cost in costs.items()}
    for sender in ("rclone", "script", "curl"):
        bar = BARS.get((name, is_tls, sender), "")
        beside = f"{sender} {rate[sender]:.0f}"
        yield Row(what, f"{rate['ours']:.0f} files/s", beside, rate["ours"] / rate[sender], bar)
    beside, bar = f"rclone {rate['rclone']:.0f}", STEADY_BARS.get(name, "")
    between = f"{what}, between first and last outcome"
    yield Row(between, f"{steady:.0f} files/s", beside, steady / rate["rclone"], bar)
    cpu = {sender: _cpu(cost, count) for sender, cost in costs.items()}
    beside = f"rclone {cpu['rclone'][1]}, script {cpu['script'][1]}, curl {cpu['curl'][1]}"
    ratio = cpu["ours"][0] / cpu["rclone"][0]
    yield Row(
        f"{what}, CPU ms per file (user + system)", cpu["ours"][1], beside, ratio, CPU_BARS.get(name, "")
    )


def _side_by_side(count: int, directory: Path, times: int, *, is_tls: bool) -> tuple[dict[str, Cost], float]:
    costs: dict[str, list[Cost]] = {sender: [] for sender in SENDERS}
    steady: list[float] = []
    with certificates(directory) as (pair, bundle):
        for _ in range(times):
            for sender, command in SENDERS.items():
                with nginx(pair if is_tls else None) as (url, sink):
                    trusted = {"DICOM_INGEST_CA_BUNDLE": str(bundle), "REQUESTS_CA_BUNDLE": str(bundle)}
                    costs[sender].append(timed(command(url, directory, count), trusted))
                    assert sum(1 for path in sink.rglob("*") if path.is_file()) == count, sender
                if sender == "ours":
                    steady.append(steady_rate(directory / "report"))
    return {sender: median_of(each) for sender, each in costs.items()}, median(steady)


def _cpu(cost: Cost, count: int) -> tuple[float, str]:
    user, system = cost.user_s / count * 1e3, cost.system_s / count * 1e3
    return user + system, f"{user:.2f} + {system:.2f}"


def _by_part(name: str, count: int, directory: Path) -> Row:
    with nginx() as (url, _sink):
        spent = parts.measured(url, directory)
    text = ", ".join(f"{part} {seconds / count * 1e3:.2f}" for part, seconds in spent.items())
    return Row(f"CPU ms per file by part, {name}", text)
