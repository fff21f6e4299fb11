"""`plan`: what it says of files is what the run then reports; it sends nothing, and says what would fail."""

import json
import math
import os
import random
import shutil
import socket
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.orchestration.run_progress import Sampler, Snapshot, sentence
from tasks.audit.check import audit
from tasks.bucket_settings import BucketSettings
from tasks.core.forecast import Limit
from tasks.core.models import EXIT_ONE, Summary
from tasks.core.progress import Progress
from tasks.dicomweb_settings import DicomwebSettings
from tasks.ledger.known_files import known_files
from tasks.plan_settings import PlanSettings
from tasks.run.engine import ingest
from tasks.run.planning import PlanFacts, Sides, plan
from tasks.run.probes import room_for
from tasks.source.manifest_reader import load_manifest
from tests.conftest import Dicom, NearSide, Run, padded
from tests.databases import PostgreSQL
from tests.far_side import FarSide, Minted, Step, always, status
from tests.odd_archives import encrypted, gzipped, tarred, zipped

FULL = PlanSettings(full=True)
EVERYTHING = ("truncated", "no_preamble", "malformed")


class Planned(NearSide):
    """An archive with a manifest, for plans and for runs."""

    @property
    def manifest(self) -> Path:
        path = self.directory / "manifest.csv"
        if not path.exists():
            rows = (f"{entry.study_dir},{entry.study_no % 2}" for entry in self.entries())
            path.write_text("\n".join(["study_dir,priority", *rows]) + "\n")
        return path

    def plan(self, how: PlanSettings = FULL, sides: Sides | None = None, **options: Any) -> PlanFacts:
        return plan(self.manifest, self.settings(**options), how, sides, edges=self.edges)

    def run(self, **options: Any) -> Run:
        summary = ingest(load_manifest(self.manifest), self.settings(**options), edges=self.edges)
        return self.told(summary)


@pytest.fixture
def planned(far_side: FarSide, tmp_path: Path, ledger: str) -> Planned:
    return Planned(far_side, tmp_path, {"ledger": ledger})


def fill(planned: Planned, dicom: Dicom) -> None:
    """Odd files of every kind that a run can meet without trouble on the way."""
    whole = dicom("1.2.1")
    planned.put("a/1.dcm", whole)
    planned.put("a/1 again.dcm", whole)
    planned.put("a/1 other.dcm", dicom("1.2.1", text="other bytes"))
    planned.put("a/1 other, again.dcm", dicom("1.2.1", text="other bytes"))
    planned.put("b/1 too.dcm", whole)
    planned.put("a/2.dcm", dicom("1.2.2"))
    planned.put("a/cut.dcm", dicom("1.2.3")[:-60])
    planned.put("a/bare.dcm", dicom("1.2.4")[132:])
    planned.put("a/empty", b"")
    planned.put("a/IM0001", b"")
    planned.put("a/IM0002", dicom("1.2.5"))
    planned.put("a/zeros.dcm", bytes(5000))
    planned.put("a/notes.txt", b"not an image")
    planned.put("a/Thumbs.db", b"\xd0\xcf\x11\xe0")
    planned.put("a/DICOMDIR", b"no directory either")
    planned.put("b/3.dcm", dicom("1.2.6"))
    planned.put("b/big.dcm", dicom("1.2.7", pixel_bytes=9 * 1024 * 1024))
    planned.put("b/big again.dcm", dicom("1.2.7", pixel_bytes=9 * 1024 * 1024))
    os.truncate(planned.put("c/huge.dcm", whole), 5 * 1024**3 + 1)
    planned.put("d/only.txt", b"text")
    (planned.archive / "e").mkdir()
    (planned.archive / "c/broken").symlink_to("nowhere")
    (planned.archive / "c/loop").symlink_to(planned.archive / "c")
    (planned.archive / "c/out").symlink_to("/etc")


