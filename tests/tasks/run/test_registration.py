"""`register`: objects of a real S3 endpoint, into a DICOMweb server with a script."""

import hashlib
import json
from typing import Any

import pytest

from tasks.audit.check import audit
from tasks.core.errors import CredentialsRefusedError, UsageError
from tasks.core.object_outcomes import ObjectStatus
from tests.conftest import Dicom, NearSide, instance, padded
from tests.dicomweb_side import Failed, Half, Reply, Reset, Step, Unnamed, always, scripted
from tests.pipeline_side import PipelineSide

COLUMNS = ["key", "status", "reason", "detail", "sop_instance_uid", "study_instance_uid", "size_bytes"]
COLUMNS += ["sha256", "attempts", "started_at", "finished_at", "run_id", "moved_to"]


def stored(side: PipelineSide) -> dict[str, bytes]:
    return side.registry.bodies


def other_study(uid: str, study: str) -> bytes:
    """An instance of another study; the UIDs have one length."""
    return instance(uid).replace(b"1.2.3\0", f"{study}\0".encode()[:6])


class TestWhole:
    def test_every_object_is_registered_byte_for_byte(self, side: PipelineSide) -> None:
        bodies = {f"k{number}": instance(f"1.2.{number}") for number in range(7)}
        for key, body in bodies.items():
            side.put(key, body)
        ran = side.run()
        assert ran.exit_code == 0
        assert set(ran.statuses.values()) == {"registered"}
        assert sorted(stored(side).values()) == sorted(bodies.values())
        row = ran.rows["k3"]
        assert row["sop_instance_uid"] == padded("1.2.3")
        assert row["study_instance_uid"] == "1.2.3"
        assert row["size_bytes"] == str(len(bodies["k3"]))
        assert row["attempts"] == "1"
        assert row["run_id"] == ran.summary.run_id
        assert row["started_at"] < row["finished_at"]
        assert list(row) == COLUMNS

    def test_a_second_run_sends_nothing(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        first = side.run()
        again = side.run()
        assert (again.exit_code, again.statuses) == (0, {"k": "already_registered"})
        assert again.rows["k"]["run_id"] == first.summary.run_id
        assert len(side.registry.asked(Step.STORE)) == 1
        assert len(side.registry.asked(Step.RETRIEVE)) == 0

    def test_a_new_object_is_found_by_the_next_run(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        side.run()
        side.put("a", instance("1.2.2"))
        assert side.run().statuses == {"k": "already_registered", "a": "registered"}

    def test_an_empty_bucket_is_no_fault(self, side: PipelineSide) -> None:
        ran = side.run()
        assert (ran.exit_code, ran.rows) == (0, {})

    def test_requests_have_one_study_and_a_hundred_instances_at_most(self, side: PipelineSide) -> None:
        for number in range(130):
            side.put(f"a{number:03}", instance(f"1.2.{number}"))
        for number in range(3):
            side.put(f"b{number}", other_study(f"1.5.{number}", "1.9.3"))
        assert side.run(stow_parallel=4).exit_code == 0
        requests = side.registry.asked(Step.STORE)
        assert sum(len(each.uids) for each in requests) == 133
        assert max(len(each.uids) for each in requests) <= 100
        assert {each.path.rpartition("/")[2] for each in requests} == {"1.2.3", "1.9.3"}
        assert all("Content-Length" in each.headers for each in requests)

    @pytest.mark.parametrize("parallel", [1, 3])
    def test_so_many_requests_at_once_and_no_more(self, parallel: int, side: PipelineSide) -> None:
        for study in range(8):
            side.put(f"k{study}", other_study(f"1.2.{study}", f"1.{study}.3"))
        side.run(stow_parallel=parallel)
        assert len(stored(side)) == 8
        assert side.registry.most_stores_under_way <= parallel

    def test_the_report_names_what_was_done(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        side.put("text", b"hello")
        ran = side.run()
        said = json.loads((side.report_dir / "registration.json").read_text())
        assert said["exit_code"] == ran.exit_code == 1
        assert said["by_status"] == {"registered": 1, "quarantined": 1}
        assert said["bucket"] == side.store.address
        assert said["registry"] == side.registry.url.removeprefix("http://")
        assert (said["objects"], said["not_seen"]) == (2, 0)
        certificate = json.loads((side.report_dir / "registration-certificate.json").read_text())
        assert set(certificate["sha256"]) == {"registration.csv", "registration.json"}
        assert audit(side.report_dir).faults == []

    def test_a_changed_report_is_seen_by_the_audit(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        side.run()
        report = side.report_dir / "registration.csv"
        report.write_text(report.read_text().replace("registered", "conflict"))
        (fault,) = audit(side.report_dir).faults
        assert "registration.csv is not as it was" in fault


class TestBesideAnUpload:
    """In an upload's report directory, with its ledger."""

    @pytest.fixture
    def uploaded(self, near_side: NearSide, side: PipelineSide, dicom: Dicom) -> PipelineSide:
        """Two instances; their objects are in the bucket under the keys that the upload's report has."""
        for number in (1, 2):
            near_side.put(f"study/{number}", dicom(f"1.2.{number}"))
        ran = near_side.run()
        side.options = {"bucket": "s3://dicom-ingest", "report_dir": near_side.report_dir}
        side.store.prefix = ""
        for row in ran.rows.values():
            side.put(row["key"], near_side.far_side.bodies[row["key"]])
        side.options["keys"] = str(side.directory / "keys")
        (side.directory / "keys").write_text("".join(f"{row['key']}\n" for row in ran.rows.values()))
        return side

    def keys(self, side: PipelineSide) -> list[str]:
        return (side.directory / "keys").read_text().split()

    def test_what_was_uploaded_is_registered_and_both_reports_hold(
        self, uploaded: PipelineSide, near_side: NearSide
    ) -> None:
        ran = uploaded.run(report_dir=near_side.report_dir)
        assert set(ran.statuses.values()) == {"registered"}
        assert audit(near_side.report_dir).faults == []
        assert near_side.run().exit_code == 0, "an upload goes on beside it"
        assert audit(near_side.report_dir).faults == []

    def test_another_s_instance_under_a_key_is_held_back(
        self, uploaded: PipelineSide, near_side: NearSide
    ) -> None:
        one, two = self.keys(uploaded)
        uploaded.put(one, uploaded.store.get(two))
        ran = uploaded.run(report_dir=near_side.report_dir)
        assert ran.statuses == {one: "quarantined/other_instance", two: "registered"}

    def test_other_bytes_than_were_uploaded_are_held_back(
        self, uploaded: PipelineSide, near_side: NearSide, dicom: Dicom
    ) -> None:
        one, _ = self.keys(uploaded)
        uid = near_side.run().row("study/1")
        number = 1 if uid["key"] == one else 2
        uploaded.put(one, dicom(f"1.2.{number}", text="other bytes"))
        ran = uploaded.run(report_dir=near_side.report_dir)
        assert ran.statuses[one] == "quarantined/other_content"
        again = uploaded.run(report_dir=near_side.report_dir, skip_rule=("uploaded",))
        assert again.statuses[one] == "registered"


class TestBadInput:
    """One outcome each."""

    @pytest.mark.parametrize(
        ("body", "status", "detail"),
        [
            (b"", "quarantined/empty", ""),
            (b"no DICOM at all", "quarantined/not_dicom", "text"),
            (bytes(4000), "quarantined/truncated", "zeros"),
            (instance("1.2.1")[:-40], "quarantined/truncated", "it ends within its pixel data"),
            (instance("1.2.1")[132:], "quarantined/no_preamble", ""),
            (instance("1.2.1").replace(b"1.2.3\0", b"     \0"), "quarantined/no_study", ""),
            (
                instance("1.2.1").replace(
                    b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.1.20.1\0\0\0\0\0\0"
                ),
                "quarantined/not_storage",
                "",
            ),
        ],
        ids=["empty", "text", "zeros", "truncated", "no preamble", "no study", "no storage class"],
    )
    def test_what_does_not_validate_is_held_back(
        self, body: bytes, status: str, detail: str, side: PipelineSide
    ) -> None:
        side.put("bad", body)
        side.put("good", instance("1.2.9"))
        ran = side.run()
        assert ran.statuses == {"bad": status, "good": "registered"}
        assert ran.rows["bad"]["detail"] == detail
        assert ran.exit_code == 1
        assert len(stored(side)) == 1

    def test_a_rule_that_is_switched_off_lets_an_object_pass(self, side: PipelineSide) -> None:
        side.put("bad", instance("1.2.1")[:-40])
        assert side.run(skip_rule=("part10",)).statuses == {"bad": "registered"}

    @pytest.mark.parametrize(
        "key", ["a b+c%d", 'quote"<&>', "ü/é", "new\nline", "=1+1", "tab\tx", "\U0001f600", "a\\b"]
    )
    def test_a_key_with_odd_characters_is_in_the_report_as_it_is(self, key: str, side: PipelineSide) -> None:
        side.put(key, instance("1.2.1"))
        assert side.run().statuses == {key: "registered"}
        assert side.run().statuses == {key: "already_registered"}

    def test_one_that_is_gone_between_list_and_read_is_missing(self, side: PipelineSide) -> None:
        names = side.directory / "keys"
        names.write_text(f"{side.store.prefix}gone\n{side.put('there', instance('1.2.1'))}\n")
        ran = side.run(keys=str(names))
        assert ran.statuses == {"gone": "missing", "there": "registered"}
        assert ran.exit_code == 1

    def test_what_was_mended_in_the_bucket_is_registered_by_the_next_run(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1")[:-40])
        assert side.run().exit_code == 1
        side.put("k", instance("1.2.1"))
        ran = side.run()
        assert (ran.exit_code, ran.statuses) == (0, {"k": "registered"})

    def test_an_object_that_was_deleted_since_is_no_reason_for_exit_code_1(self, side: PipelineSide) -> None:
        side.put("k", b"no DICOM")
        assert side.run().exit_code == 1
        side.store.remove("k")
        ran = side.run()
        assert (ran.exit_code, ran.summary.not_seen) == (0, 1)
        assert ran.statuses == {"k": "quarantined/not_dicom"}, "it stays in the report"


class TestSameUid:
    def test_the_same_bytes_under_two_keys_are_registered_once(self, side: PipelineSide) -> None:
        for key in ("one", "two"):
            side.put(key, instance("1.2.1"))
        assert sorted(side.run().statuses.values()) == ["already_registered", "registered"]
        assert [each.uids for each in side.registry.asked(Step.STORE)] == [(padded("1.2.1"),)]

    @pytest.mark.parametrize("server", ["orthanc", "azure"])
    def test_other_bytes_under_one_uid_are_a_conflict(self, server: str, side: PipelineSide) -> None:
        side.put("one", instance("1.2.1", "these"))
        side.put("two", instance("1.2.1", "others"))
        side.registry.duplicates = 45070 if server == "azure" else None
        ran = side.run(dicomweb_server=server)
        assert sorted(ran.statuses.values()) == ["conflict", "registered"]
        assert ran.exit_code == 1
        (stays,) = stored(side).values()
        registered = next(key for key, status in ran.statuses.items() if status == "registered")
        assert stays == side.store.get(side.store.prefix + registered)

    def test_one_uid_in_two_studies_is_a_conflict(self, side: PipelineSide) -> None:
        side.put("one", instance("1.2.1"))
        assert side.run().statuses == {"one": "registered"}
        side.put("two", instance("1.2.1").replace(b"1.2.3\0", b"1.9.3\0"))
        ran = side.run()
        assert ran.statuses == {"one": "already_registered", "two": "conflict"}
        assert ran.rows["two"]["detail"] == "another study"

    def test_what_the_registry_had_is_held_against_it(self, side: PipelineSide) -> None:
        """By a server that says that it stored both, and keeps what it has."""
        side.registry.put(instance("1.2.1"), instance("1.2.2", "these"))
        side.put("same", instance("1.2.1"))
        side.put("other", instance("1.2.2", "others"))
        ran = side.run(dicomweb_server="orthanc")
        assert ran.statuses == {"same": "already_registered", "other": "conflict"}
        assert ran.rows["other"]["detail"] == "data set (0020,4000)"
        assert side.registry.asked(Step.STORE) == []

    def test_what_a_registry_says_that_it_has_is_held_against_it(self, side: PipelineSide) -> None:
        """By one that says so."""
        side.registry.put(instance("1.2.1"), instance("1.2.2", "these"))
        side.registry.duplicates = 45070
        side.put("same", instance("1.2.1"))
        side.put("other", instance("1.2.2", "others"))
        ran = side.run(dicomweb_server="azure")
        assert ran.statuses == {"same": "already_registered", "other": "conflict"}

    def test_it_is_found_where_a_server_searches_a_study_s_series_alone(self, side: PipelineSide) -> None:
        side.registry.put(instance("1.2.1"), instance("1.2.2", "these"))
        side.registry.searches_studies = False
        side.put("same", instance("1.2.1"))
        side.put("other", instance("1.2.2", "others"))
        ran = side.run(dicomweb_server="healthimaging")
        assert ran.statuses == {"same": "already_registered", "other": "conflict"}


class TestAnswers:
    def test_each_instance_is_accounted_for_by_the_body(self, side: PipelineSide) -> None:
        for number in range(4):
            side.put(f"k{number}", instance(f"1.2.{number}"))
        side.registry.script = scripted((Step.STORE, 1, Failed(0xA900, (padded("1.2.2"),), 200)))
        ran = side.run()
        assert ran.statuses == {f"k{n}": "rejected" if n == 2 else "registered" for n in range(4)}
        assert ran.rows["k2"]["detail"] == "does_not_match_sop_class A900"

    def test_what_is_said_to_be_stored_and_is_not_there_is_rejected(self, side: PipelineSide) -> None:
        """By a server that filters what it receives; where another one stores into the study, too."""
        for number in range(4):
            side.put(f"k{number}", instance(f"1.2.{number}"))
        side.registry.dropped = {padded("1.2.2")}
        ran = side.run(dicomweb_server="orthanc")
        assert ran.statuses == {f"k{n}": "rejected" if n == 2 else "registered" for n in range(4)}
        assert (ran.exit_code, ran.rows["k2"]["detail"]) == (1, "not_kept")

    def test_a_count_that_is_off_rejects_nothing(self, side: PipelineSide) -> None:
        """Another one may store into the study at the same time, or the server may not count."""
        for number, offset in enumerate((1, None)):
            side.registry.related_offset = offset
            side.put(f"k{number}", instance(f"1.2.{number}"))
            assert set(side.run(dicomweb_server="orthanc").statuses.values()) <= {
                "registered",
                "already_registered",
            }

    def test_what_no_sequence_names_is_asked_for(self, side: PipelineSide) -> None:
        for number in range(3):
            side.put(f"k{number}", instance(f"1.2.{number}"))
        side.registry.script = scripted((Step.STORE, 1, Unnamed(202)))
        ran = side.run()
        assert set(ran.statuses.values()) == {"registered"}
        assert len(side.registry.asked(Step.STORE)) == 1

    def test_what_is_put_off_is_sent_again(self, side: PipelineSide) -> None:
        for number in range(3):
            side.put(f"k{number}", instance(f"1.2.{number}"))
        side.registry.script = scripted((Step.STORE, 1, Failed(0xA700, (padded("1.2.1"),))))
        assert set(side.run().statuses.values()) == {"registered"}
        assert [len(each.uids) for each in side.registry.asked(Step.STORE)] == [3, 1]

    def test_413_halves_a_request(self, side: PipelineSide) -> None:
        for number in range(4):
            side.put(f"k{number}", instance(f"1.2.{number}"))
        side.registry.script = lambda request: (
            Reply(413) if request.step is Step.STORE and len(request.uids) > 1 else None
        )
        assert set(side.run().statuses.values()) == {"registered"}
        assert sorted(len(each.uids) for each in side.registry.asked(Step.STORE)) == [1, 1, 1, 1, 2, 2, 4]

    def test_one_that_makes_a_server_refuse_a_request_is_rejected_alone(self, side: PipelineSide) -> None:
        """Of a request that is refused as a whole nothing says who is to blame."""
        for number in range(7):
            side.put(f"k{number}", instance(f"1.2.{number}"))
        side.registry.script = lambda request: (
            Reply(400) if request.step is Step.STORE and padded("1.2.4") in request.uids else None
        )
        ran = side.run()
        assert ran.statuses == {f"k{n}": "rejected" if n == 4 else "registered" for n in range(7)}
        assert ran.rows["k4"]["detail"] == "not_named http_400"

    def test_one_that_is_too_large_by_itself_is_rejected(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        side.registry.script = always(Step.STORE, Reply(413))
        ran = side.run()
        assert ran.statuses == {"k": "rejected"}
        assert ran.rows["k"]["detail"] == "http_413"

    @pytest.mark.parametrize("how", [Reset(stored=True), Half()])
    def test_what_was_stored_without_an_answer_is_not_sent_again(self, how: Any, side: PipelineSide) -> None:
        for number in range(3):
            side.put(f"k{number}", instance(f"1.2.{number}"))
        side.registry.script = scripted((Step.STORE, 1, how))
        ran = side.run()
        assert set(ran.statuses.values()) == {"registered"}
        assert len(side.registry.asked(Step.STORE)) == 1

    def test_what_was_not_stored_is_sent_again(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        side.registry.script = scripted((Step.STORE, 1, Reset(stored=False)), (Step.STORE, 2, Reply(503)))
        assert side.run().statuses == {"k": "registered"}
        assert side.run().rows["k"]["attempts"] == "3"

    def test_retry_after_is_kept(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        side.registry.script = scripted((Step.STORE, 1, Reply(503, b"", {"Retry-After": "1"})))
        ran = side.run()
        assert ran.statuses == {"k": "registered"}
        assert ran.summary.wall_s >= 1

    def test_a_registry_that_can_t_be_asked_rejects_nothing(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        side.registry.script = lambda request: (
            Reply(400) if request.step is Step.QUERY and request.n > 1 else None
        )
        assert side.run().statuses == {"k": "failed/refused"}

    def test_rubbish_is_asked_about_and_given_up(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        side.registry.script = always(Step.STORE, Reply(500, b"<html>"))
        ran = side.run(retries=("server=2",))
        assert ran.statuses == {"k": "failed/server"}
        assert ran.rows["k"]["detail"] == "http_500"
        side.registry.script = lambda _request: None
        assert side.run().statuses == {"k": "registered"}


class TestStart:
    def test_a_registry_that_does_not_answer_is_no_start(self, side: PipelineSide) -> None:
        with pytest.raises(UsageError, match="DICOMweb server"):
            side.run(dicomweb_url="http://127.0.0.1:1/dicom-web")
        assert not side.report_dir.exists()

    @pytest.mark.parametrize("code", [401, 403])
    def test_credentials_that_the_registry_refuses_are_exit_code_4(
        self, code: int, side: PipelineSide
    ) -> None:
        side.registry.script = always(Step.QUERY, Reply(code))
        with pytest.raises(CredentialsRefusedError):
            side.run()
        assert not side.report_dir.exists()

    def test_a_bucket_that_is_none_is_no_start(self, side: PipelineSide) -> None:
        with pytest.raises(UsageError, match="NoSuchBucket"):
            side.run(bucket="s3://nobucket")
        assert not side.report_dir.exists()

    def test_credentials_that_the_bucket_refuses_are_exit_code_4(
        self, side: PipelineSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        with pytest.raises(CredentialsRefusedError, match="AWS_SECRET_ACCESS_KEY"):
            side.run()
        assert not side.report_dir.exists()

    def test_credentials_that_are_refused_later_are_exit_code_4_with_a_report(
        self, side: PipelineSide
    ) -> None:
        side.put("k", instance("1.2.1"))
        side.registry.script = always(Step.STORE, Reply(401))
        ran = side.run()
        assert ran.exit_code == 4
        assert ran.statuses["k"] in ("not_attempted/stopped", "failed/interrupted")

    @pytest.mark.parametrize(
        "options",
        [
            {"bucket": ""},
            {"dicomweb_url": ""},
            {"keys": "a", "events": "b"},
            {"skip_rule": ("nothing",)},
            {"stow_parallel": 5},
            {"dicomweb_url": "http://example.org/"},
        ],
    )
    def test_settings_that_are_wrong_are_said(self, options: dict[str, Any], side: PipelineSide) -> None:
        with pytest.raises(UsageError):
            side.run(**options)


def test_the_statuses_of_the_report_are_those_of_the_contract() -> None:
    names = "registered already_registered conflict rejected quarantined missing failed not_attempted"
    assert [each.value for each in ObjectStatus] == names.split()


class TestLarge:
    """Objects of more than 16 MiB pass through, each alone in its request."""

    LARGE = instance("1.2.1", pixel_bytes=20 * 1024 * 1024)

    def test_one_is_registered_byte_for_byte(self, side: PipelineSide) -> None:
        side.put("large", self.LARGE)
        side.put("small", instance("1.2.2"))
        ran = side.run()
        assert set(ran.statuses.values()) == {"registered"}
        assert stored(side)[padded("1.2.1")] == self.LARGE
        assert ran.rows["large"]["sha256"] == hashlib.sha256(self.LARGE).hexdigest()
        assert sorted(len(each.uids) for each in side.registry.asked(Step.STORE)) == [1, 1]

    def test_of_one_that_is_cut_nothing_is_stored(self, side: PipelineSide) -> None:
        side.put("large", self.LARGE[:-40])
        ran = side.run()
        assert ran.statuses == {"large": "quarantined/truncated"}
        assert stored(side) == {}
        assert side.run().exit_code == 1

    def test_one_is_read_again_when_its_request_broke_off(self, side: PipelineSide) -> None:
        side.put("large", self.LARGE)
        side.registry.script = scripted((Step.STORE, 1, Reset(stored=False)))
        assert side.run().statuses == {"large": "registered"}
        assert stored(side)[padded("1.2.1")] == self.LARGE

    def test_one_under_two_keys_is_registered_once(self, side: PipelineSide) -> None:
        side.put("one", self.LARGE)
        side.put("two", self.LARGE)
        assert sorted(side.run().statuses.values()) == ["already_registered", "registered"]
        assert len(side.registry.asked(Step.STORE)) == 1

    def test_what_the_registry_had_is_held_against_it(self, side: PipelineSide) -> None:
        side.registry.put(instance("1.2.1", "others", pixel_bytes=20 * 1024 * 1024))
        side.put("large", self.LARGE)
        assert side.run().statuses == {"large": "conflict"}
