"""Which objects a run of `ingest` takes, what it does with them afterwards, and how it ends early."""

import io
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InterruptedRunError, UsageError
from tasks.run.early_end import early_end
from tasks.run.registration import Registration, register
from tests.conftest import instance, padded
from tests.dicomweb_side import Reply, Request, Slow, Step, always, scripted
from tests.pipeline_side import Ingested, PipelineSide
from tests.processes import await_that


def put_many(side: PipelineSide, count: int) -> dict[str, bytes]:
    bodies = {f"k{number:03}": instance(f"1.2.{number}") for number in range(count)}
    for key, body in bodies.items():
        side.put(key, body)
    return bodies


def event(side: PipelineSide, key: str, **more: Any) -> str:
    bucket = side.store.address.split("/")[2]
    its = {"key": (side.store.prefix + key).replace(" ", "+")} | more
    s3 = {"bucket": {"name": bucket}, "object": its}
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": s3}]})


class TestKeys:
    def test_only_what_is_named_is_registered(self, side: PipelineSide) -> None:
        put_many(side, 3)
        names = side.directory / "keys.txt"
        names.write_text(f"{side.store.prefix}k001\n")
        assert side.run(keys=str(names)).statuses == {"k001": "registered"}
        assert list(side.registry.bodies) == [padded("1.2.1")]

    def test_what_the_registry_has_lost_is_registered_again(self, side: PipelineSide) -> None:
        """Though the ledger knows it to be registered. The others' rows stay in the report."""
        put_many(side, 3)
        side.run()
        side.registry.delete(padded("1.2.1"))
        assert set(side.run().statuses.values()) == {"already_registered"}, "the ledger says so"
        names = side.directory / "keys.txt"
        names.write_text(f"{side.store.prefix}k001\n")
        ran = side.run(keys=str(names))
        assert ran.exit_code == 0
        assert ran.statuses == {
            "k000": "already_registered",
            "k001": "registered",
            "k002": "already_registered",
        }
        assert padded("1.2.1") in side.registry.bodies

    def test_what_the_registry_still_has_is_not_sent(self, side: PipelineSide) -> None:
        put_many(side, 1)
        side.run()
        names = side.directory / "keys.txt"
        names.write_text(f"{side.store.prefix}k000\n")
        assert side.run(keys=str(names)).statuses == {"k000": "already_registered"}
        assert len(side.registry.asked(Step.STORE)) == 1

    def test_one_that_was_moved_is_named_by_the_key_that_it_has_by_now(self, side: PipelineSide) -> None:
        """As verify names it, which has looked where it is."""
        put_many(side, 2)
        moved_to = side.run(after="move").rows["k001"]["moved_to"]
        side.registry.delete(padded("1.2.1"))
        names = side.directory / "keys.txt"
        names.write_text(f"{moved_to}\n")
        for after in ("leave", "move"):
            ran = side.run(keys=str(names), after=after)
            assert ran.exit_code == 0
            assert set(ran.rows) == {"k000", "k001"}
            assert ran.rows["k001"]["moved_to"] == moved_to
            assert side.store.get(moved_to) == instance("1.2.1")
        assert padded("1.2.1") in side.registry.bodies

    @pytest.mark.parametrize(("text", "what"), [(b"\xff\xfe", "UTF-8"), (b"x" * 1025, "1024")])
    def test_what_can_t_be_a_key_is_refused(self, text: bytes, what: str, side: PipelineSide) -> None:
        names = side.directory / "keys.txt"
        names.write_bytes(b"ok\n" + text + b"\n")
        with pytest.raises(UsageError, match=f"line 2,.*{what}"):
            side.run(keys=str(names))
        assert not side.report_dir.exists()


