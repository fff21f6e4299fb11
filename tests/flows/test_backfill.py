"""The backfill flow under Prefect: its state counts, the report tells, and Prefect learns nothing more."""

import binascii
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

from deployments.sandbox.sandbox import Sandbox
from flows.backfill import backfill
from flows.cli.__main__ import execute
from flows.migrate import migrate, migrate_shard
from flows.orchestration.parameters import Options
from tasks.core.errors import CredentialsRefusedError, IngestError, ManifestError, NotAllStoredError
from tasks.core.plan import batch_target
from tasks.report.reader import read_report, read_summary
from tasks.run.engine import Engine
from tests.far_side import TOKEN, FarSide, Step, always, interrupting, once_begun, status
from tests.flows.conftest import Objects, Plant, cut

pytestmark = pytest.mark.usefixtures("prefect_server", "at_sandbox")

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
# What two runs over the same files may differ in.
OF_ONE_RUN = ("key", "started_at", "finished_at", "duration_s", "run_id")


def write_manifest(path: Path, *study_dirs: object, columns: str = "study_dir") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *map(str, study_dirs)]) + "\n")
    return path


def run(manifest: Path, report: Path, **options: Any) -> State[Any]:
    return backfill(
        manifest=str(manifest), report_dir=str(report), options=Options(**options), return_state=True
    )


def counts_of(state: State[Any]) -> dict[str, Any]:
    result = state.result(raise_on_failure=False)
    counts = result.counts if isinstance(result, NotAllStoredError) else result
    assert isinstance(counts, dict)
    return counts


def batches_of(state: State[Any], expected: int) -> list[str]:
    """The names of a run's task runs; the server hears of them a moment after they ended."""
    of_this_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    deadline = time.monotonic() + 10
    with get_client(sync_client=True) as client:
        while True:
            names = sorted(task_run.name for task_run in client.read_task_runs(flow_run_filter=of_this_run))
            if len(names) >= expected or time.monotonic() > deadline:
                return names
            time.sleep(0.1)


def rows_of(report: Path, *without: str) -> list[dict[str, str]]:
    return [{name: text for name, text in row.items() if name not in without} for row in read_report(report)]


