"""A report held against bucket and registry: signs, what may be deleted, and the repairs."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_STORED

import pytest
import sqlalchemy as sa

from tasks.audit.check import audit
from tasks.audit.log import Trail
from tasks.core.errors import CredentialsRefusedError, UsageError
from tasks.core.escape import unescape
from tasks.core.models import StudyEntry
from tasks.ledger.database import connect
from tasks.ledger.schema import bucket_object, registered_instance
from tasks.report.directory import REPAIR_MANIFEST_CSV
from tasks.run.engine import ingest
from tasks.run.records import report_again
from tasks.setting_values import registry_of
from tasks.source.manifest_reader import load_manifest
from tests.conftest import NOT_WAITING, NearSide, Run, instance, padded
from tests.databases import PostgreSQL
from tests.dicomweb_side import RUBBISH, DicomwebSide, Half, Reset, Rows, Step, always, status
from tests.far_side import Minted
from tests.far_side import Step as FarStep
from tests.odd_archives import tarred, zipped
from tests.verified import ClientError, ObjectsClient, Verified


@pytest.fixture
def verified(near_side: NearSide) -> Iterator[Verified]:
    """Four instances of one study, sent and registered."""
    near_side.put_many(4)
    near_side.run()
    far_side = near_side.far_side
    with DicomwebSide() as registry:
        client = ObjectsClient(lambda: {key: versions[-1] for key, versions in far_side.objects.items()})
        verified = Verified(near_side, registry, client)
        verified.register_all()
        yield verified


def row_of(run: Run, name: str) -> dict[str, str]:
    return run.row(f"study/{name}")


def its_object(row: dict[str, str]) -> dict[str, str]:
    return {"key": row["key"], "sha256": row["sha256"]}


def test_everywhere_is_confirmed_and_the_directory_may_go(verified: Verified) -> None:
    found = verified()

    assert found.exit_code == 0
    assert found.by_sign == {"=": 4}
    assert found.compared_in_bucket == 4
    assert verified.safe() == ["yes"]
    (study,) = verified.studies()
    assert (study["registered"], study["confirmed"], study["complete"]) == ("4", "4", "true")
    assert audit(verified.report_dir).faults == []
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in verified.report_dir.iterdir()}
    assert {mode for name, mode in modes.items() if "verif" in name or "repair" in name} == {"0o600"}


def test_the_page_is_written_anew_with_what_was_found(verified: Verified) -> None:
    """It is certified, and goes with the report."""
    page = verified.report_dir / "report.html"
    before = page.read_text()
    run_digest = json.loads((verified.report_dir / "certificate.json").read_text())["digest"]
    verified()
    after = page.read_text()
    certificate = json.loads((verified.report_dir / "verification-certificate.json").read_text())
    assert "bucket and registry confirm every one of 4 stored instances" in after
    assert all(title in after for title in ("Throughput", "Sizes", "May be deleted", run_digest))
    assert f"<dd>{certificate['digest']}</dd>" in after
    assert certificate["sha256"]["report.html"] == hashlib.sha256(page.read_bytes()).hexdigest()
    assert certificate["supersedes"]["report.html"] == hashlib.sha256(before.encode()).hexdigest()
    assert audit(verified.report_dir).faults == []
    page.write_text(before)
    assert audit(verified.report_dir).faults == [
        "report.html is not as it was when the certificate was written."
    ]
    verified.near_side.run()
    assert not (verified.report_dir / "verification.json").exists()
    assert "confirm every one" not in page.read_text()


def test_each_side_that_lacks_something_has_its_sign_and_its_repair(verified: Verified) -> None:
    run = verified.near_side.run()
    lost, unregistered, neither = (row_of(run, name) for name in ("0000", "0001", "0002"))
    del verified.near_side.far_side.objects[lost["key"]]
    del verified.near_side.far_side.objects[neither["key"]]
    verified.registry.delete(unregistered["sop_instance_uid"])
    verified.registry.delete(neither["sop_instance_uid"])
    verified.registry.put(instance("9.9.9"))

    found = verified()

    assert verified.signs() == {"0000": "b", "0001": "-", "0002": "b", "0003": "=", padded("9.9.9"): "+"}
    assert found.exit_code == 1
    assert found.taken_down == 2
    assert verified.keys() == [unregistered["key"]]
    assert verified.safe() == ["no"]
    words = {Path(row["path"]).name: row["verdict"] for row in verified.rows()}
    assert words["0002"] == "neither in the bucket nor in the registry"

    entries = load_manifest(verified.report_dir / REPAIR_MANIFEST_CSV, None)
    near_side = verified.near_side
    repaired = near_side.told(ingest(entries, near_side.settings(), edges=NOT_WAITING))
    assert repaired.statuses == {
        "study/0000": "uploaded/replaced",
        "study/0001": "already_uploaded",
        "study/0002": "uploaded/replaced",
        "study/0003": "already_uploaded",
    }
    assert row_of(repaired, "0000")["key"] != lost["key"]
    verified.register_all()
    again = verified()
    assert (again.exit_code, again.by_sign, verified.safe()) == (0, {"=": 4, "+": 1}, ["yes"])
    assert audit(verified.report_dir).faults == []


def test_a_report_of_before_the_repair_is_verified_by_what_the_ledger_has_now(verified: Verified) -> None:
    """The repair's own report went elsewhere."""
    near_side = verified.near_side
    lost = row_of(near_side.run(), "0000")
    ledger = str(near_side.settings().ledger_at)
    del near_side.far_side.objects[lost["key"]]
    verified()
    repair = near_side.settings(report_dir=near_side.directory / "repair", ledger=ledger)
    ingest(load_manifest(verified.report_dir / REPAIR_MANIFEST_CSV, None), repair, edges=NOT_WAITING)

    found = verified()

    assert (found.exit_code, found.by_sign) == (0, {"=": 4})
    (row,) = (row for row in verified.rows() if row["key"] == lost["key"])
    assert row["bucket_key"] != lost["key"]
    assert found.taken_down == 0


