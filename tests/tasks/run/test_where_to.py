"""Where to, and what: which platform a run sent which manifest's files to, and that a campaign has one."""

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.cli.__main__ import execute
from tasks.audit.check import audit
from tasks.core.errors import UsageError
from tasks.report.finished import is_finished
from tasks.report.reader import read_summary
from tasks.run.engine import ingest
from tasks.run.preflight import check, target_of
from tasks.run.records import report_again
from tasks.source.manifest_reader import load_manifest
from tests.conftest import NearSide, Run
from tests.far_side import TOKEN, Deviation, FarSide, Minted, Reply, Request, Step
from tests.tasks.audit.report_dirs import events

Content = dict[str, bytes]


@pytest.fixture
def other(far_side: FarSide) -> Iterator[FarSide]:
    """Another platform, that the same credentials open."""
    with FarSide() as other:
        yield other


def address(far_side: FarSide, host: str = "127.0.0.1") -> str:
    return f"{host}:{urlsplit(far_side.url).port}"


def by_another_name(far_side: FarSide) -> str:
    return far_side.url.replace("127.0.0.1", "localhost")


def on_two_hosts(far_side: FarSide) -> Callable[[Request], Deviation | None]:
    """Each second URL leads to the store by another name."""

    def script(request: Request) -> Deviation | None:
        is_second = request.step is Step.PRESIGN and request.n % 2 == 0
        return Minted(host=address(far_side, "localhost")) if is_second else None

    return script


def write_manifest(near_side: NearSide, *names: str) -> Path:
    path = near_side.directory / "manifest.csv"
    path.write_text("\n".join(["study_dir", *(f"archive/{name}" for name in names)]) + "\n")
    return path


def send(near_side: NearSide, manifest: Path, **options: object) -> Run:
    root = near_side.settings(**options).root
    entries = load_manifest(manifest, Path(root) if root else None)
    return near_side.told(ingest(entries, near_side.settings(**options), edges=near_side.edges))


def everything(directory: Path) -> Content:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


