"""Manifests and studies in stores: a real S3 endpoint and a real SFTP server, both rclone's."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.cli.__main__ import execute
from tasks.core.errors import ManifestError, UsageError
from tasks.core.models import StudyEntry
from tasks.plan_settings import PlanSettings
from tasks.report.directory import REPORT_CSV
from tasks.report.reader import read_report
from tasks.run.engine import ingest
from tasks.run.planning import plan
from tasks.source.manifest_folder import manifests_at
from tasks.source.manifest_reader import load_manifest
from tasks.source.stores import read_store_file, store_rows
from tests.conftest import MIB, NearSide, Run, instance
from tests.far_side import TOKEN, FarSide, Step, all_good, always, status
from tests.object_store import ObjectStore
from tests.remote_files import remote_files

pytestmark = pytest.mark.processes

ONE, TWO = instance("1.1"), instance("1.2")
LARGE = instance("1.3", pixel_bytes=9 * MIB)


@pytest.fixture
def at_store(whole_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A prefix of one's own, and the credentials for it in the environment."""
    for name, value in whole_store.environment.items():
        monkeypatch.setenv(name, value)
    return ObjectStore(whole_store.client, f"{tmp_path.name}/", whole_store.environment)


@pytest.fixture(scope="module")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An address, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("remote")
    with remote_files(folder, tmp_path_factory.mktemp("home")) as address:
        yield address, folder


def run(near_side: NearSide, *study_dirs: str, **options: object) -> Run:
    entries = [StudyEntry(number, study_dir) for number, study_dir in enumerate(study_dirs, 1)]
    summary = ingest(entries, near_side.settings(**options), edges=near_side.edges)
    return Run(summary, {row["path"]: row for row in read_report(near_side.report_dir)})