def test_nothing_but_what_was_taken_down_is_sent_again(verified: Verified) -> None:
    verified()
    assert set(verified.near_side.run().statuses.values()) == {"already_uploaded"}


class TestBucket:
    def test_that_has_none_of_the_keys_is_the_wrong_one(self, verified: Verified) -> None:
        """And nothing is written, let alone taken down."""
        verified.near_side.far_side.objects.clear()
        before = {path.name for path in verified.report_dir.iterdir()}
        with pytest.raises(UsageError, match="Not one of the report's keys"):
            verified()
        assert {path.name for path in verified.report_dir.iterdir()} == before
        assert audit(verified.report_dir).faults == []

    def test_what_it_does_not_list_is_asked_for_by_itself(self, verified: Verified) -> None:
        run = verified.near_side.run()
        verified.client.unlisted = {row_of(run, "0002")["key"]}
        assert verified().by_sign == {"=": 4}
        assert verified.client.heads == [row_of(run, "0002")["key"]]

    def test_that_lists_nothing_is_asked_for_each(self, verified: Verified) -> None:
        verified.client.unlisted = set(verified.client.objects())
        assert verified().by_sign == {"=": 4}

    @pytest.mark.parametrize(
        ("checksum", "sign", "safe"), [("right", "=", "yes"), ("other", "*", "no"), ("", "=", "unknown")]
    )
    def test_whose_etags_say_nothing_is_asked_for_checksums(
        self, verified: Verified, checksum: str, sign: str, safe: str
    ) -> None:
        sums = {row["sha256"]: row["crc64nvme"] for row in verified.near_side.run().rows.values()}
        verified.client.etag = lambda body: hashlib.sha1(body, usedforsecurity=False).hexdigest() + "-2"
        given = {"right": lambda body: sums[hashlib.sha256(body).hexdigest()], "other": lambda _body: "AAA="}
        verified.client.checksum = given.get(checksum, lambda _body: "")
        verified()
        assert set(verified.signs().values()) == {sign}
        assert verified.safe() == [safe]

    def test_with_other_bytes_differs(self, verified: Verified) -> None:
        key = row_of(verified.near_side.run(), "0001")["key"]
        versions = verified.near_side.far_side.objects[key]
        versions.append(versions[-1][:-1] + b"x")
        assert verified().exit_code == 1
        assert verified.signs()["0001"] == "*"
        assert verified.keys() == []

    def test_that_answers_some_questions_leaves_the_others_unknown(self, verified: Verified) -> None:
        """An object that is not there is no lost one as long as nobody could say so."""
        key = row_of(verified.near_side.run(), "0001")["key"]
        verified.client.unlisted = {key}
        verified.client.fault = lambda step, _key: (
            ClientError(500, "InternalError") if step == "head" else None
        )
        found = verified()
        assert (found.exit_code, found.unknown, found.taken_down) == (3, 1, 0)
        assert verified.signs()["0001"] == "!"
        assert "InternalError" in " ".join(found.problems)

    def test_whose_listing_breaks_off_leaves_the_rest_unknown(self, verified: Verified) -> None:
        verified.client.fault = lambda step, key: (
            ClientError(503, "SlowDown") if step == "list" and key else None
        )
        found = verified()
        assert found.exit_code == 3
        assert found.by_sign == {"=": 2, "!": 2}
        assert found.taken_down == 0

    def test_that_refuses_the_credentials_ends_it_before_anything_is_written(
        self, verified: Verified
    ) -> None:
        verified.client.fault = lambda _step, _key: ClientError(403, "InvalidAccessKeyId")
        with pytest.raises(CredentialsRefusedError):
            verified()
        assert not (verified.report_dir / "verification.csv").exists()

    def test_an_object_that_was_moved_is_found_where_registration_csv_says(self, verified: Verified) -> None:
        run = verified.near_side.run()
        key, left = row_of(run, "0001")["key"], row_of(run, "0002")["key"]
        objects = verified.near_side.far_side.objects
        objects[f"registered/{key}"] = objects.pop(key)
        lines = ["key,status,moved_to", f"{key},registered,registered/{key}"]
        lines.append(f"{left},registered,registered/{left}")  # whose move was cut off
        (verified.report_dir / "registration.csv").write_text("\n".join(lines) + "\n")
        found = verified()
        assert found.by_sign == {"=": 4}
        keys = {row["key"]: row["bucket_key"] for row in verified.rows()}
        assert (keys[key], keys[left]) == (f"registered/{key}", left)

    def test_a_key_to_register_is_where_the_object_is_now(self, verified: Verified) -> None:
        row = row_of(verified.near_side.run(), "0001")
        objects = verified.near_side.far_side.objects
        objects["registered/x"] = objects.pop(row["key"])
        verified.registry.delete(row["sop_instance_uid"])
        lines = ["key,status,moved_to", f"{row['key']},registered,registered/x"]
        (verified.report_dir / "registration.csv").write_text("\n".join(lines) + "\n")
        verified()
        assert verified.keys() == ["registered/x"]