class TestRecords:
    def test_say_where_to_and_what(self, near_side: NearSide, far_side: FarSide) -> None:
        """Summary, certificate, trail and ledger: hosts with their ports, the manifest's digest, the root."""
        near_side.put_many(6)
        manifest = write_manifest(near_side, "study")
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
        far_side.script = on_two_hosts(far_side)
        summary = send(near_side, manifest, root=str(near_side.directory)).summary
        stores = sorted([address(far_side), address(far_side, "localhost")])
        told = {
            "api_host": address(far_side),
            "storage_hosts": stores,
            "manifest_sha256": digest,
            "root": str(near_side.directory),
        }
        assert {name: getattr(summary, name) for name in told} == told
        certificate = json.loads((near_side.report_dir / "certificate.json").read_bytes())
        assert {name: certificate[name] for name in told} == told
        started, ended = (
            next(each for each in events(near_side.report_dir) if each["event"] == event)
            for event in ("run_started", "run_ended")
        )
        assert {name: {**ended, **started}[name] for name in told} == told
        with closing(sqlite3.connect(near_side.report_dir / "ledger.sqlite")) as ledger:
            (row,) = ledger.execute("SELECT api_host, manifest_sha256, root FROM run").fetchall()
            hosts = [host for (host,) in ledger.execute("SELECT host FROM storage_host ORDER BY host")]
        assert (*row, hosts) == (address(far_side), digest, str(near_side.directory), stores)
        assert audit(near_side.report_dir).faults == []

    def test_have_a_host_before_the_first_file_goes_there(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """On the disk: also of a run that is killed then, and in the report that is written again."""
        near_side.put_many(1)
        seen: list[object] = []

        def script(request: Request) -> None:
            if request.step is Step.PUT:
                seen.extend(
                    each["storage_host"]
                    for each in events(near_side.report_dir)
                    if each["event"] == "storage_host"
                )
                with closing(sqlite3.connect(near_side.report_dir / "ledger.sqlite")) as ledger:
                    seen.extend(*ledger.execute("SELECT host FROM storage_host").fetchall())

        far_side.script = script
        near_side.run()
        store = address(far_side)
        assert seen == [store, store]
        ledger_at = near_side.settings().ledger_at
        with closing(sqlite3.connect(ledger_at)) as ledger, ledger:
            ledger.execute("UPDATE run SET end = NULL, heartbeat_s = 1")
        (near_side.report_dir / "summary.json").unlink()
        again = report_again(near_side.report_dir, ledger_at, "default")
        assert (again.api_host, again.storage_hosts, again.exit_code) == (store, [store], 3)

    def test_have_where_the_store_sends_on_to(
        self, near_side: NearSide, far_side: FarSide, other: FarSide
    ) -> None:
        """The bytes lie there, whatever the URL said."""
        near_side.put_many(1)

        def script(request: Request) -> Deviation | None:
            if request.step is not Step.PUT:
                return None
            url = json.loads(other.mint(Minted(key=request.key)).body)["url"]
            return Reply(307, headers={"Location": url})

        far_side.script = script
        assert near_side.run().summary.storage_hosts == sorted([address(far_side), address(other)])

    def test_of_a_run_without_a_manifest_have_no_digest_and_no_host_that_nothing_was_sent_to(
        self, near_side: NearSide, far_side: FarSide
    ) -> None:
        """As of `upload`; the second run knows all files, and its one URL is used for nothing."""
        near_side.put_many(2)
        assert near_side.run().summary.storage_hosts == [address(far_side)]
        summary = near_side.run().summary
        assert (summary.manifest_sha256, summary.root, summary.storage_hosts) == ("", "", [])

    def test_that_an_earlier_version_wrote_can_be_read(self, near_side: NearSide) -> None:
        near_side.put_many(1)
        near_side.run()
        path = near_side.report_dir / "summary.json"
        older = {
            name: value
            for name, value in json.loads(path.read_bytes()).items()
            if name not in ("api_host", "storage_hosts", "manifest_sha256", "root")
        }
        path.write_text(json.dumps(older))
        assert read_summary(near_side.report_dir).api_host == ""


class TestAnotherPlatform:
    def test_is_refused_before_it_is_asked_for_anything(
        self, near_side: NearSide, far_side: FarSide, other: FarSide
    ) -> None:
        """By a run, and by `run` before Prefect starts; the report, ledger and trail stay as they are."""
        near_side.put_many(2)
        near_side.run()
        before = everything(near_side.report_dir)
        for begin in (near_side.run, lambda **given: check(near_side.settings(**given), near_side.edges)):
            with pytest.raises(UsageError) as refused:
                begin(api_endpoint=other.url)
            assert str(refused.value) == (
                f"Campaign default belongs to the platform at {address(far_side)}, and --api-endpoint is at "
                f"{address(other)}: what is stored there is not stored here. Nothing was sent. If it is the "
                "same platform by another name, say so once: --same-platform. Else name another --campaign, "
                "or another ledger (by --ledger, or a --report-dir that has its own)."
            )
        assert other.requests == []
        assert everything(near_side.report_dir) == before

    def test_that_another_run_began_meanwhile_is_refused_too(
        self, near_side: NearSide, far_side: FarSide, other: FarSide
    ) -> None:
        """Both looked when the campaign was nobody's; who comes second leaves nothing and sends nothing."""
        near_side.put_many(2)
        ledger, first_dir = str(near_side.directory / "ledger.sqlite"), near_side.directory / "first"

        def script(request: Request) -> None:
            if request.step is Step.PRESIGN and request.n == 1:
                run = ingest(
                    near_side.entries(),
                    near_side.settings(api_endpoint=other.url, ledger=ledger, report_dir=first_dir),
                )
                assert run.by_status == {"uploaded": 2}

        far_side.script = script
        with pytest.raises(UsageError, match=f"belongs to the platform at {address(other)}"):
            near_side.run(ledger=ledger)
        assert not near_side.report_dir.exists()
        assert (len(far_side.objects), len(other.objects)) == (0, 2)
        assert audit(first_dir).faults == []

    @pytest.mark.parametrize("options", [["--campaign", "other"], ["--ledger", "other.sqlite"]])
    def test_is_another_campaign_or_has_another_ledger(
        self, near_side: NearSide, other: FarSide, options: list[str]
    ) -> None:
        """There everything is sent anew."""
        near_side.put_many(2)
        near_side.run()
        given = {options[0].strip("-"): options[1]}
        if "ledger" in given:
            given["ledger"] = str(near_side.directory / given["ledger"])
        run = near_side.run(api_endpoint=other.url, **given)
        assert run.summary.by_status == {"uploaded": 2}
        assert len(other.objects) == 2

    def test_makes_nothing_where_the_report_goes(
        self, near_side: NearSide, other: FarSide, tmp_path: Path
    ) -> None:
        """Also where that directory is new, and the ledger another's."""
        near_side.put_many(1)
        near_side.run()
        ledger = str(near_side.settings().ledger_at)
        with pytest.raises(UsageError, match="belongs to the platform"):
            near_side.run(api_endpoint=other.url, ledger=ledger, report_dir=tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_is_the_same_once_somebody_says_so(
        self, near_side: NearSide, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the commands: refused with 2, said with --same-platform, and from then on remembered."""
        near_side.put_many(2)
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        monkeypatch.chdir(near_side.directory)
        here, there = far_side.url, by_another_name(far_side)

        def upload(url: str, *options: str) -> int:
            return execute(["upload", "-p", "archive/study", "-u", url, *options])

        assert upload(here) == 0
        assert upload(there) == 2
        assert upload(there, "--same-platform") == 0
        assert [upload(url) for url in (there, here, here.upper().replace("HTTP", "http"))] == [0, 0, 0]
        assert read_summary(Path("report")).by_status == {"already_uploaded": 2}
        assert len(far_side.objects) == 2
        assert upload(here.rpartition(":")[0] + ":1") == 2


class TestFinished:
    def finished(self, near_side: NearSide, manifest: Path, **options: object) -> bool:
        settings = near_side.settings(**options)
        of_campaign = settings.ledger_at, settings.campaign, target_of(settings), settings.root
        return is_finished(manifest, near_side.report_dir, *of_campaign)

    def test_is_what_was_stored_of_these_very_bytes(self, near_side: NearSide) -> None:
        """Whatever its times say, and whatever the clock said."""
        near_side.put_many(1)
        manifest = write_manifest(near_side, "study")
        assert not self.finished(near_side, manifest), "no report yet"
        send(near_side, manifest)
        for at in (0, 2**40):
            os.utime(manifest, ns=(at, at))
            assert self.finished(near_side, manifest)
        bytes_of_it = manifest.read_bytes()
        manifest.write_bytes(bytes_of_it.replace(b"study\n", b"other\n"))
        os.utime(manifest, ns=(0, 0))
        assert not self.finished(near_side, manifest), "another one, with an old time"
        manifest.write_bytes(bytes_of_it)
        assert self.finished(near_side, manifest), "as it was"

    def test_is_not_what_changed_while_it_ran(self, near_side: NearSide, far_side: FarSide) -> None:
        near_side.put_many(1)
        manifest = write_manifest(near_side, "study")
        far_side.script = lambda _request: manifest.write_text("study_dir\narchive/other\n") and None
        send(near_side, manifest)
        assert not self.finished(near_side, manifest)

    def test_is_not_what_is_incomplete(self, near_side: NearSide) -> None:
        (near_side.archive / "study").mkdir(parents=True)
        manifest = write_manifest(near_side, "study")
        assert send(near_side, manifest).exit_code == 1
        assert not self.finished(near_side, manifest)

    def test_is_not_what_went_elsewhere_or_was_taken_from_another_root(
        self, near_side: NearSide, far_side: FarSide, other: FarSide
    ) -> None:
        """Nor what another campaign stored; another name of the platform is no other one."""
        near_side.put_many(1)
        manifest = write_manifest(near_side, "study")
        send(near_side, manifest)
        assert self.finished(near_side, manifest)
        assert not self.finished(near_side, manifest, api_endpoint=other.url)
        assert not self.finished(near_side, manifest, campaign="other")
        assert not self.finished(near_side, manifest, root=str(near_side.directory))
        there = by_another_name(far_side)
        send(near_side, manifest, api_endpoint=there, same_platform=True)
        assert self.finished(near_side, manifest)
        assert self.finished(near_side, manifest, api_endpoint=there)

    def test_is_not_what_the_same_rows_mean_in_another_folder(self, near_side: NearSide) -> None:
        """As of the next month's export, whose relative directories have the same names."""
        near_side.put_many(1)
        manifest = write_manifest(near_side, "study")
        send(near_side, manifest)
        november = near_side.directory / "november"
        november.mkdir()
        shutil.copy2(manifest, november)
        assert not self.finished(near_side, november / manifest.name)
        assert self.finished(near_side, manifest)

    def test_is_not_what_its_ledger_does_not_know(self, near_side: NearSide) -> None:
        """It was deleted, or another one is there: nobody knows any more what is stored."""
        near_side.put_many(1)
        manifest = write_manifest(near_side, "study")
        send(near_side, manifest)
        ledger = Path(near_side.settings().ledger_at)
        kept = ledger.read_bytes()
        ledger.unlink()
        assert not self.finished(near_side, manifest), "deleted"
        assert not ledger.exists(), "looking makes none"
        ledger.write_bytes(b"")
        assert not self.finished(near_side, manifest), "empty"
        ledger.write_bytes(b"no database, but long enough to look like one" * 100)
        assert not self.finished(near_side, manifest), "no database"
        send(near_side, manifest, ledger=str(near_side.directory / "new.sqlite"))
        summary = near_side.report_dir / "summary.json"
        ledger.write_bytes(kept)
        assert not self.finished(near_side, manifest), "another run's report"
        assert self.finished(near_side, manifest, ledger=str(near_side.directory / "new.sqlite"))
        summary.write_text("{")
        assert not self.finished(near_side, manifest), "a summary that can't be read"

    def test_is_not_what_a_later_run_left_without_an_end(self, near_side: NearSide) -> None:
        """The report is the last whole one; what the killed run has stored is in none."""
        near_side.put_many(1)
        manifest = write_manifest(near_side, "study")
        send(near_side, manifest)
        near_side.put_many(2)
        engine = near_side.engine()
        with engine.draining():
            pass
        engine.close()
        assert not self.finished(near_side, manifest)
