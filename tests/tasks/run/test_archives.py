"""Archives in a study directory: with --archives what is in them goes where files go, byte for byte."""

import csv
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.models import ArchiveState, Rejected, StudyEntry
from tasks.report.directory import REPORT_CSV
from tasks.run.engine import ingest
from tasks.source import gzip_stream, tar_archive
from tasks.source.archives import Archives
from tasks.source.manifest_writer import scan_manifest
from tasks.source.member_content import read_source
from tasks.source.scan import just_file, survey, walk_study
from tests.conftest import MIB, NearSide, Run, instance
from tests.far_side import FarSide, Step, all_good, always, status
from tests.odd_archives import (
    bomb,
    encrypted,
    gzipped,
    overlapping,
    tarred,
    with_link,
    with_method,
    with_size,
    zipped,
    zipped64,
)

ONE, TWO = instance("1.1"), instance("1.2")
LARGE = instance("1.3", pixel_bytes=12 * MIB)
READ = "not_dicom/archive"
Pack = Callable[[Mapping[str, bytes]], bytes]
PACKS: dict[str, Pack] = {
    "a.zip": zipped,
    "stored.ZIP": lambda members: zipped(members, zipfile.ZIP_STORED),
    "deflate64.zip": zipped64,
    "zip64.zip": lambda members: zipped(members, is_large=True),
    "behind.zip": lambda members: b"PK\x03\x04 and more" + zipped(members),
    "a.tar": tarred,
    "a.tar.gz": lambda members: tarred(members, is_packed=True),
    "a.tgz": lambda members: tarred(members, is_packed=True),
}


def outcomes(run: Run, archive: str) -> dict[str, str]:
    """What became of the members of an archive in `study`, by their names."""
    rows = {row["path"].partition("\0"): run.statuses[name] for name, row in run.rows.items()}
    return {
        member: said for (path, mark, member), said in rows.items() if mark and path.endswith(f"/{archive}")
    }