class TestFinalState:
    def test_of_a_good_archive_is_completed_with_counts(self, tmp_path: Path, plant: Plant) -> None:
        """Completed says how many files are stored, and carries the counts by status."""
        plant(tmp_path / "a", 3)
        plant(tmp_path / "b", 2)
        state = run(write_manifest(tmp_path / "manifest.csv", "a", "b"), tmp_path / "report")
        assert state.is_completed()
        assert state.message == "5 files, 5 stored, 0 already there"
        result = counts_of(state)
        assert (result["exit_code"], result["by_status"]) == (0, {"uploaded": 5})
        assert result["run_id"] == read_summary(tmp_path / "report").run_id

    def test_after_trouble_with_files_is_failed_with_counts(self, tmp_path: Path, plant: Plant) -> None:
        """Trouble with a file is data: every row is in the report before the state says Failed."""
        plant(tmp_path / "a", 2)
        cut(*plant(tmp_path / "b").values())
        state = run(write_manifest(tmp_path / "manifest.csv", "a", "b", "gone"), tmp_path / "report")
        assert state.is_failed()
        assert state.message == "2 of 4 files, 2 studies incomplete, see report"
        result = counts_of(state)
        assert (result["exit_code"], result["by_status"]) == (
            1,
            {"uploaded": 2, "invalid": 1, "missing": 1},
        )
        assert [(row["status"], row["reason"]) for row in read_report(tmp_path / "report")] == [
            ("uploaded", ""),
            ("uploaded", ""),
            ("invalid", "truncated"),
            ("missing", "not_found"),
        ]

    def test_of_a_second_run_counts_what_is_already_there(self, tmp_path: Path, plant: Plant) -> None:
        """The ledger decides, not Prefect: nothing is sent again, and a task that ran before is no reason."""
        plant(tmp_path / "a", 3)
        manifest = write_manifest(tmp_path / "manifest.csv", "a")
        run(manifest, tmp_path / "report")
        first = rows_of(tmp_path / "report", "status")
        state = run(manifest, tmp_path / "report")
        assert state.is_completed()
        assert state.message == "3 files, 0 stored, 3 already there"
        assert rows_of(tmp_path / "report", "status") == first

    def test_of_a_run_that_was_stopped_says_so(
        self, tmp_path: Path, plant: Plant, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Refused credentials end the run: Failed, with a row for every file and none stored."""
        plant(tmp_path / "a", 3)
        monkeypatch.delenv("DICOM_INGEST_TOKEN_URL")
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
        far_side.script = once_begun(always(Step.PRESIGN, status(401)))
        state = run(write_manifest(tmp_path / "manifest.csv", "a"), tmp_path / "report")
        assert state.is_failed()
        assert str(state.message).startswith("stopped early (exit code 4): 3 of 3 files")
        assert {row["status"] for row in read_report(tmp_path / "report")} <= {"not_attempted", "failed"}

    def test_of_a_run_that_never_began_says_why(
        self, tmp_path: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One sentence of ours; there is no report."""
        plant(tmp_path / "a", 3)
        monkeypatch.delenv("DICOM_INGEST_TOKEN_URL")
        monkeypatch.setenv("DICOM_INGEST_TOKEN", "nobody-knows-this-one")
        state = run(write_manifest(tmp_path / "manifest.csv", "a"), tmp_path / "report")
        assert state.is_failed()
        assert isinstance(state.result(raise_on_failure=False), CredentialsRefusedError)
        assert "The credentials are refused" in str(state.message)
        assert not (tmp_path / "report").exists()


class TestOfADeployment:
    @pytest.fixture
    def given(self, tmp_path: Path, plant: Plant, far_side: FarSide) -> dict[str, Any]:
        """Parameters that lead to another platform than the worker's."""
        plant(tmp_path / "a", 1)
        manifest = write_manifest(tmp_path / "manifest.csv", "a")
        return {
            "manifest": str(manifest),
            "report_dir": str(tmp_path / "report"),
            "api_endpoint": far_side.url,
        }

    @pytest.mark.parametrize("name", ["DEPLOYMENT__ID", "FLOW_RUN__PARENT_DEPLOYMENT_ID"])
    def test_a_run_is_bound_by_its_workers_environment(
        self, given: dict[str, Any], far_side: FarSide, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """So is a manifest's run that is part of a folder's. The platform of the parameters is not asked."""
        monkeypatch.setenv(f"PREFECT__RUNTIME__{name}", str(uuid4()))
        state = backfill(**given, return_state=True)
        assert state.is_failed()
        assert "api_endpoint goes beyond DICOM_INGEST_API_ENDPOINT of its worker" in str(state.message)
        assert far_side.requests == []
        assert not Path(given["report_dir"]).exists()

    def test_a_migration_is_and_each_shard_of_it(
        self, given: dict[str, Any], far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the environment of its own worker, whatever the migration was given."""
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid4()))
        whole = migrate(**given, return_state=True)
        of_shard = {name: text for name, text in given.items() if name != "manifest"}
        part = migrate_shard("r", 1, 1, "limit", **of_shard, return_state=True)
        for state in (whole, part):
            assert "api_endpoint goes beyond DICOM_INGEST_API_ENDPOINT of its worker" in str(state.message)
        assert far_side.requests == []

    def test_no_run_that_a_person_typed_is(
        self, given: dict[str, Any], far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("DICOM_INGEST_TOKEN_URL")
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        assert backfill(**given, return_state=True).is_completed()
        assert len(far_side.bodies) == 1


class TestLog:
    def test_of_a_deployments_run_warns_of_variables_that_nobody_reads(
        self, tmp_path: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No command has said it before; once, and not the value."""
        plant(tmp_path / "a", 1)
        monkeypatch.setenv("DICOM_INGEST_PARALEL", "hush")
        manifest = write_manifest(tmp_path / "manifest.csv", "a")
        for deployment_id, times in (("", 0), (str(uuid4()), 1)):
            monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", deployment_id)
            caplog.clear()
            logging.getLogger("prefect.flow_runs").addHandler(caplog.handler)
            run(manifest, tmp_path / "report")
            logging.getLogger("prefect.flow_runs").removeHandler(caplog.handler)
            told = {record.getMessage() for record in caplog.records if "PARALEL" in record.getMessage()}
            assert len(told) == times
            assert "hush" not in caplog.text

    def test_warns_of_an_option_that_an_earlier_version_had_and_the_run_goes_on(
        self, tmp_path: Path, plant: Plant, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A schedule or a deployment has kept it; a name that never was one is refused as before."""
        plant(tmp_path / "a", 1)
        given = {
            "manifest": str(write_manifest(tmp_path / "manifest.csv", "a")),
            "report_dir": str(tmp_path / "report"),
        }
        logging.getLogger("prefect.flow_runs").addHandler(caplog.handler)
        state = backfill(**given, options={"processes": 4, "parallel": 3}, return_state=True)
        logging.getLogger("prefect.flow_runs").removeHandler(caplog.handler)
        assert state.is_completed()
        told = {record.getMessage() for record in caplog.records if "processes" in record.getMessage()}
        (sentence,) = told
        assert sentence.startswith("The option processes is no setting any more and changes nothing")
        assert backfill(**given, options={"proceses": 4}, return_state=True).is_failed()
        assert Options.model_validate({"processes": 4, "parallel": 3}).model_dump(exclude_unset=True) == {
            "parallel": 3
        }


class TestInterrupt:
    def test_that_no_wait_notices_is_heeded_all_the_same(
        self, tmp_path: Path, plant: Plant, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A signal in the moment before the main thread waits does not end that wait."""
        monkeypatch.delenv("DICOM_INGEST_TOKEN_URL")
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
        plant(tmp_path / "a", 60)
        far_side.script = interrupting(5)
        state = run(write_manifest(tmp_path / "manifest.csv", "a"), tmp_path / "report", parallel=1)
        assert str(state.message).startswith("stopped early (exit code 130)")
        assert {row["status"] for row in read_report(tmp_path / "report")} == {"uploaded", "not_attempted"}

    def test_is_not_what_a_batch_that_took_too_long_ends_with(
        self, tmp_path: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Prefect's own TimeoutError is an end of the batch, not of a look at it."""
        plant(tmp_path / "a")

        @task(name="upload-batch", timeout_seconds=0.01)
        def takes_too_long(batch_no: int, engine: Engine) -> None:
            while True:  # whatever else the timeout hit in a thread might swallow it
                time.sleep(0.001)

        monkeypatch.setattr("flows.orchestration.batches.upload_batch", takes_too_long)
        state = run(write_manifest(tmp_path / "manifest.csv", "a"), tmp_path / "report")
        assert str(state.message).startswith("stopped early (exit code 3)")


class TestWrongManifest:
    def test_fails_the_run_with_every_fault(self, tmp_path: Path, plant: Plant, objects: Objects) -> None:
        """The flow's exception names row and column, and nothing was sent."""
        plant(tmp_path / "a")
        manifest = write_manifest(
            tmp_path / "manifest.csv",
            "a,1.2.3,1",
            ",1.2.3,1",
            "b,one.two,-4",
            columns="study_dir,study_instance_uid,expected_instances",
        )
        before = objects()
        state = run(manifest, tmp_path / "report")
        assert state.is_failed()
        error = state.result(raise_on_failure=False)
        assert isinstance(error, ManifestError)
        assert {(problem.row, problem.column) for problem in error.problems} == {
            (2, "study_dir"),
            (3, "study_instance_uid"),
            (3, "expected_instances"),
        }
        assert "one.two" not in str(state.message)
        assert objects() == before
        assert not (tmp_path / "report").exists()

    def test_is_one_sentence_in_the_ui(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The first fault, and how many more there are: no list of them, no traceback."""
        manifest = write_manifest(tmp_path / "manifest.csv", *[""] * 35)
        manifest.write_text("study_dir,label\n" + ",x\n" * 35)
        state = run(manifest, tmp_path / "report")
        assert state.message == (
            "The manifest was refused, nothing was sent: row 1, study_dir: is empty, and 34 more that "
            "`dicom-ingest run` shows at a terminal."
        )
        logs = [record for record in caplog.records if record.name.startswith("prefect.flow_runs")]
        assert [
            record.getMessage() for record in logs if "\n" in record.getMessage() or record.exc_info
        ] == []
        assert [record for record in logs if record.levelno >= logging.ERROR] == []

    def test_is_told_whole_at_a_terminal(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        manifest = tmp_path / "manifest.csv"
        manifest.write_text("study_dir,label\n" + ",x\n" * 3)
        report = str(tmp_path / "report")
        assert execute(["run", str(manifest), "--report-dir", report]) == 2
        told = capfd.readouterr().err
        assert [f"row {row}, study_dir: is empty" in told for row in (1, 2, 3)] == [True] * 3

    def test_that_is_not_there_fails_the_run(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """One sentence of ours, not a traceback of the operating system's."""
        state = run(tmp_path / "manifest.csv", tmp_path / "report")
        assert isinstance(state.result(raise_on_failure=False), IngestError)
        assert str(state.message).startswith("The manifest can't be read: No such file or directory.")
        assert "Traceback" not in caplog.text


class TestName:
    @pytest.fixture
    def named(self, tmp_path: Path, plant: Plant) -> Callable[[str], str]:
        """What a run is called whose manifest has these rows."""

        def named(rows: str) -> str:
            for study in ("a", "b"):
                plant(tmp_path / study)
            manifest = tmp_path / "manifest.csv"
            manifest.write_text(f"study_dir,label\n{rows}")
            state = run(manifest, tmp_path / "report", campaign="spring")
            with get_client(sync_client=True) as client:
                flow_run_id = state.state_details.flow_run_id
                assert flow_run_id
                return client.read_flow_run(flow_run_id).name

        return named

    def test_has_the_manifests_label_then_campaign_and_time(self, named: Callable[[str], str]) -> None:
        assert re.fullmatch(rf"CT of 2019 spring {TIME}", named("a,CT of 2019\nb,CT of 2019\n"))

    def test_has_no_label_where_rows_differ(self, named: Callable[[str], str]) -> None:
        assert re.fullmatch(rf"spring {TIME}", named("a,first\nb,second\n"))


class TestBothShells:
    def test_write_the_same_rows(self, tmp_path: Path, plant: Plant) -> None:
        """report.csv of `run` and of `upload` differ in keys and times alone; ETags and digests are equal."""
        study = tmp_path / "archive"
        plant(study / "series", 4)
        cut(*plant(study / "cut").values())
        (study / "notes.txt").write_text("a text\n")
        (study / "empty.dcm").touch()
        (study / "gone.dcm").symlink_to("nowhere.dcm")
        run(write_manifest(tmp_path / "manifest.csv", study), tmp_path / "run")
        assert execute(["upload", "-p", str(study), "--report-dir", str(tmp_path / "upload")]) == 1
        assert rows_of(tmp_path / "run", *OF_ONE_RUN) == rows_of(tmp_path / "upload", *OF_ONE_RUN)
        assert len(rows_of(tmp_path / "run")) == 8


class TestTaskRuns:
    def test_are_batches_not_studies(self, tmp_path: Path, plant: Plant) -> None:
        """Small studies are joined."""
        studies = [tmp_path / f"s{number:03}" for number in range(60)]
        for study in studies:
            plant(study)
        state = run(write_manifest(tmp_path / "manifest.csv", *studies), tmp_path / "report")
        assert batches_of(state, 1) == ["batch 1"]

    def test_are_batches_not_files(self, tmp_path: Path) -> None:
        """A large study is cut."""
        files = 2 * batch_target(1) + 1
        (tmp_path / "texts").mkdir()
        for number in range(files):
            (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number}\n")
        state = run(write_manifest(tmp_path / "manifest.csv", "texts"), tmp_path / "report")
        assert counts_of(state)["by_status"] == {"not_dicom": files}
        names = batches_of(state, 2)
        assert names == [f"batch {number}" for number in range(1, len(names) + 1)]
        assert 2 <= len(names) <= 3


class TestWhatPrefectLearns:
    @pytest.fixture
    def secrets(
        self, tmp_path: Path, plant: Plant, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> list[str]:
        """What three runs must have kept to themselves: one with trouble, two that are refused."""
        study = tmp_path / "archive" / "Canary^Jane_19700101"
        planted = plant(study, 3, text="Canary^Jane")
        cut(*plant(study / "canary-cut", text="Canary^Jane").values())
        gone = tmp_path / "archive" / "Canary^Gone"
        manifest = write_manifest(tmp_path / "manifest.csv", study, gone)
        run(manifest, tmp_path / "report")
        bad = write_manifest(tmp_path / "bad.csv", study, study, "../canary-outside")
        run(bad, tmp_path / "report", root=str(tmp_path / "archive"))
        monkeypatch.setenv("DICOM_INGEST_CLIENT_SECRET", "canary-secret")
        run(manifest, tmp_path / "report")
        stored = [row for row in read_report(tmp_path / "report") if row["status"] == "uploaded"]
        keys, digests = [row["key"] for row in stored], [row["sha256"] for row in stored]
        assert len(stored) == 3
        return ["canary", "IM0001", *planted, *keys, *digests, sandbox.client_secret, "X-Amz-Signature"]

    def test_is_no_path_no_uid_no_key_and_no_secret(
        self, secrets: list[str], prefect_server: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Not in a parameter, result, state, name or log, nor in what Prefect keeps in its home."""
        told = database_with(
            "batch 1", "entries in the manifest", "manifest was refused", "refused the client"
        )
        told = "\n".join([told, *texts_below(prefect_server), caplog.text]).lower()
        assert [secret for secret in secrets if secret.lower() in told] == []


def database_with(*texts: str) -> str:
    """All of Prefect's database as text; logs and task runs come into it some time after their run."""
    url = str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value())
    deadline = time.monotonic() + 20
    while True:
        with closing(sqlite3.connect(url.partition("///")[2])) as database:
            told = "\n".join(database.iterdump())
        if missing := [text for text in texts if text not in told]:
            assert time.monotonic() < deadline, f"Prefect was not told: {missing}"
            time.sleep(0.2)
        else:
            return told


def texts_below(home: Path) -> Iterator[str]:
    """What Prefect's home holds; results, which exceptions are too, are pickled and in base64."""
    for path in home.rglob("*"):
        if path.is_file():
            body = path.read_bytes()
            yield body.decode("utf-8", "replace")
            if path.parent.name == "storage":
                yield binascii.a2b_base64(body).decode("utf-8", "replace")