class TestAStudyInS3:
    def test_is_sent_as_it_is(self, near_side: NearSide, far_side: FarSide, at_store: ObjectStore) -> None:
        """Every key below the prefix, in their order, and nothing beside it."""
        bodies = {"a/IM1": ONE, "a.x": b"text", "é/ IM 2+%20#?": TWO, "large": LARGE, "none": b""}
        for name, body in bodies.items():
            at_store.put(f"study/{name}", body)
        at_store.put("study2/other", instance("1.9"))
        found = run(near_side, f"{at_store.address}study")
        names = sorted(bodies, key=str.encode)
        assert [*found.rows] == [f"{at_store.address}study/{name}" for name in names]
        assert [*found.statuses.values()] == [
            "not_dicom/text", "uploaded", "uploaded", "not_dicom/empty", "uploaded"
        ]  # fmt: skip
        stored = {path: far_side.bodies[row["key"]] for path, row in found.rows.items() if row["key"]}
        assert stored == {
            f"{at_store.address}study/{name}": bodies[name] for name in ("a/IM1", "é/ IM 2+%20#?", "large")
        }
        assert f",{at_store.address}study/a/IM1," in (near_side.report_dir / REPORT_CSV).read_text()

    def test_is_planned_for_as_it_is_sent(self, near_side: NearSide, at_store: ObjectStore) -> None:
        """Its headers are read there, and what has one UID is hashed there."""
        other = instance("1.1", text="other bytes")
        for name, body in {
            "1": ONE,
            "1 again": ONE,
            "other": other,
            "large": LARGE,
            "x.txt": b"text",
        }.items():
            at_store.put(f"study/{name}", body)
        manifest = near_side.directory / "manifest.csv"
        manifest.write_text(f"study_dir\n{at_store.address}study\n")
        facts = plan(manifest, near_side.settings(), PlanSettings(full=True), edges=near_side.edges)
        assert facts.by_status == run(near_side, f"{at_store.address}study").summary.by_status

    def test_is_not_read_again_until_it_changes(
        self, near_side: NearSide, far_side: FarSide, at_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By size, time and ETag."""
        monkeypatch.setattr("tasks.core.file_times.RACY_NS", -(10**18))  # it was put a moment ago
        at_store.put("study/IM1", ONE)
        at_store.put("study/IM2", TWO)
        run(near_side, f"{at_store.address}study/")
        with monkeypatch.context() as patched:
            patched.setattr("tasks.source.member_content.read_stored", None)
            again = run(near_side, f"{at_store.address}study/")
        assert [*again.statuses.values()] == ["already_uploaded", "already_uploaded"]
        at_store.put("study/IM1", instance("1.1", text="of the same size"))
        at_store.put("study/IM2", instance("1.2", pixel_bytes=6400))
        changed = run(near_side, f"{at_store.address}study/")
        first, second = changed.statuses.values()
        assert first in ("changed/altered", "uploaded/replaced"), "by its ETag, or its time"
        assert second == "uploaded/replaced"

    def test_that_is_not_there_is_missing(self, near_side: NearSide, at_store: ObjectStore) -> None:
        """Of a bucket that nobody may read, or that is none, each study has a row, too."""
        found = run(near_side, f"{at_store.address}gone", "s3://no-such-bucket/study")
        assert found.exit_code == 1
        assert found.statuses == {
            f"{at_store.address}gone": "missing/not_found",
            "s3://no-such-bucket/study": "missing/not_found",
        }

    def test_that_may_not_be_read_says_so(
        self, near_side: NearSide, at_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        monkeypatch.setattr("tasks.source.stores._connections", {})
        found = run(near_side, f"{at_store.address}study")
        assert [*found.statuses.values()] == ["unreadable/permission"]

    def test_in_another_has_its_own_files(self, near_side: NearSide, at_store: ObjectStore) -> None:
        """As directories that lie in one another."""
        at_store.put("a/b/IM1", ONE)
        at_store.put("a/IM2", TWO)
        found = run(near_side, f"{at_store.address}a/b", f"{at_store.address}a")
        assert [row["study_no"] for row in found.rows.values()] == ["1", "2"]

    def test_left_and_gone_is_missing(
        self, near_side: NearSide, far_side: FarSide, at_store: ObjectStore
    ) -> None:
        """While what is there is looked at anew."""
        far_side.script = always(Step.PUT, status(403))
        for name, body in (("IM1", ONE), ("IM2", TWO)):
            at_store.put(f"study/{name}", body)
        run(near_side, f"{at_store.address}study")
        at_store.remove("study/IM1")
        far_side.script = all_good
        assert [*run(near_side, f"{at_store.address}study").statuses.values()] == [
            "missing/not_found",
            "uploaded",
        ]


class TestAStudyOverSftp:
    def test_is_sent_as_it_is(self, near_side: NearSide, far_side: FarSide, sftp: tuple[str, Path]) -> None:
        """Directory by directory, in the order of whole paths; what is large is streamed."""
        address, folder = sftp
        bodies = {"a/IM1": ONE, "a.x": b"text", "é/ IM 2+%20#?": TWO, "large": LARGE}
        for name, body in bodies.items():
            (folder / "study" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "study" / name).write_bytes(body)
        found = run(near_side, f"{address}/study")
        assert [*found.rows] == [f"{address}/study/{name}" for name in sorted(bodies, key=str.encode)]
        stored = {path: far_side.bodies[row["key"]] for path, row in found.rows.items() if row["key"]}
        assert {*stored.values()} == {ONE, TWO, LARGE}
        again = run(near_side, f"{address}/study", f"{address}/none")
        assert (again.summary.by_status["already_uploaded"], again.summary.by_status["missing"]) == (3, 1)

    def test_is_read_by_several_at_once(self, sftp: tuple[str, Path]) -> None:
        """A connection has one user at a time: two would wait for each other's answers for ever."""
        address, folder = sftp
        (folder / "many").mkdir()
        for number in range(8):
            (folder / "many" / f"{number}").write_bytes(bytes([number]) * 100_000)
        urls = [f"{address}/many/{number % 8}" for number in range(80)]
        with ThreadPoolExecutor(8) as pool:
            assert [body[0] for body in pool.map(read_store_file, urls)] == [n % 8 for n in range(80)]

    def test_of_a_host_that_is_not_known_is_not_read(
        self, sftp: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It might be anybody."""
        address, _ = sftp
        (Path(os.environ["HOME"]) / ".ssh" / "known_hosts").rename(
            Path(os.environ["HOME"]) / ".ssh" / "unknown"
        )
        monkeypatch.setattr("tasks.source.stores._connections", {})
        ((path, reason),) = store_rows(f"{address}/study")
        assert (path.endswith(b"/study/"), reason) == (True, "io_error")
        (Path(os.environ["HOME"]) / ".ssh" / "unknown").rename(
            Path(os.environ["HOME"]) / ".ssh" / "known_hosts"
        )


class TestAManifest:
    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_in_s3_is_read_there(self, at_store: ObjectStore, tmp_path: Path, suffix: str) -> None:
        """Relative directories are beside it; others are in any store, or on this machine."""
        import pandas as pd

        directories = ["a", "../b/", "s3://other/x//", "sftp://me@host/y", "/local/z"]
        local = tmp_path / f"m{suffix}"
        frame = pd.DataFrame({"study_dir": directories})
        frame.to_csv(local, index=False) if suffix == ".csv" else frame.to_parquet(local)
        at_store.put(f"lists/m{suffix}", local.read_bytes())
        entries = load_manifest(Path(f"{at_store.address}lists/m{suffix}"))
        assert [entry.study_dir for entry in entries] == [
            f"{at_store.address}lists/a",
            f"{at_store.address}b",
            "s3://other/x",
            "sftp://me@host/y",
            "/local/z",
        ]
        assert entries.sha256 == load_manifest(local).sha256
        assert manifests_at(f"{at_store.address}lists/m{suffix}") is None

    def test_that_is_not_there_cannot_be_read(self, at_store: ObjectStore) -> None:
        with pytest.raises(UsageError, match="can't be read: No such file"):
            load_manifest(Path(f"{at_store.address}none.csv"))

    @pytest.mark.parametrize(
        ("study_dir", "fault"),
        [
            ("sftp://me:secret@host/a", "holds a password"),
            ("s3:///a", "names no bucket and no host"),
        ],
    )
    def test_with_a_wrong_address_is_refused(self, tmp_path: Path, study_dir: str, fault: str) -> None:
        (tmp_path / "m.csv").write_text(f"study_dir\n{study_dir}\n")
        with pytest.raises(ManifestError, match=fault) as raised:
            load_manifest(tmp_path / "m.csv")
        assert "secret" not in str(raised.value)
        (tmp_path / "m.csv").write_text("study_dir\ns3://bucket/a\n")
        with pytest.raises(ManifestError, match="lies outside --root"):
            load_manifest(tmp_path / "m.csv", tmp_path)

    def test_needs_the_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Said before anything begins, with what to type."""
        monkeypatch.setitem(sys.modules, "s3fs", None)
        (tmp_path / "m.csv").write_text("study_dir\ns3://bucket/a\n")
        with pytest.raises(UsageError, match=r"pip install '\.\[stores\]'"):
            load_manifest(tmp_path / "m.csv")


def test_a_prefix_is_uploaded_by_the_command(
    at_store: ObjectStore, far_side: FarSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dicom-ingest upload -p s3://bucket/study`, whose path the command line makes one of this machine."""
    at_store.put("study/IM1", ONE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
    assert execute(["upload", "-u", far_side.url, "-p", f"{at_store.address}study"]) == 0
    assert [*far_side.bodies.values()] == [ONE]