def same(facts: PlanFacts, summary: Summary) -> None:
    """What has one name in both is one number in both."""
    names = ("campaign", "api_host", "manifest_sha256", "root", "files", "bytes", "by_status", "studies")
    for name in (*names, "complete_studies", "exit_code"):
        assert getattr(facts, name) == getattr(summary, name), name


class TestWhatAFullPlanForesees:
    @pytest.mark.parametrize("on_conflict", ["report", "upload"])
    @pytest.mark.parametrize("accept", ["", ",".join(EVERYTHING)])
    def test_is_what_the_run_reports(
        self, planned: Planned, dicom: Dicom, on_conflict: str, accept: str
    ) -> None:
        """Of odd files of each kind; statuses and their reasons, bytes, studies, the exit code."""
        fill(planned, dicom)
        options = {"on_conflict": on_conflict, "accept": accept}
        facts = planned.plan(**options)
        run = planned.run(**options)
        same(facts, run.summary)
        bad = [word for word in run.statuses.values() if not word.startswith(("uploaded", "dup", "already"))]
        assert {word: bad.count(word) for word in bad} == {
            word: count for word, count in facts.by_reason.items() if not word.startswith("uploaded")
        }

    def test_is_what_a_run_reports_of_archives(self, planned: Planned, dicom: Dicom) -> None:
        """Where they are read; of members that are damaged, repeated or stored already, too."""
        whole, large = dicom("1.2.1"), dicom("1.2.2", pixel_bytes=9 * 1024 * 1024)
        other = dicom("1.2.1", text="other bytes")
        planned.put(
            "a/a.zip", zipped({"1": whole, "2": large, "other": other, "b.zip": zipped({"1": whole})})
        )
        planned.put("a/empty.zip", zipped({}))
        planned.put("a/locked.zip", encrypted(zipped({"1": dicom("1.2.3")})))
        planned.put("a/cut.zip", zipped({"1": whole})[:-30])
        planned.put("a/a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(100))
        planned.put("b/b.tgz", tarred({"1": whole, "3": large, "4": dicom("1.2.4")[:-60]}, is_packed=True))
        planned.put("b/5.dcm.gz", gzipped(dicom("1.2.5")))
        for _ in range(2):
            facts = planned.plan(archives=True)
            same(facts, planned.run(archives=True).summary)
        assert facts.by_reason["unreadable/archive"] == 4
        assert facts.by_status["already_uploaded"] == 3

    def test_is_what_a_second_run_reports(self, planned: Planned, dicom: Dicom) -> None:
        """Of what is stored, changed, damaged, moved, gone and new since; the ledger is read, not written."""
        fill(planned, dicom)
        planned.run()
        archive = planned.archive
        planned.put("a/2.dcm", dicom("1.2.2", text="edited"))
        planned.put("b/3.dcm", dicom("1.2.6")[:-60])
        planned.put("b/new.dcm", dicom("1.2.8"))
        (archive / "a/cut.dcm").rename(archive / "a/moved.dcm")
        (archive / "a/1.dcm").unlink()
        (archive / "a/zeros.dcm").unlink()
        shutil.rmtree(archive / "d")
        same(planned.plan(), planned.run().summary)
        same(planned.plan(), planned.run().summary)

    @pytest.mark.parametrize(
        "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))]
    )
    def test_is_what_the_runs_report_whatever_happens_between_them(
        self, planned: Planned, dicom: Dicom, seed: int
    ) -> None:
        """Few UIDs, few bytes, few paths: so that they meet.

        A path has one text: where a run replaces a UID's bytes, and meets these in another file, it depends
        on which is first.
        """
        dice = random.Random(seed)
        for _ in range(4):
            for _ in range(12):
                number = dice.randrange(9)
                path = planned.archive / f"{dice.choice('ab')}/{number}"
                kind = dice.randrange(5)
                if kind == 0:
                    path.unlink(missing_ok=True)
                    continue
                body = dicom(f"1.2.{dice.randrange(4)}", text="xy"[number % 2])
                planned.put(os.path.relpath(path, planned.archive), body[: -60 if kind == 1 else None])
            same(planned.plan(), planned.run().summary)

    def test_is_what_the_run_leaves_alone(self, planned: Planned, dicom: Dicom) -> None:
        planned.put("a/old.dcm", dicom("1.2.1"))
        os.utime(planned.put("a/young.dcm", dicom("1.2.2")))
        same(planned.plan(min_age=60), planned.run(min_age=60).summary)


class TestASample:
    def test_stands_for_all_files(self, planned: Planned, dicom: Dicom) -> None:
        """Their number is right, whatever was opened; what needs no opening is right, too."""
        for number in range(40):
            planned.put(f"a/{number}.dcm", dicom(f"1.2.{number}"))
        planned.put("b/1.txt", b"text")
        facts = planned.plan(PlanSettings())
        assert facts.files_opened == 4
        assert facts.by_status == {"uploaded": 40, "not_dicom": 1}
        assert facts.files == 41
        assert facts.bytes == 40 * len(dicom("1.2.1"))
        assert facts.complete_studies is None
        assert facts.modalities == {"unknown": 40}

    def test_knows_what_is_stored(self, planned: Planned, dicom: Dicom) -> None:
        for number in range(20):
            planned.put(f"a/{number}.dcm", dicom(f"1.2.{number}"))
        planned.run()
        facts = planned.plan(PlanSettings())
        assert (facts.by_status, facts.known_files, facts.files_opened) == ({"already_uploaded": 20}, 20, 0)
        assert facts.bytes == facts.forecast["files"] == 0


class TestAPlan:
    def test_sends_nothing_and_makes_no_ledger(
        self, planned: Planned, dicom: Dicom, far_side: FarSide
    ) -> None:
        """The one key that it was given is in its output, and in a trail that holds."""
        planned.put("a/1.dcm", dicom("1.2.1"))
        facts = planned.plan()
        assert not far_side.asked(Step.PUT)
        assert set(facts.unused_keys) == far_side.keys_handed_out
        assert sorted(path.name for path in planned.report_dir.iterdir()) == [
            "audit.jsonl",
            "plan.html",
            "plan.json",
        ]
        assert facts.unused_keys[0] in (planned.report_dir / "audit.jsonl").read_text()

    def test_leaves_a_trail_that_runs_go_on_with(self, planned: Planned, dicom: Dicom) -> None:
        planned.put("a/1.dcm", dicom("1.2.1"))
        planned.plan()
        assert audit(planned.report_dir).faults == [], "of a plan alone"
        planned.run()
        planned.plan()
        assert audit(planned.report_dir).faults == []
        planned.run()
        assert audit(planned.report_dir).faults == []

    def test_is_beside_what_came_of_it_in_the_summary(self, planned: Planned, dicom: Dicom) -> None:
        planned.put("a/1.dcm", dicom("1.2.1"))
        facts = planned.plan()
        said = planned.run().summary.forecast
        assert {**said, "result": {}} == {**facts.forecast, "result": {}}
        assert said["result"]["files"] == said["files"] == 1
        assert said["result"]["bytes"] == said["bytes"] == len(dicom("1.2.1"))
        assert said["result"]["duration_s"] > 0

    def test_of_another_manifest_is_none_of_the_runs(self, planned: Planned, dicom: Dicom) -> None:
        planned.put("a/1.dcm", dicom("1.2.1"))
        planned.plan()
        planned.manifest.write_text(planned.manifest.read_text() + "\n")
        assert planned.run().summary.forecast == {}

    def test_counts_what_it_has_seen(self, planned: Planned, dicom: Dicom) -> None:
        planned.put("a/1.dcm", dicom("1.2.1"))
        planned.put("a/1.txt", b"")
        seen: list[Progress] = []

        def watch(progress: Progress) -> nullcontext[None]:
            seen.append(progress)
            return nullcontext()

        plan(planned.manifest, planned.settings(), FULL, watch=watch)
        assert (seen[0].files_listed, seen[0].files_done, seen[0].scanning) == (2, 2, False)


def results(facts: PlanFacts) -> dict[str, str]:
    return {probe.name: str(probe.result) for probe in facts.probes}


def said(facts: PlanFacts, name: str) -> str:
    return next(probe.says for probe in facts.probes if probe.name == name)


class TestProbes:
    @pytest.fixture(autouse=True)
    def one_file(self, planned: Planned, dicom: Dicom) -> None:
        planned.put("a/1.dcm", dicom("1.2.1"))

    def test_are_all_well(self, planned: Planned) -> None:
        facts = planned.plan()
        names = ("records", "api", "credentials", "presign", "clock", "storage", "proxy", "disk")
        assert results(facts) == dict.fromkeys(names, "ok")
        assert facts.exit_code == 0
        assert facts.storage_hosts

    def test_of_credentials_that_are_refused(self, planned: Planned) -> None:
        """As a run would end; the files are counted all the same, and nothing stays behind."""
        facts = planned.plan(token="wrong")
        assert (results(facts)["api"], results(facts)["credentials"]) == ("ok", "failed")
        assert results(facts)["presign"] == "not_tried"
        assert (facts.exit_code, facts.files, facts.unused_keys) == (4, 1, [])
        assert not planned.report_dir.exists()

    def test_of_an_api_that_is_none(self, planned: Planned, far_side: FarSide) -> None:
        far_side.script = always(Step.PRESIGN, status(404))
        facts = planned.plan()
        assert (results(facts)["api"], facts.exit_code) == ("failed", 2)
        assert "404" in said(facts, "api")

    def test_of_a_platform_that_throttles(self, planned: Planned, far_side: FarSide) -> None:
        """A run begins all the same."""
        far_side.script = always(Step.PRESIGN, status(429))
        facts = planned.plan()
        assert (results(facts)["presign"], facts.exit_code) == ("note", 0)

    def test_of_a_report_directory_that_another_run_has(self, planned: Planned) -> None:
        """Nothing is asked of the API then: its key could not be accounted for."""
        at_work = planned.engine()
        facts = planned.plan()
        planned.finished(at_work)
        assert (results(facts)["records"], results(facts)["api"]) == ("failed", "not_tried")
        assert facts.exit_code == 2
        assert "Another run writes" in said(facts, "records")

    def test_of_a_bucket_and_a_dicomweb_server_that_do_not_answer(
        self, planned: Planned, monkeypatch: pytest.MonkeyPatch, far_side: FarSide
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        sides = Sides(
            BucketSettings(bucket="s3://bucket"), DicomwebSettings(dicomweb_url="http://127.0.0.1:9")
        )
        facts = planned.plan(sides=sides)
        assert (results(facts)["bucket"], results(facts)["dicomweb"]) == ("failed", "failed")
        assert facts.exit_code == 1

    def test_of_a_clock_that_is_wrong(self, planned: Planned, far_side: FarSide) -> None:
        """A note: URLs are signed by the platform, so a run does not mind."""
        far_side.clock_skew_s = -3000
        facts = planned.plan()
        assert (results(facts)["clock"], facts.exit_code) == ("note", 0)
        assert "seconds ahead of" in said(facts, "clock")
        assert "refused by S3" in said(facts, "clock")

    def test_of_an_object_store_that_does_not_answer(self, planned: Planned, far_side: FarSide) -> None:
        """Its name is said, and of the URL nothing else."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            host = f"127.0.0.1:{listener.getsockname()[1]}"
        far_side.script = always(Step.PRESIGN, Minted(host=host))
        facts = planned.plan()
        assert (results(facts)["storage"], facts.exit_code) == ("failed", 1)
        assert "X-Amz" not in json.dumps(facts.as_json())

    def test_of_a_proxy(self, planned: Planned, far_side: FarSide, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which one is in use is said without its password."""
        monkeypatch.setenv("HTTPS_PROXY", "http://me:hush@proxy.example.org:3128")
        monkeypatch.setenv("HTTP_PROXY", "http://me:hush@127.0.0.1:9")
        facts = planned.plan(api_endpoint="https://api.example.org")
        assert said(facts, "proxy") == "In use: the API by proxy.example.org:3128."
        assert "hush" not in json.dumps(facts.as_json())

    def test_of_a_proxy_that_is_none(self, planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "no proxy")
        facts = planned.plan(api_endpoint="https://api.example.org")
        assert (results(facts)["proxy"], facts.exit_code) == ("failed", 2)

    def test_of_a_ledger_of_another_platform(self, planned: Planned) -> None:
        planned.run()
        facts = planned.plan(api_endpoint="http://127.0.0.1:9")
        assert (results(facts)["records"], results(facts)["api"]) == ("failed", "not_tried")
        assert facts.by_status == {"already_uploaded": 1}
        assert facts.exit_code == 2

    def test_of_a_disk_that_is_too_small(self, planned: Planned) -> None:
        room = room_for(10**6, planned.report_dir, planned.report_dir / "ledger.sqlite", lambda _: 10**9)
        assert (room.probe.result, room.probe.exit_code) == ("failed", 1)
        assert room_for(1, planned.report_dir / "not/there", "postgresql://host/db").free_bytes > 0


class TestRates:
    def test_are_measured_or_given_or_an_earlier_runs(self, planned: Planned, dicom: Dicom) -> None:
        for number in range(3):
            planned.put(f"a/{number}.dcm", dicom(f"1.2.{number}"))
        assert planned.plan().forecast["network_from"] == "unknown"
        assert any("--rate" in problem for problem in planned.plan().problems)
        given = planned.plan(PlanSettings(full=True, rate="1M"))
        assert given.forecast["network_from"] == "given"
        assert given.forecast["bytes_per_s"] == pytest.approx(1024**2, rel=1e-3)
        assert not any("--rate" in problem for problem in given.problems)

    def test_of_an_earlier_run_are_in_the_ledger(
        self, planned: Planned, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that was long enough to say something."""
        monkeypatch.setattr("tasks.ledger.known_files._LEAST_FILES", 3)
        monkeypatch.setattr("tasks.ledger.known_files._LEAST_S", 0.0)
        bodies = planned.put_many(5, "a")
        planned.run()
        planned.put("a/new.dcm", dicom("1.2.9"))
        with known_files(planned.settings().ledger_at, "default") as known:
            pace = known.pace()
        assert pace is not None
        assert pace.files_per_s > 0
        assert pace.bytes_per_s / pace.files_per_s == pytest.approx(len(next(iter(bodies.values()))))
        assert {planned.plan().forecast[name] for name in ("network_from", "slots_from")} >= {"earlier_run"}


class TestWindows:
    @pytest.fixture(autouse=True)
    def one_file(self, planned: Planned, dicom: Dicom) -> None:
        planned.put("a/1.dcm", dicom("1.2.1"))

    def test_are_kept_to(self, planned: Planned) -> None:
        """A window of an hour, half a day from now."""
        opens = (datetime.now(UTC) + timedelta(hours=12)).replace(minute=0)
        window = f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M} UTC"
        assert 10 * 3600 < planned.plan(window=window).forecast["duration_s"] < 13 * 3600
        assert planned.plan().forecast["duration_s"] < 60

    def test_so_are_timetables_of_the_bandwidth(self, planned: Planned, dicom: Dicom) -> None:
        seconds = len(dicom("1.2.1"))
        assert planned.plan(bandwidth="1B").forecast["duration_s"] == pytest.approx(seconds)

    def test_that_do_not_suffice_are_said_to(self, planned: Planned) -> None:
        facts = plan(planned.manifest, planned.settings(), FULL, limits=lambda at: Limit(0.0, math.inf))
        assert (facts.forecast["duration_s"], facts.forecast["ends_at"]) == (None, None)
        assert facts.exit_code == 1
        assert "would not end" in facts.verdict


class TestALedgerThatIsOnlyRead:
    def test_is_not_changed_by_a_plan(self, planned: Planned, dicom: Dicom) -> None:
        planned.put("a/1.dcm", dicom("1.2.1"))
        planned.run()
        ledger = planned.report_dir / "ledger.sqlite"
        before = ledger.read_bytes()
        planned.put("a/2.dcm", dicom("1.2.2"))
        assert planned.plan().by_status == {"uploaded": 1, "already_uploaded": 1}
        assert ledger.read_bytes() == before
        assert {path.name for path in planned.report_dir.glob("ledger*")} == {"ledger.sqlite"}

    def test_of_another_version_is_not_read(self, planned: Planned, dicom: Dicom) -> None:
        """And that is said."""
        planned.put("a/1.dcm", dicom("1.2.1"))
        planned.run()
        with closing(sqlite3.connect(planned.report_dir / "ledger.sqlite")) as db:
            db.execute("UPDATE alembic_version SET version_num = '0003'")
            db.commit()
        facts = planned.plan()
        assert facts.by_status == {"uploaded": 1}
        assert any("another version" in problem for problem in facts.problems)


def test_of_postgresql_is_read_as_well(planned: Planned, dicom: Dicom, postgresql: PostgreSQL) -> None:
    planned.options["ledger"] = postgresql.new_database()
    fill(planned, dicom)
    same(planned.plan(), planned.run().summary)
    planned.put("b/3.dcm", dicom("1.2.6")[:-60])
    (planned.archive / "a/cut.dcm").rename(planned.archive / "a/moved.dcm")
    same(planned.plan(), planned.run().summary)


@pytest.mark.long
def test_memory_is_flat_whatever_the_number_of_files(planned: Planned, dicom: Dicom) -> None:
    """Of 5,000 files in one study, and of 10,000 in two, the second costs nothing."""
    body = dicom("1.2.1")
    peaks = []
    for study in "ab":
        for number in range(5_000):
            path = planned.archive / f"{study}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                body.replace(padded("1.2.1").encode(), padded(f"1.{ord(study)}.{number}").encode())
            )
        (planned.directory / "manifest.csv").unlink(missing_ok=True)
        tracemalloc.start()
        assert planned.plan().by_status["uploaded"] == 5_000 * (1 + (study == "b"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1024 * 1024


def test_says_how_far_it_is_by_studies_files_and_bytes(planned: Planned, dicom: Dicom) -> None:
    """In the end all of each are done; what a run would store and hold back is counted, readers are none."""
    fill(planned, dicom)
    seen: list[tuple[Progress, Snapshot]] = []

    @contextmanager
    def watch(progress: Progress) -> Iterator[None]:
        sampler = Sampler(progress)
        yield
        seen.append((progress, sampler.snapshot()))

    facts = plan(planned.manifest, planned.settings(), FULL, None, watch, edges=planned.edges)
    progress, last = seen[0]
    assert (progress.studies_done, progress.studies_listed) == (5, 5)
    assert progress.files_done == progress.files_listed == facts.files
    assert progress.bytes_done == progress.bytes_listed == facts.found_bytes
    assert (progress.files_stored, progress.bytes_stored) == (facts.by_status["uploaded"], facts.bytes)
    held_back = sum(count for status, count in facts.by_status.items() if status in EXIT_ONE)
    assert progress.files_held_back == held_back
    assert last.platform is not None
    assert (last.platform.slots > 0, last.platform.slots_in_use) == (True, 0)
    said = sentence(last)
    assert said.startswith(f"5 of 5 studies, {facts.files} of {facts.files} files done, ")
    assert f"{facts.by_status['uploaded']} to upload, 0 failed, {held_back} held back" in said
    assert "readers in use" in said