class TestRegistry:
    def test_what_ingest_found_in_conflict_differs(self, verified: Verified) -> None:
        key = row_of(verified.near_side.run(), "0001")["key"]
        text = f"key,status,moved_to\n{key},conflict,\n"
        (verified.report_dir / "registration.csv").write_text(text)
        found = verified()
        assert (found.exit_code, verified.signs()["0001"], verified.safe()) == (1, "*", ["no"])
        assert verified.keys() == []

    def test_what_was_in_conflict_and_is_removed_from_it_is_registered_by_ingest(
        self, verified: Verified
    ) -> None:
        row = row_of(verified.near_side.run(), "0001")
        text = f"key,status,moved_to\n{row['key']},conflict,\n"
        (verified.report_dir / "registration.csv").write_text(text)
        verified.registry.delete(row["sop_instance_uid"])
        verified()
        assert (verified.signs()["0001"], verified.keys()) == ("*", [row["key"]])
        assert verified.rows()[1]["verdict"] == (
            "the registry had other bytes, as ingest found; not in the registry"
        )

    def test_of_a_conflict_the_ledger_knows_when_it_is_over(self, verified: Verified) -> None:
        """Ingest may have written its report elsewhere since."""
        row = row_of(verified.near_side.run(), "0001")
        text = f"key,status,moved_to\n{row['key']},conflict,\n"
        (verified.report_dir / "registration.csv").write_text(text)
        engine = connect(verified.near_side.settings().ledger_at)
        its = {"campaign": "default", "bucket": "bucket", "is_open": False, "seen": 1} | its_object(row)
        there = {"campaign": "default", "object_id": 1, "run_id": "r", **its_object(row)}
        there["sop_instance_uid"] = row["sop_instance_uid"]
        with engine.begin() as db:
            db.execute(sa.insert(bucket_object).values(status="registered", **its))
            db.execute(sa.insert(registered_instance).values(registry="another:80/", **there))
        assert (verified().exit_code, verified.signs()["0001"]) == (1, "*")
        with engine.begin() as db:
            registry = registry_of(verified.registry.url)
            db.execute(sa.insert(registered_instance).values(registry=registry, **there))
        assert verified().exit_code == 0
        engine.dispose()

    @pytest.mark.parametrize(
        "script",
        [
            always(Step.QUERY, status(503)),
            always(Step.QUERY, status(500)),
            always(Step.QUERY, Reset()),
            always(Step.QUERY, Half()),
            always(Step.QUERY, RUBBISH),
            always(Step.QUERY, status(429)),
        ],
        ids=["503", "500", "reset", "half", "rubbish", "429"],
    )
    def test_without_an_answer_nothing_is_missing(self, verified: Verified, script: object) -> None:
        verified.registry.script = script  # type: ignore[assignment]
        found = verified()
        assert (found.exit_code, found.by_sign, found.unknown) == (3, {"!": 4}, 4)
        assert verified.keys() == []
        assert verified.safe() == ["no"]
        assert found.taken_down == 0

    def test_that_is_down_leaves_everything_unknown(self, verified: Verified) -> None:
        found = verified(dicomweb_url="http://127.0.0.1:9/dicom-web")
        assert (found.exit_code, found.by_sign) == (3, {"!": 4})

    def test_that_refuses_the_credentials_ends_with_4(self, verified: Verified) -> None:
        verified.registry.authorizations = {"Bearer right"}
        found = verified(dicomweb_token="wrong")
        assert (found.exit_code, found.by_sign) == (4, {"!": 4})
        assert "wrong" not in " ".join(found.problems)

    def test_that_is_no_dicomweb_server_is_a_wrong_setting(self, verified: Verified) -> None:
        verified.registry.script = always(Step.QUERY, status(404))
        with pytest.raises(UsageError, match="The registry can't be used"):
            verified()
        assert not (verified.report_dir / "verification.csv").exists()

    def test_pages_that_repeat_or_lose_rows_hide_nothing(self, verified: Verified) -> None:
        """What looks missing is asked for by itself."""
        verified.registry.script = lambda request: (
            Rows(lambda rows: rows[:1] * 3)
            if request.step is Step.QUERY
            and request.path.endswith("/instances")
            and not request.uids
            and "SOPInstanceUID" not in request.query
            else None
        )
        found = verified()
        assert found.by_sign == {"=": 4}

    def test_that_has_it_in_another_study_has_something_else(self, verified: Verified) -> None:
        """It is not missing, so nobody registers it once more."""
        uid = row_of(verified.near_side.run(), "0001")["sop_instance_uid"]
        verified.registry.stored[uid] = replace(verified.registry.stored[uid], study="1.2.3.99")
        found = verified()
        assert (found.exit_code, verified.signs()["0001"], verified.keys()) == (1, "*", [])
        assert {row["registry"] for row in verified.rows()} == {"there", "another study"}

    def test_that_searches_studies_alone_is_believed(self, verified: Verified) -> None:
        uid = row_of(verified.near_side.run(), "0001")["sop_instance_uid"]
        verified.registry.delete(uid)
        verified.registry.script = lambda request: (
            status(400) if request.path.endswith("/dicom-web/instances") else None
        )
        assert (verified().exit_code, verified.signs()["0001"]) == (1, "-")

    def test_that_counts_otherwise_than_it_lists_is_a_problem(self, verified: Verified) -> None:
        verified.registry.related_offset = 2
        found = verified()
        assert found.by_sign == {"=": 4}
        assert "The registry says of 1 study that it has another number of instances" in found.problems[0]

    def test_an_instance_without_answer_of_its_own_is_unknown(self, verified: Verified) -> None:
        """The listing lacks it, and the question about it alone is not answered."""
        run = verified.near_side.run()
        verified.registry.delete(row_of(run, "0001")["sop_instance_uid"])
        verified.registry.script = lambda request: status(503) if "SOPInstanceUID" in request.query else None
        found = verified()
        assert (found.exit_code, verified.signs()["0001"]) == (3, "!")
        assert verified.keys() == []

    def test_what_it_has_lost_counts_as_registered_no_more(self, verified: Verified) -> None:
        """So ingest registers it again, from whatever object; what another registry has stays."""
        run = verified.near_side.run()
        lost, kept = (row_of(run, name)["sop_instance_uid"] for name in ("0001", "0002"))
        registry = registry_of(verified.registry.url)
        engine = connect(verified.near_side.settings().ledger_at)
        rows = [(registry, lost), (registry, kept), ("other:443/dicom-web", lost)]
        names = ("campaign", "registry", "sop_instance_uid", "object_id", "key", "run_id")
        with engine.begin() as db:
            values = [dict(zip(names, ("default", *each, 1, "k", "r"), strict=True)) for each in rows]
            db.execute(sa.insert(registered_instance), values)
        verified.registry.delete(lost)
        verified()
        with engine.begin() as db:
            columns = registered_instance.c.registry, registered_instance.c.sop_instance_uid
            assert {tuple(row) for row in db.execute(sa.select(*columns))} == {*rows[1:]}
        engine.dispose()

    def test_has_other_bytes_under_a_uid_until_ingest_has_registered_these(self, verified: Verified) -> None:
        """A file was changed and sent again since: its UID is there, and these bytes are not."""
        run = verified.near_side.run()
        replaced, alike = (row_of(run, name) for name in ("0001", "0002"))
        of_registry = {"campaign": "default", "registry": registry_of(verified.registry.url)}
        of_bucket: dict[str, object] = {
            "campaign": "default",
            "bucket": "bucket",
            "status": "already_registered",
        }
        of_bucket |= {"is_open": False, "seen": 1}
        engine = connect(verified.near_side.settings().ledger_at)
        with engine.begin() as db:
            for number, row in enumerate((replaced, alike)):
                uid = {"sop_instance_uid": row["sop_instance_uid"], "sha256": "of others"}
                its = of_registry | uid | {"object_id": number, "key": f"old{number}", "run_id": "r"}
                db.execute(sa.insert(registered_instance).values(**its))
            db.execute(sa.insert(bucket_object).values(**of_bucket | its_object(alike)))
        assert verified().exit_code == 1
        assert (verified.signs()["0001"], verified.signs()["0002"], verified.safe()) == ("*", "=", ["no"])
        assert verified(deep="100%").exit_code == 0
        assert verified.safe() == ["yes"]
        with engine.begin() as db:
            db.execute(sa.insert(bucket_object).values(**of_bucket | its_object(replaced)))
        assert verified().exit_code == 0
        engine.dispose()

    def test_that_refuses_the_credentials_says_which_to_check(self, verified: Verified) -> None:
        verified.registry.script = always(Step.QUERY, status(403))
        found = verified()
        assert (found.exit_code, set(verified.signs().values())) == (4, {"!"})
        assert "DICOM_INGEST_DICOMWEB_TOKEN" in found.problems[-1]

    def test_has_one_of_the_files_that_share_a_uid(self, verified: Verified) -> None:
        """Whoever registers: it can't have both, so that no directory goes until it is known which it has."""
        root = "".join(str(ord(letter)) for letter in "study")
        verified.near_side.put("study/other", instance(f"1.{root}.1", "other"))
        run = verified.near_side.run(on_conflict="upload")
        assert row_of(run, "other")["key"]
        for ledger in ("", str(verified.report_dir / "nowhere.sqlite")):
            assert verified(ledger=ledger).exit_code == 1
            assert (verified.signs()["0001"], verified.signs()["other"]) == ("*", "*")
            assert (verified.signs()["0000"], verified.safe()) == ("=", ["no"])
        verified(deep="100%")
        assert (verified.signs()["0001"], verified.signs()["other"]) == ("=", "*")

    def test_alone_is_enough(self, verified: Verified) -> None:
        """Then nothing is compared, so nobody may delete anything for sure."""
        found = verified(bucket="")
        assert (found.exit_code, found.by_sign, verified.safe()) == (0, {"=": 4}, ["unknown"])
        assert verified.rows()[0]["bucket"] == ""

    def test_has_what_the_report_does_not_call_stored(self, verified: Verified) -> None:
        body = instance("7.7.7")
        verified.near_side.put("study/cut", body[:-40])
        verified.near_side.run()
        verified.registry.put(body)
        found = verified()
        assert (found.exit_code, verified.signs()["cut"]) == (0, "+")