class TestAnArchive:
    @pytest.mark.parametrize("name", PACKS)
    def test_gives_its_members_as_they_are(self, near_side: NearSide, far_side: FarSide, name: str) -> None:
        """Each has a row and an object of its own; the archive has its row, too, and exit code 0."""
        near_side.put(f"study/{name}", PACKS[name]({"dir/one": ONE, "two": TWO, "large": LARGE}))
        run = near_side.run(archives=True)
        assert run.statuses == {
            f"study/{name}": READ,
            f"study/{name}\0dir/one": "uploaded",
            f"study/{name}\0large": "uploaded",
            f"study/{name}\0two": "uploaded",
        }
        assert run.row(f"study/{name}")["detail"] == ArchiveState.READ
        assert run.exit_code == 0
        assert {far_side.bodies[row["key"]] for row in run.rows.values() if row["key"]} == {ONE, TWO, LARGE}

    def test_is_not_looked_into_unless_asked(self, near_side: NearSide) -> None:
        """As ever: it is no image."""
        near_side.put("study/a.zip", zipped({"one": ONE}))
        run = near_side.run()
        assert (run.statuses, run.row("study/a.zip")["detail"]) == ({"study/a.zip": READ}, "")

    def test_of_one_gzipped_file_has_its_name(self, near_side: NearSide, far_side: FarSide) -> None:
        """Also of one too large to hold."""
        near_side.put("study/x.dcm.gz", gzipped(ONE))
        near_side.put("study/large.gz", gzipped(LARGE))
        run = near_side.run(archives=True)
        assert outcomes(run, "x.dcm.gz") == {"x.dcm": "uploaded"}
        assert outcomes(run, "large.gz") == {"large": "uploaded"}
        assert {*far_side.bodies.values()} == {ONE, LARGE}
        assert run.row("study/large.gz\0large")["size_bytes"] == str(len(LARGE))

    def test_is_written_down_with_a_mark(self, near_side: NearSide) -> None:
        """A file whose own name is like that of a member is another row."""
        near_side.put("study/a.zip", zipped({"one": ONE, "odd!\\name": b"text"}))
        near_side.put("study/a.zip!one", TWO)
        near_side.run(archives=True)
        written = (near_side.report_dir / REPORT_CSV).read_text()
        at = near_side.archive / "study"
        for path in (f"{at}/a.zip", f"{at}/a.zip!one", f"{at}/a.zip!odd!\\\\name", f"{at}/a.zip\\x21one"):
            assert f",{path}," in written

    def test_of_which_all_is_stored_is_not_read_again(
        self, near_side: NearSide, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By its size and times: its members are listed, and that is all."""
        near_side.put("study/a.zip", zipped({"one": ONE, "two": TWO}))
        near_side.put("study/b.tgz", tarred({"three": instance("1.4")}, is_packed=True))
        near_side.put("study/c.gz", gzipped(instance("1.5")))
        assert near_side.run(archives=True).exit_code == 0
        monkeypatch.setattr("tasks.source.member_content.read_member", None)
        again = near_side.run(archives=True)
        assert (again.exit_code, again.summary.by_status["already_uploaded"]) == (0, 4)
        assert len(far_side.objects) == 4

    def test_that_grew_sends_what_is_new(self, near_side: NearSide, far_side: FarSide) -> None:
        """What it had before is read and found to be stored."""
        near_side.put("study/a.zip", zipped({"one": ONE}))
        near_side.run(archives=True)
        near_side.put("study/a.zip", zipped({"one": ONE, "two": TWO}))
        assert outcomes(near_side.run(archives=True), "a.zip") == {
            "one": "already_uploaded",
            "two": "uploaded",
        }
        assert len(far_side.objects) == 2

    def test_that_is_written_while_the_run_is_at_work(self, near_side: NearSide, far_side: FarSide) -> None:
        """What was listed and is not there any more has changed; the next run has it right."""
        path = near_side.put("study/a.zip", zipped({"one": ONE, "two": TWO}))
        engine = near_side.engine(archives=True)
        batches = list(engine.plan(engine.scan()))
        path.write_bytes(zipped({"two": TWO, "three": instance("1.4")}))
        for batch_no in batches:
            engine.upload(batch_no)
        run = near_side.told(engine.finish())
        assert outcomes(run, "a.zip") == {"one": "changed", "two": "uploaded"}
        assert run.exit_code == 1
        again = outcomes(near_side.run(archives=True), "a.zip")
        assert again == {"one": "missing/not_found", "three": "uploaded", "two": "already_uploaded"}

    def test_that_is_gone_takes_along_what_was_left(self, near_side: NearSide, far_side: FarSide) -> None:
        """What of it was stored is no loss."""
        near_side.put("study/text", b"text")
        near_side.put("study/a.zip", zipped({"one": ONE}))
        near_side.run(archives=True)
        path = near_side.put("study/a.zip", zipped({"one": ONE, "two": TWO}))
        far_side.script = always(Step.PUT, status(403))
        found = outcomes(near_side.run(archives=True), "a.zip")
        assert found == {"one": "already_uploaded", "two": "failed/refused"}
        assert near_side.run().statuses == {"study/a.zip": READ, "study/text": "not_dicom/text"}
        path.unlink()
        run = near_side.run(archives=True)
        assert run.statuses == {"study/a.zip\0two": "missing/not_found", "study/text": "not_dicom/text"}

    def test_over_the_limit_of_one_object_is_read_all_the_same(
        self, near_side: NearSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not sent itself; a member over the limit is too large."""
        monkeypatch.setattr("tasks.source.file_content.MAX_PUT_BYTES", 1000)
        monkeypatch.setattr("tasks.source.member_content.MAX_PUT_BYTES", len(ONE))
        near_side.put("study/a.zip", zipped({"one": ONE, "text": b"x" * 2000}, zipfile.ZIP_STORED))
        run = near_side.run(archives=True)
        assert run.row("study/a.zip")["status"] == "not_dicom"
        assert outcomes(run, "a.zip") == {"one": "uploaded", "text": "too_large"}

    def test_alone_is_read_with_what_is_in_it(self, near_side: NearSide) -> None:
        """As `dicom-ingest upload -p a.zip` sends it."""
        path = near_side.put("study/a.zip", zipped({"one": ONE}))
        near_side.put("study/beside", TWO)
        settings = near_side.settings(archives=True)
        summary = ingest(near_side.entries(), settings, scan=just_file(path), edges=near_side.edges)
        assert near_side.told(summary).statuses == {"study/a.zip": READ, "study/a.zip\0one": "uploaded"}

    def test_counts_in_a_manifest_that_expects_what_a_run_stores(self, near_side: NearSide) -> None:
        """Its members, where they are read."""
        near_side.put("study/a.zip", zipped({"one": ONE, "two": TWO}))
        near_side.put("study/b.tgz", tarred({"three": LARGE, "one": ONE}, is_packed=True))
        manifest = near_side.directory / "m.csv"
        for archives, expected in ((None, "0"), (Archives(), "3")):
            scan_manifest([near_side.archive], manifest, archives=archives)
            (row,) = csv.DictReader(manifest.read_text().splitlines())
            assert row["expected_instances"] == expected
        assert row["expected_bytes"] == str(len(ONE) + len(TWO) + len(LARGE))


ODD: dict[str, tuple[bytes, dict[str, ArchiveState]]] = {
    "encrypted.zip": (encrypted(zipped({"one": ONE})), {"one": ArchiveState.ENCRYPTED}),
    "lzma.zip": (with_method(zipped({"one": ONE}), 14), {"one": ArchiveState.COMPRESSION}),
    "crc.zip": (
        zipped({"one": ONE}, zipfile.ZIP_STORED).replace(b"TEXT", b"Text").replace(b"Nobody", b"noBody"),
        {"one": ArchiveState.CHECKSUM},
    ),
    "longer.zip": (with_size(zipped({"one": ONE}), len(ONE) - 1), {"one": ArchiveState.OTHER_SIZE}),
    "shorter.zip": (with_size(zipped({"one": ONE}), len(ONE) + 1), {"one": ArchiveState.OTHER_SIZE}),
    "nested.zip": (zipped({"inner.zip": zipped({"one": ONE})}), {"inner.zip": ArchiveState.NESTED}),
    "nested.tgz": (
        tarred({"inner.tar": tarred({"one": ONE})}, is_packed=True),
        {"inner.tar": ArchiveState.NESTED},
    ),
    "overlapping.zip": (overlapping(ONE), {"": ArchiveState.OVERLAPPING}),
    "cut.zip": (zipped({"one": ONE})[:-30], {"": ArchiveState.CUT}),
    "cut.tar": (tarred({"one": ONE})[:700], {"one": ArchiveState.CUT, "": ArchiveState.CUT}),
    "cut.tar.gz": (
        tarred({"one": os.urandom(4096)}, is_packed=True)[:2000],
        {"one": ArchiveState.CUT, "": ArchiveState.CUT},
    ),
    "cut.gz": (gzipped(ONE)[:-4], {"cut": ArchiveState.CUT}),
    "crc.gz": (gzipped(ONE)[:-8] + bytes(4) + gzipped(ONE)[-4:], {"crc": ArchiveState.DAMAGED}),
    "joined.tar": (tarred({"one": b"text"}) + tarred({"two": ONE}), {"": ArchiveState.GOES_ON}),
    "link.tar": (with_link(ONE, tarfile.LNKTYPE, "elsewhere"), {"link": ArchiveState.COMPRESSION}),
    "study": (zipped({"one": ONE}), {"study": ArchiveState.UNNAMED}),
    "a.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), {"a.7z": ArchiveState.UNKNOWN}),
}


class TestAnOddArchive:
    @pytest.mark.parametrize("name", ODD)
    def test_has_an_outcome_that_says_what_is_wrong(self, near_side: NearSide, name: str) -> None:
        """Of it, or of each member that can't be read; the rest is sent. Exit code 1: they may be images."""
        content, expected = ODD[name]
        near_side.put(f"study/{name}", content)
        run = near_side.run(archives=True)
        assert run.exit_code == 1
        wrong = {
            row["path"].rpartition("/")[2]: row for row in run.rows.values() if row["status"] == "unreadable"
        }
        found = {path.partition("\0")[2] or path.rstrip("\0"): row["detail"] for path, row in wrong.items()}
        assert found == {member or name: state for member, state in expected.items()}
        assert {row["reason"] for row in wrong.values()} == {"archive"}

    @pytest.mark.parametrize(
        "name", ["../../up", "/etc/absolute", "C:\\a\\b", "a//b", "./c", "é\u202e!", "=1"]
    )
    @pytest.mark.parametrize("pack", [zipped, tarred])
    def test_name_is_but_a_name(self, near_side: NearSide, name: str, pack: Pack) -> None:
        """Nothing is unpacked, so that none leads anywhere."""
        near_side.put("study/a.zip", pack({name: ONE}))
        run = near_side.run(archives=True)
        assert (run.exit_code, [*outcomes(run, "a.zip").values()]) == (0, ["uploaded"])

    def test_name_twice_makes_two_rows(self, near_side: NearSide, far_side: FarSide) -> None:
        """An image that a later one of its name hides is not lost."""
        first, second = (tarred({"same": body}) for body in (ONE, TWO))
        near_side.put("study/a.tar", _joined(first, second))
        run = near_side.run(archives=True)
        assert outcomes(run, "a.tar") == {"same": "uploaded", "same\x002": "uploaded"}
        assert {*far_side.bodies.values()} == {ONE, TWO}

    def test_of_no_members_is_no_trouble(self, near_side: NearSide) -> None:
        """Nothing is missing, and the run goes on."""
        near_side.put("study/empty.zip", zipped({}))
        near_side.put("study/one", ONE)
        run = near_side.run(archives=True)
        assert (run.exit_code, run.statuses) == (0, {"study/empty.zip": READ, "study/one": "uploaded"})

    def test_link_to_a_member_has_no_row(self, near_side: NearSide) -> None:
        """Its target has."""
        near_side.put("study/a.tar", with_link(ONE, tarfile.LNKTYPE, "image"))
        near_side.put("study/b.tar", with_link(TWO, tarfile.SYMTYPE, "image"))
        run = near_side.run(archives=True)
        assert outcomes(run, "a.tar") | outcomes(run, "b.tar") == {"image": "uploaded"}
        assert run.exit_code == 0

    def test_member_of_no_bytes_is_an_image_that_failed(self, near_side: NearSide) -> None:
        """Beside one of its name, digits aside; as a file is."""
        near_side.put("study/a.zip", zipped({"d/IM1": ONE, "d/IM2": b"", "IM3": b"", "README": b""}))
        assert outcomes(near_side.run(archives=True), "a.zip") == {
            "IM3": "not_dicom/empty",
            "README": "not_dicom/empty",
            "d/IM1": "uploaded",
            "d/IM2": "invalid/truncated",
        }

    def test_that_is_a_bomb_takes_no_memory_and_ends(
        self, near_side: NearSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it inflates to is never held; a tar that holds far more than its size is left."""
        monkeypatch.setattr("tasks.source.archive_file._NEVER_A_BOMB", 16 * MIB)
        near_side.put("study/a.gz", bomb(64 * MIB))
        near_side.put("study/b.tgz", tarred({"zeros": bytes(64 * MIB)}, is_packed=True))
        run = near_side.run(archives=True)
        found = {name: row["detail"] for name, row in run.rows.items() if row["status"] == "unreadable"}
        assert found == {
            "study/a.gz\0a": ArchiveState.BOMB,
            "study/b.tgz\0zeros": ArchiveState.BOMB,
            "study/b.tgz\0": ArchiveState.BOMB,
        }

    def test_of_too_many_members_says_so(self, near_side: NearSide, monkeypatch: pytest.MonkeyPatch) -> None:
        """Their names are held."""
        monkeypatch.setattr("tasks.source.archive_file.MOST_MEMBERS", 1)
        near_side.put("study/a.zip", zipped({"one": ONE, "two": TWO}))
        assert near_side.run(archives=True).row("study/a.zip\0")["detail"] == ArchiveState.TOO_MANY


def _joined(first: bytes, second: bytes) -> bytes:
    """As `tar -r` appends: over the end of the first."""
    return first.rstrip(b"\0").ljust(-(-len(first.rstrip(b"\0")) // 512) * 512, b"\0") + second


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).map(
    lambda name: name.replace("/", "_").strip(".") or "dots"
)


class TestAnyArchive:
    @settings(max_examples=50, deadline=None)
    @given(names=st.lists(NAMES, max_size=6, unique=True), pack=st.sampled_from(sorted(PACKS)))
    def test_gives_what_its_files_give(
        self, tmp_path_factory: pytest.TempPathFactory, names: list[str], pack: str
    ) -> None:
        """Whatever they are called: the same bytes, or the same reason why not."""
        top = tmp_path_factory.mktemp("any")
        bodies = {name: instance(f"1.{number}.7") for number, name in enumerate(names, 1)}
        bodies |= {"text of many words": b"text", "cut": ONE[:-9]}
        for name, body in bodies.items():
            (top / name).write_bytes(body)
        files = contents(top)
        for name in bodies:
            (top / name).unlink()
        (top / pack).write_bytes(PACKS[pack](bodies))
        members = contents(top)
        assert {path.partition("\0")[2]: found for path, found in members.items() if "\0" in path} == {
            Path(path).name: found for path, found in files.items()
        }


def contents(study_dir: Path) -> dict[str, tuple[str, ...]]:
    """What would be sent of each row of a study, or what is said instead."""
    archives, entry = Archives(), StudyEntry(1, str(study_dir))
    found = {}
    for row in walk_study(entry, replace(survey([entry]), archives=archives)):
        content = read_source(row.path, lambda _: False, archives)
        if isinstance(content, Rejected):
            found[row.path] = (content.status, content.reason, content.detail)
            continue
        found[row.path] = (content.header.sop_instance_uid, content.compute_digests().sha256)
        content.close()
    return found


class TestAGzippedTar:
    def test_is_inflated_once_by_who_reads_it(
        self, near_side: NearSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And once by the scan: the way to a member does not lead through all before it."""
        inflated = SimpleNamespace(bytes=0)
        read = gzip_stream.GzipStream._read

        def counted(stream: gzip_stream.GzipStream, size: int) -> bytes:
            data = read(stream, size)
            inflated.bytes += len(data)
            return data

        monkeypatch.setattr(gzip_stream.GzipStream, "_read", counted)
        bodies = {f"{(number * 7) % 300:03}": instance(f"1.8.{number}") for number in range(300)}
        archive = tarred(bodies, is_packed=True)
        near_side.put("study/a.tgz", archive)
        assert near_side.run(archives=True).summary.by_status["uploaded"] == 300
        size = len(tarred(bodies))
        assert inflated.bytes < 3 * size

    def test_is_read_from_a_place_that_was_kept_by_who_comes_back(self, tmp_path: Path) -> None:
        """In any order, to the byte."""
        bodies = {f"{number:03}": os.urandom(50_000) for number in range(100)}
        path = tmp_path / "a.tgz"
        path.write_bytes(tarred(bodies, is_packed=True))
        archive = tar_archive.PackedTar(tar_archive.OpenFile(str(path)))
        for name in sorted(bodies, key=lambda name: hash((name, 1))):
            member = archive.find(name)
            assert member is not None
            assert b"".join(archive.chunks(member)) == bodies[name]
        assert archive.find("none") is None


def test_a_run_that_was_stopped_goes_on_where_it_was(near_side: NearSide, far_side: FarSide) -> None:
    """By the ledger: what is stored is not sent again."""
    bodies = {f"{number:03}": instance(f"1.6.{number}") for number in range(60)}
    near_side.put("study/a.tgz", tarred(bodies, is_packed=True))
    far_side.script = lambda request: status(401) if request.step is Step.PRESIGN and request.n > 20 else None
    assert near_side.run(archives=True).exit_code == 4
    stored = len(far_side.objects)
    assert 0 < stored < 60
    far_side.script = all_good
    run = near_side.run(archives=True)
    assert (run.exit_code, run.summary.by_status["already_uploaded"]) == (0, stored)
    assert len(far_side.objects) == 60
