"""What is checked before a run begins: one URL is asked for, and what is wrong leaves nothing behind."""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.audit.check import audit
from tasks.audit.log import Trail
from tasks.core.errors import CredentialsRefusedError, IngestError, UsageError
from tasks.ledger.earlier_runs import Begins, begins
from tasks.remote.platform_client import Platform
from tasks.report.directory import AUDIT_JSONL
from tasks.report.reader import read_summary
from tasks.run.edges import Edges
from tasks.run.preflight import FirstAnswer, ask, check, pass_on, read_manifest
from tasks.run.records import report_again
from tests.conftest import Dicom, NearSide
from tests.databases import PostgreSQL, long_ago
from tests.far_side import (
    CLIENT_ID,
    CLIENT_SECRET,
    TOKEN,
    Deviation,
    FarSide,
    Minted,
    Reply,
    Request,
    Reset,
    Step,
    always,
    once_begun,
    scripted,
    status,
)


@pytest.fixture
def asked(near_side: NearSide) -> Callable[..., FirstAnswer]:
    """`asked()`: the first answer, and in `pauses` how long it was waited for; no second passes."""
    pauses: list[float] = []
    edges = Edges(sleep=pauses.append, clock=lambda: sum(pauses), announced_after_s=0.01)

    def ask_now(**options: object) -> FirstAnswer:
        with closing(Platform(near_side.settings(**options))) as client:
            return ask(client, edges)

    ask_now.pauses = pauses  # type: ignore[attr-defined]
    return ask_now


class TestFirstAnswer:
    def test_is_a_key_that_nothing_is_sent_to(
        self, asked: Callable[..., FirstAnswer], far_side: FarSide
    ) -> None:
        assert {asked().key} == far_side.keys_handed_out
        assert len(far_side.requests) == 1

    @pytest.mark.parametrize(
        "answer", [Reset(), status(500), status(502), Reply(200, b"<html>"), status(503), status(429)]
    )
    def test_is_asked_for_again_after_a_pause(
        self, asked: Callable[..., FirstAnswer], far_side: FarSide, answer: Deviation
    ) -> None:
        """A gateway that is being restarted is no wrong setting."""
        far_side.script = scripted(*((Step.PRESIGN, n, answer) for n in (1, 2)))
        assert {asked().key} == far_side.keys_handed_out
        pauses = asked.pauses  # type: ignore[attr-defined]
        assert pauses == sorted(pauses)
        assert len(pauses) == 2

    def test_that_lets_a_person_wait_is_said_to_be_waited_for(
        self, asked: Callable[..., FirstAnswer], far_side: FarSide, caplog: pytest.LogCaptureFixture
    ) -> None:
        far_side.script = lambda _request: time.sleep(0.5)
        asked()
        assert "Waiting for a good answer of the upload API" in caplog.text

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (Reset(), "can't be reached"),
            (status(500), "answered 500"),
            (status(502), "answered 502"),
            (Reply(200, b"<html>Please log in</html>"), "is HTML or XML"),
            (Reply(200, b""), "is empty"),
            (Reply(200, b"url=1"), "is no JSON"),
            (Reply(200, b"[]"), "is JSON, but no object"),
            (Reply(200, b"{}"), "has no url and no key"),
            (Reply(200, b'{"url": "https://a.example/"}'), "has no key"),
            (Reply(200, b'{"url": "/a", "key": "k"}'), "has a url that is no absolute URL"),
            (Reply(200, b'{"url": "https://a.example/", "key": 7}'), "has a key that can be none of S3's"),
        ],
    )
    def test_that_stays_away_or_is_none_is_a_usage_error_after_a_few_tries(
        self, asked: Callable[..., FirstAnswer], far_side: FarSide, answer: Deviation, told: str
    ) -> None:
        """Within a minute, saying what is wrong with it; nothing of the answer is repeated."""
        far_side.script = always(Step.PRESIGN, answer)
        with pytest.raises(UsageError, match="Nothing was sent") as wrong:
            asked()
        assert told in str(wrong.value)
        assert "log in" not in str(wrong.value)
        assert 3 <= len(far_side.asked(Step.PRESIGN)) <= 6
        assert sum(asked.pauses) < 20  # type: ignore[attr-defined]

    @pytest.mark.parametrize("answer", [status(404), status(400), Minted(host="storage.example.org")])
    def test_that_shows_a_wrong_setting_is_a_usage_error_at_once(
        self, asked: Callable[..., FirstAnswer], far_side: FarSide, answer: Deviation
    ) -> None:
        far_side.script = always(Step.PRESIGN, answer)
        with pytest.raises(UsageError, match="Nothing was sent"):
            asked(allow_storage_host=["127.0.0.1"])
        assert len(far_side.asked(Step.PRESIGN)) == 1

    @pytest.mark.parametrize("code", [401, 403])
    def test_that_refuses_credentials_names_the_setting(
        self, asked: Callable[..., FirstAnswer], far_side: FarSide, code: int
    ) -> None:
        far_side.script = always(Step.PRESIGN, status(code))
        with pytest.raises(CredentialsRefusedError, match="DICOM_INGEST_TOKEN says") as refused:
            asked()
        assert refused.value.exit_code == 4
        assert len(far_side.asked(Step.PRESIGN)) == 1

    @pytest.mark.parametrize(("retry_after", "tries"), [("", 5), ("3600", 2)])
    def test_that_throttles_lets_the_run_begin(
        self, asked: Callable[..., FirstAnswer], far_side: FarSide, retry_after: str, tries: int
    ) -> None:
        """That is no wrong setting: the run has patience of its own. Retry-After counts within bounds."""
        far_side.script = always(Step.PRESIGN, status(503, retry_after))
        assert asked().key == ""
        assert len(far_side.asked(Step.PRESIGN)) == tries
        assert sum(asked.pauses) < 20  # type: ignore[attr-defined]

    def test_of_a_token_endpoint_that_is_down_is_a_usage_error(
        self, asked: Callable[..., FirstAnswer], far_side: FarSide
    ) -> None:
        far_side.script = always(Step.TOKEN, status(500))
        secret = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        with pytest.raises(UsageError, match="the token endpoint answered 500"):
            asked(token="", token_url=far_side.token_url, **secret)
        assert len(far_side.asked(Step.TOKEN)) > 2