class TestDeep:
    @staticmethod
    def difference(one: object, other: object) -> str:
        return "" if one.read() == other.read() else "pixel data"  # type: ignore[attr-defined]

    def test_what_was_compared_is_said(self, verified: Verified) -> None:
        edges = verified.edges(difference=self.difference)
        found = verified(edges, bucket="", deep="50%", seed=5)
        assert (found.deep, found.seed, found.retrieved) == ("50%", 5, {"same": 2})
        assert verified.safe() == ["unknown"]
        first = {row["path"] for row in verified.rows() if row["deep"] == "same"}
        verified(edges, bucket="", deep="2", seed=5)
        assert {row["path"] for row in verified.rows() if row["deep"] == "same"} == first

    def test_of_all_lets_the_directory_go_without_a_bucket(self, verified: Verified) -> None:
        found = verified(verified.edges(difference=self.difference), bucket="", deep="100%")
        assert (found.retrieved, verified.safe(), found.seed is None) == ({"same": 4}, ["yes"], False)

    def test_another_copy_differs(self, verified: Verified) -> None:
        uid = row_of(verified.near_side.run(), "0001")["sop_instance_uid"]
        stored = verified.registry.stored[uid]
        verified.registry.stored[uid] = replace(stored, data=stored.data[:-1] + b"x")
        found = verified(verified.edges(difference=self.difference), deep="100%")
        assert (found.exit_code, verified.signs()["0001"]) == (1, "*")
        assert verified.keys() == []

    def test_of_another_ledger_nothing_is_taken_down_and_that_is_said(self, verified: Verified) -> None:
        key = row_of(verified.near_side.run(), "0001")["key"]
        del verified.near_side.far_side.objects[key]
        near_side = verified.near_side
        other = near_side.directory / "other"
        near_side.put("else/0001", instance("4.4"))
        entries = [StudyEntry(1, str(near_side.archive / "else"))]
        ingest(entries, near_side.settings(report_dir=other), edges=NOT_WAITING)
        found = verified(ledger=str(other / "ledger.sqlite"))
        assert (found.taken_down, found.exit_code) == (0, 1)
        assert "1 instance that the bucket lacks: the ledger has no such object" in found.problems[0]
        (verified.report_dir / "ledger.sqlite").rename(near_side.directory / "moved.sqlite")
        assert "The ledger was not found" in verified().problems[0]

    def test_a_copy_that_can_not_be_had_is_unknown(self, verified: Verified) -> None:
        verified.registry.script = always(Step.RETRIEVE, status(500))
        found = verified(verified.edges(difference=self.difference), deep="1")
        assert (found.exit_code, found.by_sign) == (3, {"=": 3, "!": 1})
        assert "1 instance could not be retrieved from the registry" in found.problems[0]

    def test_a_file_that_is_another_now_is_not_compared(self, verified: Verified) -> None:
        for path in (verified.near_side.archive / "study").iterdir():
            path.write_bytes(b"another")
        found = verified(verified.edges(difference=self.difference), deep="100%")
        assert (found.exit_code, found.retrieved, verified.safe()) == (0, {"no source": 4}, ["no"])


