"""ingest killed at any moment, started again: every object has one outcome, nothing is stored twice or lost.

INGEST_KILLS says how often in all (4 unless told; 30 in the long test), into Orthanc, from rclone's S3.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import count
from pathlib import Path

import pytest

from tasks.audit.check import audit
from tasks.comparison.instance_comparison import difference
from tests.conftest import instance, padded
from tests.object_store import ObjectStore, object_store
from tests.orthanc import Orthanc, needs_orthanc, orthanc

pytestmark = needs_orthanc
STUDIES, OF_EACH = 30, 4
KILLS_IN_A_ROW = 2
KILLS = int(os.environ.get("INGEST_KILLS", "4"))
_REGISTER = """
import sys
from tasks.ingest_settings import load_ingest
from tasks.run.registration import register
sys.exit(register(load_ingest()).exit_code)
"""
_numbers = count(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def of_study(body: bytes, study: int) -> bytes:
    """The first studies have a UID of their own, of the same length."""
    return body.replace(b"1.2.3\0", b"1.%d.3\0" % (study + 1)) if study < 9 else body


class Episode:
    """A prefix of the bucket, with studies and trouble, and the runs over it."""

    def __init__(self, store: ObjectStore, registry: Orthanc, directory: Path, after: str = "leave") -> None:
        number = next(_numbers)
        self.store = ObjectStore(store.client, f"episode-{number}/", store.environment)
        self.registry = registry
        self.directory = directory
        self.after = after
        self.bodies: dict[str, bytes] = {}  # by key
        self.uids: dict[str, str] = {}
        for study in range(STUDIES):
            for each in range(OF_EACH):
                uid = f"1.{number}.{study}.{each}"
                body = of_study(instance(uid), study)
                self._put(f"{study:03}-{each}", body, padded(uid))
        self._put("same", self.bodies[self._key("005-1")], self.uids[self._key("005-1")])
        self._put("other", of_study(instance(f"1.{number}.6.1", "other bytes"), 6), padded(f"1.{number}.6.1"))
        self._put("cut", instance(f"1.{number}.99")[:-40], "")

    def _key(self, name: str) -> str:
        return self.store.prefix + name

    def _put(self, name: str, body: bytes, uid: str) -> None:
        key = self.store.put(name, body)
        self.bodies[key], self.uids[key] = body, uid

    def environment(self, **settings: str) -> dict[str, str]:
        ours = {
            "BUCKET": self.store.address,
            "DICOMWEB_URL": self.registry.dicomweb_url,
            "DICOMWEB_SERVER": "orthanc",
            "REPORT_DIR": str(self.directory / "report"),
            "LEDGER": str(self.directory / "ledger.sqlite"),
            "AFTER": self.after,
            **settings,
        }
        return os.environ | self.store.environment | {f"DICOM_INGEST_{k}": v for k, v in ours.items()}

    def start(self, *command: str, **settings: str) -> "subprocess.Popen[bytes]":
        what = command or ("-c", _REGISTER)
        with (self.directory / "said").open("a") as said:
            return subprocess.Popen(
                [sys.executable, *what],
                env=self.environment(**settings),
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    @property
    def settled(self) -> int:
        """Lines of the trail about objects."""
        try:
            return (self.directory / "report" / "audit.jsonl").read_bytes().count(b'registered","key"')
        except OSError:
            return 0

    def kill(self, dice: random.Random, *command: str) -> None:
        """Somewhere in its work, or a moment after; with all that it has started."""
        process = self.start(*command)
        wanted = self.settled + dice.randrange(1, STUDIES * OF_EACH // KILLS_IN_A_ROW)
        until = time.monotonic() + 120
        while self.settled < wanted and process.poll() is None:
            assert time.monotonic() < until, (self.directory / "said").read_text()
            time.sleep(0.002)
        time.sleep(dice.random() * 0.05)
        with suppress(ProcessLookupError):  # it came to its end before
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 1), (self.directory / "said").read_text()

    def finish(self) -> int:
        return self.start().wait(240)

    def rows(self, report: str = "report") -> dict[str, dict[str, str]]:
        with (self.directory / report / "registration.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len({row["key"] for row in rows})
        return {row["key"]: row for row in rows}

    def check(self) -> None:
        rows = self.rows()
        assert set(rows) == set(self.bodies)
        statuses = {key.rpartition("/")[2]: row["status"] for key, row in rows.items()}
        assert statuses.pop("cut") == "quarantined"
        assert sorted((statuses.pop("other"), statuses.pop("006-1"))) in (
            ["already_registered", "conflict"],
            ["conflict", "registered"],
        )
        assert set(statuses.values()) <= {"registered", "already_registered"}
        self._check_registry(rows)
        assert audit(self.directory / "report").faults == []
        self._check_bucket(rows)

    def _check_registry(self, rows: dict[str, dict[str, str]]) -> None:
        """It has each instance once, with the bytes of the object whose row says so."""
        there = self.registry.instances()
        for key, row in rows.items():
            if row["status"] in ("registered", "already_registered"):
                assert row["sop_instance_uid"] == self.uids[key]
                assert row["sop_instance_uid"] in there
        for key in [*random.Random(7).sample(sorted(rows), 10), self._key("other"), self._key("006-1")]:
            if rows[key]["status"] in ("registered", "already_registered"):
                file = self.registry.file(self.uids[key])
                assert difference(BytesIO(self.bodies[key]), BytesIO(file)) == ""

    def _check_bucket(self, rows: dict[str, dict[str, str]]) -> None:
        """No object is lost, wherever it is by now."""
        for key, row in rows.items():
            assert self.store.get(row["moved_to"] or key) == self.bodies[key], key
            is_moved = self.after == "move" and row["status"] != "conflict"
            assert bool(row["moved_to"]) == is_moved, (key, row)


NewEpisode = Callable[..., Episode]


@pytest.fixture
def new_episode(store: ObjectStore, registry: Orthanc, tmp_path: Path) -> NewEpisode:
    return lambda after="leave": Episode(store, registry, tmp_path, after)


def kill_and_finish(episode: Episode, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(KILLS_IN_A_ROW):
        episode.kill(dice)
    assert episode.finish() == 1, (episode.directory / "said").read_text()  # a conflict was planted
    episode.check()


@pytest.mark.parametrize("number", range(KILLS // KILLS_IN_A_ROW))
def test_ingest_killed_at_random_moments(number: int, new_episode: NewEpisode) -> None:
    """kill -9 again and again, then a run to the end; every second time objects are moved."""
    kill_and_finish(new_episode("move" if number % 2 else "leave"), number)


@pytest.mark.long
@pytest.mark.parametrize("number", range(100, 115))
def test_ingest_killed_thirty_times(number: int, new_episode: NewEpisode) -> None:
    kill_and_finish(new_episode("move" if number % 2 else "leave"), number)


@pytest.mark.long
def test_the_command_killed_with_its_prefect_server(
    new_episode: NewEpisode, prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(prefect_home))
    episode = new_episode()
    for seed in (1, 2):
        episode.kill(random.Random(seed), "-m", "flows.cli", "ingest")
    assert episode.finish() == 1
    episode.check()


def test_two_at_once_of_which_one_is_killed(new_episode: NewEpisode) -> None:
    """With one ledger, and report directories of their own: the other takes over what that one had."""
    episode = new_episode()
    killed = episode.start(REPORT_DIR=str(episode.directory / "killed"))
    other = episode.start()
    until = time.monotonic() + 60
    while not episode.settled and other.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert other.wait(240) == 1, (episode.directory / "said").read_text()
    episode.check()
    said = json.loads((episode.directory / "report" / "registration.json").read_text())
    assert said["exit_code"] == 1