class TestEvents:
    def test_what_messages_in_a_folder_tell_of_is_registered(self, side: PipelineSide) -> None:
        put_many(side, 3)
        side.put("a b", instance("1.7"))
        folder = side.directory / "events"
        folder.mkdir()
        (folder / "1.json").write_text(event(side, "k001"))
        (folder / "2.json").write_text(event(side, "a b", size=5, eTag="of-another"))
        (folder / ".3.json").write_text("half a mess")
        ran = side.run(events=str(folder))
        assert ran.statuses == {"k001": "registered", "a b": "registered"}
        assert side.run(events=str(folder)).statuses == dict.fromkeys(("k001", "a b"), "already_registered")
        assert len(side.registry.asked(Step.STORE)) <= 2

    def test_lines_of_standard_input_are_messages(
        self, side: PipelineSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_many(side, 2)
        monkeypatch.setattr("sys.stdin", io.StringIO(event(side, "k000") + "\n\n" + event(side, "k001")))
        assert set(side.run(events="-").statuses.values()) == {"registered"}

    def test_what_is_no_message_is_refused(self, side: PipelineSide) -> None:
        folder = side.directory / "events"
        folder.mkdir()
        (folder / "1.json").write_text("{}")
        with pytest.raises(UsageError, match="message 1 "):
            side.run(events=str(folder))
        assert not side.report_dir.exists()

    def test_a_folder_that_is_none_is_refused(self, side: PipelineSide) -> None:
        with pytest.raises(UsageError, match="No such file"):
            side.run(events=str(side.directory / "nowhere"))


class TestAfterwards:
    def test_objects_stay_where_they_are(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        side.put("text", b"hello")
        before = side.store.keys()
        side.run()
        assert side.store.keys() == before

    def test_objects_are_moved_without_loss(self, side: PipelineSide) -> None:
        """And are no new objects there."""
        body, prefix = instance("1.2.1"), side.store.prefix
        side.put("k", body)
        side.put("text", b"hello")
        ran = side.run(after="move")
        assert ran.statuses == {"k": "registered", "text": "quarantined/not_dicom"}
        assert ran.rows["k"]["moved_to"] == f"registered/{prefix}k"
        assert ran.rows["text"]["moved_to"] == f"quarantine/{prefix}text"
        assert side.store.keys() == []
        assert side.store.get(f"registered/{prefix}k") == body
        assert side.store.get(f"quarantine/{prefix}text") == b"hello"
        again = side.run(after="move")
        assert again.exit_code == 0
        assert again.rows["k"]["moved_to"] == f"registered/{prefix}k"
        assert again.statuses["k"] == "already_registered"

    def test_what_was_moved_is_not_listed_from_the_top_of_the_bucket(self, side: PipelineSide) -> None:
        top = {"bucket": side.store.address.rpartition(side.store.prefix)[0].rstrip("/")}
        side.put("k", instance("1.2.1"))
        side.run(after="move", **top)
        sent = len(side.registry.asked(Step.STORE))
        ran = side.run(after="move", ledger=str(side.directory / "another.sqlite"), **top)
        assert f"registered/{side.store.prefix}k" not in ran.rows
        assert len(side.registry.asked(Step.STORE)) == sent

    def test_what_was_registered_before_is_moved_without_being_read(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        first = side.run()
        ran = side.run(after="move")
        assert ran.statuses == {"k": "already_registered"}
        assert ran.rows["k"]["moved_to"] == f"registered/{side.store.prefix}k"
        assert ran.rows["k"]["finished_at"] == first.rows["k"]["finished_at"]
        assert side.store.keys() == []

    def test_another_object_that_lies_there_already_is_not_lost(self, side: PipelineSide) -> None:
        other = f"registered/{side.store.prefix}k"
        side.store.client.put_object(Bucket="dicom-ingest", Key=other, Body=b"of an earlier key")
        side.put("k", instance("1.2.1"))
        ran = side.run(after="move")
        assert ran.rows["k"]["moved_to"] == f"{other}.2"
        assert side.store.get(other) == b"of an earlier key"
        assert side.store.get(f"{other}.2") == instance("1.2.1")

    def test_what_is_in_conflict_stays(self, side: PipelineSide) -> None:
        side.registry.put(instance("1.2.1", "these"))
        side.put("k", instance("1.2.1", "others"))
        assert side.run(after="move").statuses == {"k": "conflict"}
        assert side.store.keys() == [f"{side.store.prefix}k"]

    def test_a_read_only_bucket_is_not_written_to(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        assert side.run(after="move", bucket_read_only=True).rows["k"]["moved_to"] == ""
        assert side.store.keys() == [f"{side.store.prefix}k"]

    def test_a_store_that_knows_no_tags_keeps_its_objects(self, side: PipelineSide) -> None:
        """rclone's would take the tag for the object's bytes."""
        side.put("k", instance("1.2.1"))
        with pytest.raises(UsageError, match="tags"):
            side.run(after="tag")
        assert side.store.get(f"{side.store.prefix}k") == instance("1.2.1")
        assert not side.report_dir.exists()


class TestTwoAtOnce:
    @pytest.mark.parametrize("database", ["sqlite", "postgresql"])
    def test_two_runs_share_the_work(
        self, database: str, side: PipelineSide, request: pytest.FixtureRequest
    ) -> None:
        """Into report directories of their own, with one ledger: nothing is stored twice."""
        put_many(side, 150)
        side.put("same", instance("1.2.7"))
        is_file = database == "sqlite"
        server = None if is_file else request.getfixturevalue(database)
        ledger = str(side.directory / "ledger.sqlite") if is_file else server.new_database()
        ran: dict[str, Ingested] = {}

        def run(name: str) -> None:
            settings = side.settings(ledger=ledger, report_dir=side.directory / name)
            ran[name] = side.told(register(settings, edges=side.edges), settings.report_dir)

        threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert [each.exit_code for each in ran.values()] == [0, 0]
        sent = [uid for request in side.registry.asked(Step.STORE) for uid in request.uids]
        assert len(sent) == len(set(sent)) == 150
        for each in ran.values():
            assert len(each.rows) == 151
            assert set(each.statuses.values()) <= {"registered", "already_registered"}

    def test_one_report_directory_is_for_one_run(self, side: PipelineSide) -> None:
        side.put("k", instance("1.2.1"))
        run = Registration(side.settings(), edges=side.edges)
        try:
            with pytest.raises(UsageError, match="Another run writes"):
                side.run()
        finally:
            run.finish()


class TestEnds:
    def test_an_interrupted_run_has_a_report_and_goes_on(self, side: PipelineSide) -> None:
        put_many(side, 5)
        held = threading.Event()

        def script(request: Request) -> None:
            if request.step is Step.STORE:
                held.set()

        side.registry.script = script
        run = Registration(side.settings(stow_parallel=1), edges=side.edges)
        run.stop(InterruptedRunError("Interrupted."))
        with early_end(run) as end, run.draining():
            for batch_no in run.plan():
                run.register(batch_no)
        ran = side.told(run.finish(end.why))
        assert ran.exit_code == 130
        assert set(ran.statuses.values()) <= {"not_attempted/stopped"}
        assert set(side.run().statuses.values()) == {"registered"}

    def test_a_request_that_outlasts_the_grace_is_cut_off_and_asked_about_later(
        self, side: PipelineSide
    ) -> None:
        """The registry has stored it meanwhile: it is compared, not sent again."""
        put_many(side, 2)
        side.registry.script = scripted((Step.STORE, 1, Slow(3)))
        edges = replace(side.edges, grace_s=0.2)
        run = Registration(side.settings(), edges=edges)

        def stop_when_it_is_under_way() -> None:
            await_that(lambda: bool(side.registry.asked(Step.STORE)))
            run.stop(InterruptedRunError("Interrupted."))

        stopper = threading.Thread(target=stop_when_it_is_under_way)
        stopper.start()
        with early_end(run) as end, run.draining():
            for batch_no in run.plan():
                run.register(batch_no)
        stopper.join(60)
        ran = side.told(run.finish(end.why))
        assert ran.exit_code == 130
        assert set(ran.statuses.values()) == {"failed/interrupted"}
        await_that(lambda: len(side.registry.bodies) == 2)
        again = side.run()
        assert set(again.statuses.values()) == {"already_registered"}
        assert len(side.registry.asked(Step.STORE)) == 1

    def test_a_registry_that_is_down_for_too_long_ends_a_run(self, side: PipelineSide) -> None:
        put_many(side, 6)
        studies = [instance(f"1.3.{n}").replace(b"1.2.3\0", f"1.{n}.3\0".encode()) for n in range(6)]
        for number, body in enumerate(studies):
            side.put(f"s{number}", body)
        side.registry.script = always(Step.STORE, Reply(500))
        ran = side.run(max_outage=0.0)
        assert ran.exit_code == 3
        assert "down" in ran.summary.problems[0]
        side.registry.script = lambda _request: None
        again = side.run()
        assert again.exit_code == 0
        assert len(side.registry.bodies) == 12

    def test_a_slow_registry_is_waited_for(self, side: PipelineSide) -> None:
        put_many(side, 2)
        side.registry.script = scripted((Step.STORE, 1, Slow(1.5)))
        assert set(side.run().statuses.values()) == {"registered"}

    def test_an_attempt_of_a_killed_run_is_asked_about(self, side: PipelineSide, tmp_path: Path) -> None:
        """The registry has it, and the ledger only knows that it was sent: it is compared, not sent."""
        side.put("k", instance("1.2.1"))
        run = Registration(side.settings(dicomweb_server="azure"), edges=side.edges)
        run.list_objects()
        (todo,) = run._ledger.claim(1, 10)
        from tasks.ledger.registered_instances import SendingObjects

        answered = threading.Event()
        run._ledger.post(SendingObjects([todo]), lambda _answer: answered.set())
        assert answered.wait(30)
        side.registry.put(instance("1.2.1"))
        run._ledger.close()  # as a kill leaves it: neither an end nor an outcome
        run._records.trail.close()
        run._parts.close()
        ran = side.run(dicomweb_server="azure")
        assert ran.statuses == {"k": "already_registered"}
        assert side.registry.asked(Step.STORE) == []


def test_dciodvfy_warns_and_holds_nothing_back(
    side: PipelineSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="dicom3tools"):
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        side.run(dciodvfy=True)
    stand_in = tmp_path / "bin" / "dciodvfy"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\necho 'Error - a module is missing' >&2\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:/usr/bin:/bin")
    put_many(side, 2)
    ran = side.run(dciodvfy=True)
    assert set(ran.statuses.values()) == {"registered"}
    assert ran.summary.problems == ["dciodvfy finds errors in: 2 objects"]