class TestDirectory:
    """All else lets it go."""

    def test_with_a_new_file_may_not_go(self, verified: Verified) -> None:
        verified.near_side.put("study/new", b"x")
        verified()
        assert verified.safe() == ["no"]

    def test_without_a_file_may_not_go(self, verified: Verified) -> None:
        (verified.near_side.archive / "study/0001").unlink()
        verified()
        assert verified.safe() == ["no"]

    def test_with_a_file_of_another_time_may_not_go(self, verified: Verified) -> None:
        os.utime(verified.near_side.archive / "study/0001")
        verified()
        assert verified.safe() == ["no"]

    def test_with_other_bytes_under_the_same_times_is_read_where_times_say_too_little(
        self, verified: Verified
    ) -> None:
        """As the ctime of what somebody wrote, and set the mtime back."""
        path = verified.near_side.archive / "study/0001"
        body, times = path.read_bytes(), path.stat()
        path.write_bytes(body[:-1] + b"x")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        verified()
        assert verified.safe() == ["no"]
        path.write_bytes(body)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        verified()
        assert verified.safe() == ["yes"], "the same bytes again"

    def test_with_a_text_may_go_and_with_an_archive_not(self, verified: Verified) -> None:
        for name, body, safe in (
            ("readme.txt", b"text " * 9, "yes"),
            ("a.zip", b"PK\x03\x04" + bytes(90), "no"),
        ):
            path = verified.near_side.put(f"study/{name}", body)
            verified.near_side.run()
            verified()
            assert verified.safe() == [safe], name
            path.unlink()

    def test_with_an_archive_that_was_read_may_go(self, verified: Verified) -> None:
        """While it is what was read: its members are in bucket and registry, and compared."""
        packed = {f"1.9.{number}": instance(f"1.9.{number}") for number in range(3)}
        path = verified.near_side.put("study/a.zip", zipped(packed, ZIP_STORED))
        verified.near_side.put("study/b.tgz", tarred({"image": instance("1.9.7")}, is_packed=True))
        verified.near_side.run(archives=True)
        verified.register_all()
        assert (verified(deep="100%").exit_code, verified.safe()) == (0, ["yes"])
        body, times = path.read_bytes(), path.stat()
        path.write_bytes(body.replace(b"Nobody", b"noBody"))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        verified()
        assert verified.safe() == ["no"]
        path.write_bytes(zipped({**packed, "new": b"text"}, ZIP_STORED))
        verified()
        assert verified.safe() == ["no"]

    def test_without_a_ledger_members_are_read(self, verified: Verified) -> None:
        path = verified.near_side.put("study/a.tgz", tarred({"image": instance("1.9.7")}, is_packed=True))
        verified.near_side.run(archives=True)
        verified.register_all()
        Path(verified.near_side.settings().ledger_at).unlink()
        verified()
        assert verified.safe() == ["yes"]
        times = path.stat()
        path.write_bytes(tarred({"image": instance("1.9.8")}, is_packed=True))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        verified()
        assert verified.safe() == ["no"]

    def test_that_is_not_there_may_not_go(self, verified: Verified) -> None:
        verified.near_side.archive.rename(verified.near_side.directory / "elsewhere")
        assert verified().exit_code == 0
        assert verified.safe() == ["no"]

    def test_without_a_ledger_its_bytes_are_read(self, verified: Verified) -> None:
        ledger = Path(verified.near_side.settings().ledger_at)
        ledger.unlink()
        verified()
        assert verified.safe() == ["yes"]
        path = verified.near_side.archive / "study/0001"
        body, times = path.read_bytes(), path.stat()
        path.write_bytes(body[:-1] + b"x")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        verified()
        assert verified.safe() == ["no"]

    def test_with_the_report_or_the_ledger_in_it_may_not_go(self, verified: Verified) -> None:
        """They would go with it."""
        near_side = verified.near_side
        inside = near_side.archive / "study" / "report"
        ingest(near_side.entries(), near_side.settings(report_dir=inside), edges=NOT_WAITING)
        verified.register_all()
        assert verified(report_dir=inside).exit_code == 0
        assert "yes" not in (inside / "studies.csv").read_text()

    def test_around_another_may_not_go(self, verified: Verified) -> None:
        """It has files that are another study's."""
        near_side = verified.near_side
        near_side.put("study/inner/0001", instance("5.5.5"))
        entries = [
            StudyEntry(1, str(near_side.archive / "study/inner")),
            StudyEntry(2, str(near_side.archive / "study")),
        ]
        ingest(entries, near_side.settings(), edges=NOT_WAITING)
        verified.register_all()
        verified()
        assert verified.safe() == ["yes", "no"]