def test_a_token_file_that_is_lost_later_ends_the_run_with_4_and_a_full_report(
    near_side: NearSide, far_side: FarSide, dicom: Dicom
) -> None:
    for number in range(30):
        near_side.put(f"study/{number}", dicom(f"1.{number}"))
    file = near_side.directory / "token"
    file.write_text(TOKEN)

    def script(request: Request) -> None:
        if request.step is Step.PUT and request.n == 3:
            file.unlink()

    far_side.script = script
    run = near_side.run(token="", token_file=file, parallel=1)
    assert run.exit_code == 4
    assert "DICOM_INGEST_TOKEN_FILE" in run.summary.problems[0]
    assert len(run.rows) == 30
    assert {"uploaded", "not_attempted/stopped"} <= set(run.statuses.values())
    assert run.keys_told == far_side.keys_handed_out


Break = Callable[[FarSide, NearSide], dict[str, object]]


def refuse(far_side: FarSide, _near_side: NearSide) -> dict[str, object]:
    far_side.script = always(Step.PRESIGN, status(401))
    return {}


def refuse_client(far_side: FarSide, _near_side: NearSide) -> dict[str, object]:
    secret = {"client_id": CLIENT_ID, "client_secret": "wrong"}
    return {"token": "", "token_url": far_side.token_url, **secret}


def lose_token_file(_far_side: FarSide, near_side: NearSide) -> dict[str, object]:
    return {"token": "", "token_file": near_side.directory / "gone"}


def lose_api_key_file(_far_side: FarSide, near_side: NearSide) -> dict[str, object]:
    return {"api_key_file": near_side.directory / "gone"}


def move(far_side: FarSide, _near_side: NearSide) -> dict[str, object]:
    far_side.script = always(Step.PRESIGN, status(404))
    return {}


def go_down(_far_side: FarSide, _near_side: NearSide) -> dict[str, object]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return {"api_endpoint": f"http://127.0.0.1:{listener.getsockname()[1]}"}


def put_file_in_the_way(_far_side: FarSide, near_side: NearSide) -> dict[str, object]:
    return {"report_dir": near_side.put("study/1", b"") / "report"}


WRONG = [
    (refuse, 4),
    (refuse_client, 4),
    (lose_token_file, 4),
    (lose_api_key_file, 4),
    (move, 2),
    (go_down, 2),
    (put_file_in_the_way, 2),
]