class TestPostgreSQL:
    @pytest.fixture
    def ledger(self, postgresql: PostgreSQL) -> str:
        return postgresql.new_database()

    def test_as_the_ledger_knows_files_takes_down_and_follows(self, verified: Verified, ledger: str) -> None:
        """What the directory was, what is lost, and where it is by now."""
        row = row_of(verified.near_side.run(), "0001")
        assert verified(ledger=ledger).exit_code == 0
        assert verified.safe() == ["yes"]
        del verified.near_side.far_side.objects[row["key"]]
        verified.registry.delete(row["sop_instance_uid"])
        assert verified(ledger=ledger).taken_down == 1
        near_side = verified.near_side
        repair = near_side.settings(report_dir=near_side.directory / "repair")
        ingest(load_manifest(verified.report_dir / REPAIR_MANIFEST_CSV, None), repair, edges=NOT_WAITING)
        verified.register_all()
        assert verified(ledger=ledger).by_sign == {"=": 4}


class TestDuplicates:
    def test_count_for_each_of_their_studies(self, verified: Verified) -> None:
        near_side = verified.near_side
        near_side.put("a/copy", (near_side.archive / "study/0001").read_bytes())
        near_side.put("b/own", instance("6.6"))
        near_side.run()
        verified.register_all()
        found = verified()
        assert found.instances == 5
        counts = [(row["stored"], row["registered"], row["safe_to_delete"]) for row in verified.studies()]
        assert counts == [("1", "1", "yes"), ("1", "1", "yes"), ("4", "4", "yes")]
        lost = next(row for row in verified.rows() if row["path"].endswith("0001") or "copy" in row["path"])
        del near_side.far_side.objects[lost["key"]]
        verified()
        assert verified.safe() == ["no", "yes", "no"]


def test_the_manifests_own_columns_stay(near_side: NearSide) -> None:
    """Also those that are called like ours; and repair-manifest.csv has them."""
    near_side.put_many(2)
    manifest = near_side.directory / "manifest.csv"
    manifest.write_text(f"study_dir,label,ward,registered\n{near_side.archive}/study,first,=7 West,maybe\n")
    ingest(load_manifest(manifest, None), near_side.settings(), edges=NOT_WAITING)
    objects = near_side.far_side.objects
    with DicomwebSide() as registry:
        verified = Verified(
            near_side, registry, ObjectsClient(lambda: {k: v[-1] for k, v in objects.items()})
        )
        verified.register_all()
        del objects[sorted(objects)[0]]
        verified()
        (study,) = verified.studies()
        assert (study["ward"], study["manifest_registered"], study["registered"]) == (
            "\\x3d7 West",
            "maybe",
            "2",
        )
        entries = load_manifest(verified.report_dir / REPAIR_MANIFEST_CSV, None)
        assert [(entry.label, dict(entry.extra)["ward"]) for entry in entries] == [("first", "=7 West")]


def test_a_run_afterwards_moves_it_away_with_its_report(verified: Verified) -> None:
    verified()
    verified.near_side.run()
    (home,) = [
        home for home in (verified.report_dir / "runs").iterdir() if (home / "verification.csv").exists()
    ]
    assert not (verified.report_dir / "verification.csv").exists()
    assert audit(verified.report_dir).faults == []
    assert audit(home).faults == []