@pytest.mark.parametrize(("breaks", "code"), WRONG)
class TestWhatIsWrong:
    def test_leaves_nothing(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, breaks: Break, code: int
    ) -> None:
        """Neither report nor ledger nor trail, whoever asks."""
        near_side.put("study/1", dicom("1.1"))
        options = breaks(far_side, near_side)
        for begin in (near_side.run, lambda **given: check(near_side.settings(**given), near_side.edges)):
            with pytest.raises(IngestError) as wrong:
                begin(**options)
            assert wrong.value.exit_code == code
            assert str(near_side.directory) not in str(wrong.value)
        assert os.listdir(near_side.directory) == ["archive"]

    def test_leaves_an_earlier_report_as_it_is(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, breaks: Break, code: int
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        near_side.run()
        before = {path.name: path.read_bytes() for path in near_side.report_dir.iterdir()}
        options = breaks(far_side, near_side)
        with pytest.raises(IngestError) as wrong:
            near_side.run(**options)
        assert wrong.value.exit_code == code
        assert {path.name: path.read_bytes() for path in near_side.report_dir.iterdir()} == before
        assert audit(near_side.report_dir).faults == []


class TestUnusedKey:
    @pytest.fixture(params=["sqlite", "postgresql"])
    def ledger(self, request: pytest.FixtureRequest, postgresql: PostgreSQL) -> str:
        return "" if request.param == "sqlite" else postgresql.new_database()

    def test_of_each_run_is_in_its_own_summary(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        first, second = near_side.run(), near_side.run()
        keys = first.summary.unused_keys + second.summary.unused_keys
        assert len(set(keys)) == 2
        assert set(keys) | set(far_side.objects) == far_side.keys_handed_out
        assert not set(keys) & set(far_side.objects)
        assert read_summary(near_side.report_dir).unused_keys == second.summary.unused_keys
        assert audit(near_side.report_dir).faults == []

    def test_of_a_killed_run_is_in_the_report_that_is_written_again(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """The ledger has it before the scan begins."""
        near_side.put("study/1", dicom("1.1"))
        settings = near_side.settings()
        engine = near_side.engine()
        engine.close()  # the process is gone: no sign of life follows
        long_ago(settings.ledger_at)
        summary = report_again(near_side.report_dir, settings.ledger_at, settings.campaign)
        assert summary == replace(summary, exit_code=3, files=1, by_status={"not_attempted": 1})
        assert set(summary.unused_keys) == far_side.keys_handed_out
        assert audit(near_side.report_dir).faults == []

    def test_that_is_handed_out_again_for_a_file_stops_the_run(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """A cache before the API."""
        near_side.put("study/1", dicom("1.1"))
        far_side.script = always(Step.PRESIGN, Minted(key="uploads/the-same"))
        run = near_side.run()
        assert (run.exit_code, far_side.objects) == (3, {})
        assert run.summary.unused_keys == ["uploads/the-same"]
        assert audit(near_side.report_dir).faults == []

    def test_is_none_while_the_platform_throttles(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        far_side.script = scripted(*((Step.PRESIGN, n, status(429)) for n in range(1, 6)))
        run = near_side.run()
        assert (run.statuses, run.summary.unused_keys) == ({"study/1": "uploaded"}, [])


class TestPassedOn:
    def test_is_not_asked_for_a_second_time(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """By the run that begins in this process; the one after it asks for itself."""
        near_side.put("study/1", dicom("1.1"))
        with pass_on(check(near_side.settings())):
            first = near_side.run()
            second = near_side.run()
        assert set(first.summary.unused_keys) < far_side.keys_handed_out
        assert len(far_side.asked(Step.PRESIGN)) == 3
        assert first.summary.unused_keys != second.summary.unused_keys

    def test_is_the_manifest_read_once(self, near_side: NearSide, far_side: FarSide, dicom: Dicom) -> None:
        """By the run that begins in this process, of that manifest; and anew by the one after it."""
        near_side.put("study/1", dicom("1.1"))
        manifest, settings = near_side.directory / "manifest.csv", near_side.settings()
        manifest.write_text("study_dir\narchive/study\n")
        other = near_side.directory / "other.csv"
        other.write_text("study_dir\narchive/other\n")
        entries = read_manifest(manifest, settings)
        manifest.write_text("study_dir\narchive/changed\n")
        with pass_on(check(settings), manifest, entries):
            assert [Path(each.study_dir).name for each in read_manifest(other, settings)] == ["other"]
            assert read_manifest(manifest, settings) is entries
            assert [Path(each.study_dir).name for each in read_manifest(manifest, settings)] == ["changed"]


class TestReportDirectory:
    def test_of_a_run_at_work_is_known_before_a_url_is_asked_for(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        near_side.report_dir.mkdir()
        trail = Trail(near_side.report_dir)
        with pytest.raises(UsageError, match="Another run writes"):
            near_side.run()
        trail.close()
        assert far_side.requests == []

    def test_with_a_trail_that_is_none_of_ours_is_known_too(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        near_side.report_dir.mkdir()
        (near_side.report_dir / AUDIT_JSONL).write_text("somebody's notes\n")
        with pytest.raises(UsageError, match="no audit trail of ours"):
            near_side.run()
        assert far_side.requests == []


class TestWhatBegins:
    @pytest.fixture(params=["sqlite", "postgresql"])
    def ledger(self, request: pytest.FixtureRequest, postgresql: PostgreSQL) -> str:
        return "" if request.param == "sqlite" else postgresql.new_database()

    def test_is_a_ledger_then_a_campaign_then_nothing(
        self, near_side: NearSide, dicom: Dicom, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Asking makes nothing; a run says it once, and never where the ledger is."""
        near_side.put("study/1", dicom("1.1"))
        where = near_side.settings().ledger_at
        for campaign, what in (("a", Begins.LEDGER), ("a", Begins.NOTHING), ("b", Begins.CAMPAIGN)):
            assert begins(where, campaign) is begins(where, campaign) is what
            caplog.clear()
            near_side.run(campaign=campaign)
            assert [record.getMessage() for record in caplog.records] == list(
                filter(None, [what.sentence(campaign)])
            )
        assert str(near_side.directory) not in caplog.text

    def test_means_that_stored_files_are_sent_again(self) -> None:
        assert "is sent again" in Begins.LEDGER.sentence("a")
        assert "in /mnt/ledger.sqlite" in Begins.LEDGER.sentence("a", "/mnt/ledger.sqlite")
        assert "Campaign trial is new" in Begins.CAMPAIGN.sentence("trial")

    def test_is_a_ledger_where_an_empty_file_lies_or_none(self, tmp_path: Path) -> None:
        """However it is named; none is made."""
        (tmp_path / "ledger.sqlite").touch()
        assert begins(tmp_path / "ledger.sqlite", "a") is Begins.LEDGER
        assert begins(f"sqlite:///{tmp_path}/other.sqlite", "a") is Begins.LEDGER
        assert os.listdir(tmp_path) == ["ledger.sqlite"]


class TestApiKey:
    """Under the same care as a token."""

    def test_signs_in_where_there_is_no_token(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """To the API alone: the storage host and the report never see it."""
        near_side.put("study/1", dicom("1.1"))
        far_side.api_keys.add("an-api-key")
        run = near_side.run(token="", api_key="an-api-key")
        assert run.statuses == {"study/1": "uploaded"}
        assert {request.headers["x-api-key"] for request in far_side.asked(Step.PRESIGN)} == {"an-api-key"}
        assert not [request for request in far_side.asked(Step.PRESIGN) if "Authorization" in request.headers]
        assert not [request for request in far_side.asked(Step.PUT) if "x-api-key" in request.headers]
        written = b"".join(path.read_bytes() for path in near_side.report_dir.iterdir())
        assert b"an-api-key" not in written
        told = [json.loads(line) for line in (near_side.report_dir / AUDIT_JSONL).read_text().splitlines()]
        assert told[1]["credential"].startswith("API key ")

    def test_goes_beside_a_token_and_never_to_the_token_endpoint(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        oauth2 = {"token_url": far_side.token_url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        named = {"api_key": "an-api-key", "api_key_header": "X-Platform-Key"}
        run = near_side.run(token="", **oauth2, **named)
        assert run.statuses == {"study/1": "uploaded"}
        for request in far_side.asked(Step.PRESIGN):
            assert request.headers["X-Platform-Key"] == "an-api-key"
            assert request.headers["Authorization"] in far_side.tokens
        assert not [request for request in far_side.asked(Step.TOKEN) if "X-Platform-Key" in request.headers]

    def test_in_a_file_may_be_renewed_meanwhile(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom
    ) -> None:
        """It is read for every request, and once more when it is refused."""
        near_side.put("study/1", dicom("1.1"))
        file = near_side.directory / "key"
        file.write_text("first\n")
        far_side.api_keys.add("first")

        def script(_request: Request) -> None:
            if len(far_side.asked(Step.PRESIGN)) == 2:
                far_side.api_keys = {"second"}
                file.write_text("second\n")

        far_side.script = script
        run = near_side.run(token="", api_key_file=file)
        assert run.statuses == {"study/1": "uploaded"}
        sent = [request.headers["x-api-key"] for request in far_side.asked(Step.PRESIGN)]
        assert sent == ["first", "first", "second"]

    def test_never_goes_through_a_redirect(self, near_side: NearSide, far_side: FarSide) -> None:
        with FarSide() as elsewhere, closing(Platform(near_side.settings(api_key="an-api-key"))) as client:
            moved = Reply(307, headers={"Location": f"{elsewhere.url}/upload/"})
            far_side.script = always(Step.PRESIGN, moved)
            with pytest.raises(UsageError):
                ask(client)
            assert elsewhere.requests == []

    @pytest.mark.parametrize("code", [401, 403])
    def test_that_is_refused_later_is_named_in_the_report(
        self, near_side: NearSide, far_side: FarSide, dicom: Dicom, code: int
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        far_side.script = once_begun(always(Step.PRESIGN, status(code)))
        run = near_side.run(api_key="an-api-key", retries=["forbidden=9"])
        assert run.exit_code == 4
        assert "DICOM_INGEST_TOKEN and DICOM_INGEST_API_KEY" in run.summary.problems[0]
        assert "an-api-key" not in run.summary.problems[0]