def test_without_a_side_or_a_report_nothing_is_done(verified: Verified, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="what the report is held against"):
        verified(bucket="", dicomweb_url="")
    with pytest.raises(UsageError, match="There is no whole report"):
        verified(report_dir=tmp_path / "none")


@pytest.mark.parametrize(
    "name",
    [
        "verification.csv",
        "studies.csv",
        "verification.json",
        "repair-keys.txt",
        "verification-certificate.json",
    ],
)
def test_the_audit_sees_what_was_changed_or_removed_since(verified: Verified, name: str) -> None:
    verified()
    path = verified.report_dir / name
    text = path.read_text()
    path.write_text(text + " ")
    changed = audit(verified.report_dir).faults
    path.unlink()
    removed = audit(verified.report_dir).faults
    assert name == "verification-certificate.json" or changed
    assert name == "repair-keys.txt" or removed


class TestCutOff:
    """A verification that was killed costs another one, and nothing else."""

    def test_before_its_line_in_the_trail_or_its_certificate(
        self, verified: Verified, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        verified()
        for what in ("Trail.record", "write_verification_certificate"):
            verified.registry.put(instance(f"9.9.{len(what)}"))  # so that it finds something else
            with monkeypatch.context() as patched:
                patched.setattr(f"tasks.run.verification.{what}", killed)
                with pytest.raises(KeyboardInterrupt):
                    verified()
            assert audit(verified.report_dir).faults != [], what
            verified()
            assert audit(verified.report_dir).faults == [], what

    def test_while_it_writes_leaves_what_was_there(
        self, verified: Verified, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        verified()
        before = {path.name: path.read_bytes() for path in verified.report_dir.iterdir() if path.is_file()}
        monkeypatch.setattr("tasks.run.verification.write_summary", killed)
        with pytest.raises(KeyboardInterrupt):
            verified()
        after = {path.name: path.read_bytes() for path in verified.report_dir.iterdir() if path.is_file()}
        assert after == before

    def test_keeps_no_run_from_its_start(self, verified: Verified, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("tasks.run.verification.write_verification_certificate", killed)
            with pytest.raises(KeyboardInterrupt):
                verified()
        assert verified.near_side.run().exit_code == 0
        assert audit(verified.report_dir).faults == []


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_report_that_is_written_again_is_not_verified_any_more(verified: Verified) -> None:
    verified()
    settings = verified.near_side.settings()
    report_again(verified.report_dir, settings.ledger_at, settings.campaign)
    assert verified.safe() == [""]
    assert not (verified.report_dir / "verification.json").exists()
    assert audit(verified.report_dir).faults == []
    assert verified().exit_code == 0
    assert audit(verified.report_dir).faults == []


def test_report_csv_alone_is_enough(verified: Verified) -> None:
    found = verified()
    rows = verified.rows()
    (verified.report_dir / "report.parquet").unlink()
    again = verified()
    assert (again.by_sign, again.compared_in_bucket, verified.rows()) == (
        found.by_sign,
        found.compared_in_bucket,
        rows,
    )
    assert verified.safe() == ["yes"]


def test_odd_paths_and_keys_are_written_so_that_they_can_be_read_back(verified: Verified) -> None:
    """A name that is not UTF-8; a key that begins like a formula."""
    near_side = verified.near_side
    near_side.put(os.fsdecode(b"study/=M\xfcller\n.dcm"), instance("8.8"))
    near_side.far_side.script = lambda request: (
        Minted(key="=key, with ä") if request.step is FarStep.PRESIGN and request.n > 6 else None
    )
    near_side.run()
    verified.register_all()
    verified.registry.delete(padded("8.8"))
    found = verified()
    assert (found.by_sign, verified.safe()) == ({"=": 4, "-": 1}, ["no"])
    assert verified.keys() == ["=key, with ä"]
    (row,) = (row for row in verified.rows() if row["sign"] == "-")
    assert unescape(row["path"]) == str(near_side.archive / os.fsdecode(b"study/=M\xfcller\n.dcm"))


def test_it_waits_for_nobody_else_in_the_directory(verified: Verified) -> None:
    trail = Trail(verified.report_dir)
    try:
        with pytest.raises(UsageError, match="Another run writes into this report directory"):
            verified()
    finally:
        trail.close()
