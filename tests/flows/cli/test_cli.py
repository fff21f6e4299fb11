"""The command line: what it says, what it exits with, and what becomes of a run that is interrupted."""

import hashlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.sandbox.sandbox import Sandbox
from flows.cli.__main__ import execute
from flows.cli.commands import app
from flows.cli.options import RunOptions
from flows.cli.termination import raise_if_terminated, terminated_like_interrupted
from tasks.core.errors import UsageError
from tasks.core.escape import escape
from tasks.core.retry import BUDGETS
from tasks.declaration import Use, declarations
from tasks.ingest_settings import IngestSettings
from tasks.known_settings import VARIABLES, unknown_variables
from tasks.ledger.earlier_runs import Begins
from tasks.postprocess_settings import ResultSettings
from tasks.report.reader import read_report, read_summary
from tasks.run.edges import Edges
from tasks.sandbox_settings import GatewaySettings
from tasks.settings import CommandSettings, MigrationSettings, Settings, load
from tasks.verify_settings import VerifySettings
from tests.far_side import TOKEN, FarSide, Request, Step, all_good, always, once_begun, status
from tests.flows.conftest import Objects, Plant, cut

pytestmark = pytest.mark.usefixtures("here")

COMMANDS = [name for name in app if not name.startswith("-")]


@pytest.fixture
def study(here: Path, plant: Plant) -> Path:
    plant(here / "study", 3)
    return here / "study"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a port that nobody listens on; no pause is made before it is asked again."""
    monkeypatch.setattr("tasks.run.edges.REAL", Edges(longest_pause_s=0.0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


class TestWhatIsWrong:
    """Exit code 2, a sentence that names it, nothing attempted and nothing written."""

    @pytest.mark.parametrize(
        ("command", "told"),
        [
            ("upload -p study", "--api-endpoint (DICOM_INGEST_API_ENDPOINT) is not given"),
            ("run manifest.csv", "--api-endpoint (DICOM_INGEST_API_ENDPOINT) is not given"),
            ("upload -u {api}", "--path"),
            ("upload -u {api} -p gone", "--path: there is no such file or directory"),
            ("upload -u {api} -p study --no-such-option", "--no-such-option"),
            ("upload -u {api} -p study more", "more"),
            ("uplaod -u {api} -p study", "uplaod"),
            ("upload -u http://api.example.org -p study", "--allow-http"),
            ("upload -u ftp://127.0.0.1 -p study", "neither https nor http"),
            ("upload -u api.example.org -p study", "is not a URL with a host"),
            ("upload -u https://me:hush@api.example.org -p study", "must not contain a user or password"),
            ("upload -u {api} -p study --parallel 0", "--parallel"),
            ("upload -u {api} -p study --parallel 21", "--parallel"),
            ("upload -u {api} -p study --parallel many", "--parallel"),
            ("upload -u {api} -p study --on-conflict guess", "--on-conflict"),
            ("upload -u {api} -p study --accept truncated,no_uid", "--accept"),
            ("upload -u {api} -p study --min-age -1", "--min-age"),
            ("upload -u {api} -p study --campaign a/b", "--campaign"),
            ("upload -u {api} -p study --ledger postgresql://me:hush@db/x", "password"),
            ("run gone.csv -u {api}", "The manifest can't be read"),
            ("run study -u {api}", "A manifest's name ends in one of"),
            ("run manifest.csv -u {api} --root gone", "--root is not a directory"),
            ("run faulty.csv -u {api}", "row 2, expected_instances"),
            ("manifest -o manifest.csv", "Name at least one directory"),
            ("manifest gone -o manifest.csv", "ROOT 1 is not a directory"),
            ("manifest study", "--output"),
            ("manifest study -o manifest.txt", "A manifest's name ends in one of"),
            ("migrate manifest.csv -u {api}", "--ledger: shards need one database that all workers reach"),
            ("sandbox --port 70000", "Port 70000 cannot be used"),
            ("sandbox --port many", "--port"),
            ("serve --port 99999", "--port has to be a number from 1 to 65535. Nothing was started."),
            ("serve --port 0", "--port has to be a number from 1 to 65535. Nothing was started."),
            ("serve --port -1", "--port has to be a number from 1 to 65535. Nothing was started."),
            ("serve --port many", "--port"),
            ("run manifest.csv -u {api}", "can't be reached"),
            ("upload -u {api} -p study", "can't be reached"),
        ],
    )
    def test_is_told(
        self,
        command: str,
        told: str,
        study: Path,
        here: Path,
        nobody: str,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """One line each; the value that was wrong may be a secret and is not repeated."""
        (here / "manifest.csv").write_text("study_dir\nstudy\n")
        (here / "faulty.csv").write_text("study_dir,expected_instances\nstudy,3\nstudy/..,-3\n")
        assert execute(command.format(api=nobody).split()) == 2
        out, err = capfd.readouterr()
        assert told in err
        assert out == ""
        assert "Traceback" not in err
        assert "hush" not in err
        assert not (here / "report").exists()
        assert (here / "manifest.csv").read_text() == "study_dir\nstudy\n"

    def test_a_migration_without_a_server_that_workers_have_is_told(
        self, study: Path, here: Path, nobody: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Before anything is asked of the ledger or the platform."""
        (here / "manifest.csv").write_text("study_dir\nstudy\n")
        ledger = "postgresql://127.0.0.1:1/nowhere"
        with temporary_settings(restore_defaults={PREFECT_API_URL}):
            assert execute(["migrate", "manifest.csv", "-u", nobody, "--ledger", ledger]) == 2
        assert "migrate needs the Prefect server that the workers have" in capsys.readouterr().err

    def test_no_command_is_answered_with_the_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing was asked for, and nothing is wrong."""
        assert execute([]) == 0
        assert "upload" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PARALLEL", "many"),
            ("API_ENDPOINT", "http://api.example.org"),
            ("TOKEN_URL", "https://id.example.org/token"),
            ("CA_BUNDLE", "gone.pem"),
            ("ALLOW_STORAGE_HOST", '["'),
        ],
    )
    def test_setting_is_named(
        self,
        name: str,
        value: str,
        study: Path,
        nobody: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """What came from the environment is told by the variable's name."""
        monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", nobody)
        monkeypatch.setenv(f"DICOM_INGEST_{name}", value)
        assert execute(["upload", "-p", str(study)]) == 2
        assert f"DICOM_INGEST_{name}" in capsys.readouterr().err

    @pytest.mark.parametrize("more", [[], ["--ledger", "ledger.sqlite"]])
    def test_report_directory_that_cannot_be_made_is_known_before_anything_is_sent(
        self,
        more: list[str],
        study: Path,
        here: Path,
        at_sandbox: None,
        objects: Objects,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A file is in its way; it makes no difference where the ledger is."""
        (here / "file").touch()
        before = objects()
        assert execute(["upload", "-p", str(study), "--report-dir", "file/report", *more]) == 2
        assert objects() == before
        assert "Traceback" not in capsys.readouterr().err


class TestRefusal:
    @pytest.fixture(params=["upload", "run"])
    def command(
        self, request: pytest.FixtureRequest, prefect_server: Path, study: Path, here: Path
    ) -> list[str]:
        """Both shells end alike."""
        (here / "manifest.csv").write_text("study_dir\nstudy\n")
        return {"upload": ["upload", "-p", str(study)], "run": ["run", "manifest.csv"]}[request.param]

    def test_by_the_token_endpoint_ends_with_4(
        self,
        command: list[str],
        at_sandbox: None,
        objects: Objects,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A wrong client secret ends the run before anything is sent; the sentence names the settings."""
        monkeypatch.setenv("DICOM_INGEST_CLIENT_SECRET", "hush-not-the-secret")
        before = objects()
        assert execute(command) == 4
        assert objects() == before
        assert not Path("report").exists()
        err = told_by_us(capsys.readouterr().err)
        assert "refused the client credentials" in err
        assert "_CLIENT_SECRET" in err
        assert "hush" not in err

    def test_of_a_token_ends_with_4(
        self,
        command: list[str],
        sandbox: Sandbox,
        here: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A static token that the API does not know: found before Prefect starts, and nothing is left."""
        monkeypatch.setenv("DICOM_INGEST_TOKEN", "hush-not-a-token")
        monkeypatch.setattr(
            "flows.cli.local_flow.run_flow", lambda *_, **__: pytest.fail("Prefect was started")
        )
        assert execute([*command, "-u", sandbox.api_url]) == 4
        assert not (here / "report").exists()
        err = told_by_us(capsys.readouterr().err)
        assert "credentials are refused" in err
        assert len(err.splitlines()) == 1
        assert "hush" not in err

    def test_of_a_token_later_ends_with_4_and_a_complete_report(
        self, command: list[str], far_side: FarSide, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each file has its row."""
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        far_side.script = once_begun(always(Step.PRESIGN, status(401)))
        assert execute([*command, "-u", far_side.url]) == 4
        assert [row["status"] for row in read_report(here / "report")] == ["not_attempted"] * 3
        assert read_summary(here / "report").exit_code == 4

    def test_is_looked_for_with_one_url_that_is_accounted_for(
        self, command: list[str], far_side: FarSide, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`run` asks before Prefect starts, and its flow does not ask again."""
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        assert execute([*command, "-u", far_side.url]) == 0
        assert len(far_side.asked(Step.PRESIGN)) == 3 + 1
        unused = set(read_summary(here / "report").unused_keys)
        assert unused == far_side.keys_handed_out - set(far_side.objects)
        assert len(unused) == 1

    def test_to_connect_is_told_in_one_sentence(
        self, command: list[str], nobody: str, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An API that is not there is a wrong setting; nothing was attempted, so there is no report."""
        assert execute([*command, "-u", nobody]) == 2
        err = told_by_us(capsys.readouterr().err)
        assert "can't be reached" in err
        assert len(err.splitlines()) == 1
        assert not (here / "report" / "report.csv").exists()


def told_by_us(err: str) -> str:
    """Without the log that Prefect's harness shows; `run` in a process of its own has none."""
    lines = err[err.index("dicom-ingest: ") :] if "dicom-ingest: " in err else err
    assert "Traceback" not in lines
    return lines


class TestDebug:
    @pytest.mark.parametrize("by_setting", [False, True])
    def test_shows_where_an_error_came_from_and_no_secret(
        self,
        by_setting: bool,
        study: Path,
        nobody: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The traceback is ours: same sentence, same exit code."""
        monkeypatch.setenv("DICOM_INGEST_TOKEN", "hush")
        if by_setting:
            monkeypatch.setenv("DICOM_INGEST_DEBUG", "1")
        flag = [] if by_setting else ["--debug"]
        assert execute(["upload", "-u", nobody, "-p", str(study), *flag]) == 2
        err = capsys.readouterr().err
        assert "Traceback" in err
        assert "can't be reached" in err
        assert "hush" not in err


class TestHelp:
    def test_lists_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each once and no other, what the exit codes mean, and where secrets go. It fits a terminal."""
        assert execute(["--help"]) == execute([]) == 0
        out = capsys.readouterr().out
        page = out[: len(out) // 2]
        assert page == out[len(page) :]
        listed = re.findall(r"^  ([a-z]+) {2,}\S", page, re.MULTILINE)
        assert sorted(listed) == sorted(COMMANDS)
        assert max(map(len, page.splitlines())) < 80
        assert "Exit codes: 0" in out
        assert "DICOM_INGEST_TOKEN" in out

    def test_is_there_for_who_asks_in_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert execute(["help"]) == execute(["help", "audit"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("Usage: dicom-ingest COMMAND")
        assert "Usage: dicom-ingest audit" in out

    def test_says_which_version_this_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert execute(["--version"]) == 0
        assert capsys.readouterr().out.strip() == version("dicom-ingest")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_of_a_command_lists_its_options(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Every one that it takes."""
        assert execute([command, "--help"]) == 0
        out = capsys.readouterr().out
        names = [name for argument in app[command].assemble_argument_collection() for name in argument.names]
        assert [name for name in names if name.startswith("--") and name not in out] == []


class TestHelpOfACommand:
    def test_shows_the_default_of_each_option_that_has_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The settings' own."""
        has_one = {
            each.name: str(each.default)
            for each in declarations(Settings)
            if Use.OPTION in each.setting.use
            and not isinstance(each.default, bool)
            and each.default not in (None, "", ())
        }
        assert has_one == {
            "report_dir": "report",
            "campaign": "default",
            "order": "manifest",
            "parallel": "20",
            "on_conflict": "report",
            "min_age": "0",
            "dead_after": "180",
            "max_outage": "3600",
        }
        assert execute(["upload", "--help"]) == 0
        out = capsys.readouterr().out
        texts = [" ".join(text.replace("│", " ").split()) for text in re.split(r"^│ (?=-)", out, flags=re.M)]
        for name, default in has_one.items():
            (text,) = (text for text in texts if text.startswith(f"--{name.replace('_', '-')} "))
            assert f"[default: {default}]" in text
        assert "default: False" not in out

    def test_shows_the_kinds_of_retries(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each with what it is unless it is given."""
        page = help_of("run", capsys)
        assert [kind for kind, count in BUDGETS.items() if f"{kind}={count}" not in page] == []

    @pytest.mark.parametrize("command", COMMANDS)
    def test_tells_of_secrets_where_there_are_any(
        self, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The sandbox takes none; what an exit code of a run means, commands say that end with it."""
        page = help_of(command, capsys)
        takes_secrets = ("plan", "upload", "run", "migrate", "serve", "ingest", "verify", "retry")
        assert ("Secrets" in page) == (command in takes_secrets)
        ends_like_a_run = ("upload", "run", "migrate", "report", "ingest", "retry", "resolve")
        assert ("Exit codes: 0" in page) == (command in ends_like_a_run)


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """On one line, without the frames."""
    assert execute([command, "--help"]) == 0
    return " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().out).split())


class TestImports:
    @pytest.mark.processes
    def test_help_imports_nothing_that_is_slow(self) -> None:
        """It answers at once; that of a command costs the library that parses it."""
        slow = {"prefect", "pydantic", "httpx", "pandas", "pyarrow", "sqlalchemy"}
        _, modules = imported_by("--help")
        assert not {*slow, "cyclopts"} & modules
        _, modules = imported_by("upload", "--help")
        assert not slow & modules

    def test_upload_imports_what_it_needs(self, study: Path, at_sandbox: None) -> None:
        """Tables not before the report is written; what alters a ledger, or is of another's, not at all."""
        before_report, modules = imported_by("upload", "-p", str(study))
        assert "tasks.upload.uploader" in before_report
        assert not {"pandas", "pyarrow"} & before_report
        assert not {"prefect", "boto3", "alembic", "cryptography", "psycopg"} & modules
        assert "sqlalchemy.dialects.postgresql" not in modules
        assert {name for name in modules if name.startswith("awscrt")} == {"awscrt", "awscrt.checksums"}


def imported_by(*arguments: str) -> tuple[set[str], set[str]]:
    """The modules of a process that runs a command: when its report is begun, and at its end."""
    script = """if True:
        import json, sys
        before_report = []
        def watch(event, details):
            if event == "open" and not before_report and str(details[0]).endswith(".report.csv.tmp"):
                before_report.extend(sys.modules)
        sys.addaudithook(watch)
        from flows.cli.__main__ import execute
        code = execute(sys.argv[1:])
        print(json.dumps([code, before_report, list(sys.modules)]))
    """
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    code, before_report, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    return set(before_report), set(modules)


# An option on the command line, and the same as a setting.
SAME = [
    ("--parallel 3", "PARALLEL", "3"),
    ("--bandwidth 08:00,20M;19:00,off", "BANDWIDTH", "08:00,20M;19:00,off"),
    ("--campaign trial-7", "CAMPAIGN", "trial-7"),
    ("--ledger below/ledger.sqlite", "LEDGER", "below/ledger.sqlite"),
    ("--report-dir below/report", "REPORT_DIR", "below/report"),
    ("--root below", "ROOT", "below"),
    ("--rehash", "REHASH", "true"),
    ("--trust-ctime", "TRUST_CTIME", "true"),
    ("--no-trust-ctime", "TRUST_CTIME", "false"),
    ("--archives", "ARCHIVES", "true"),
    ("--on-conflict upload", "ON_CONFLICT", "upload"),
    ("--accept truncated,malformed", "ACCEPT", "malformed,truncated"),
    ("--same-platform", "SAME_PLATFORM", "true"),
    ("--min-age 2.5", "MIN_AGE", "2.5"),
    ("--window Sat00:00-24:00UTC", "WINDOW", "Sat00:00-24:00UTC"),
    ("--max-files 100", "MAX_FILES", "100"),
    ("--max-duration 1h30m", "MAX_DURATION", "1h30m"),
    ("--order newest", "ORDER", "newest"),
    ("--dead-after 90", "DEAD_AFTER", "90"),
    ("--max-outage 60", "MAX_OUTAGE", "60"),
    ("--retries network=3 --retries server=1", "RETRIES", '["network=3", "server=1"]'),
    ("--allow-storage-host *.a --allow-storage-host b", "ALLOW_STORAGE_HOST", '["*.a", "b"]'),
    ("--allow-http -u http://api.example.org", "ALLOW_HTTP", "true"),
    ("-u https://api.example.org", "API_ENDPOINT", "https://api.example.org"),
    ("--api-endpoint https://api.example.org", "API_ENDPOINT", "https://api.example.org"),
]


class TestSettings:
    @pytest.mark.parametrize(("options", "name", "value"), SAME)
    def test_of_the_environment_mean_what_options_mean(
        self, options: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """DICOM_INGEST_<NAME> for each of them."""
        given = settings_of("upload", "-p", "x", *options.split())
        if "-u" not in options.split() or name != "API_ENDPOINT":
            monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", given.api_endpoint)
        monkeypatch.setenv(f"DICOM_INGEST_{name}", value)
        assert load() == given

    def test_cover_every_option(self) -> None:
        """A new option is a new line above."""
        flags = {word for options, _, _ in SAME for word in options.split() if word.startswith("--")}
        names = {f"--{name.replace('_', '-')}" for name in RunOptions.__dataclass_fields__}
        of_every_command = {each.name.replace("_", "-") for each in declarations(CommandSettings)}
        assert names - flags == {f"--{name}" for name in of_every_command}

    def test_an_option_wins_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also when it says what the default says."""
        monkeypatch.setenv("DICOM_INGEST_PARALLEL", "3")
        assert settings_of("upload", "-p", "x", "--parallel", "20").parallel == 20

    def test_have_one_digest_whether_a_default_is_given_or_not(self) -> None:
        """45, as text, is the default's 45.0."""
        given = settings_of("upload", "-p", "x", "--dead-after", "180")
        assert given.digest == settings_of("upload", "-p", "x", "--parallel", "20").digest

    def test_run_and_upload_take_the_same(self) -> None:
        """What they share is shared."""
        arguments = "--rehash", "--min-age", "3", "--parallel", "2"
        assert settings_of("upload", "-p", "x", *arguments) == settings_of("run", "x.csv", *arguments)


class TestApiEndpoint:
    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            ("https://api.example.com", "https://api.example.com"),
            ("https://api.example.com/", "https://api.example.com"),
            ("https://api.example.com/upload", "https://api.example.com"),
            ("https://api.example.com/upload/", "https://api.example.com"),
            ("https://api.example.com/v1/upload//", "https://api.example.com/v1"),
            ("https://api.example.com/v1/upload/upload/", "https://api.example.com/v1/upload"),
            ("https://api.example.com/bulk-upload/", "https://api.example.com/bulk-upload"),
            ("https://upload/upload/", "https://upload"),
            ("https://upload", "https://upload"),
        ],
    )
    def test_may_be_what_people_copy_from_the_platforms_pages(self, given: str, meant: str) -> None:
        """The address of GET /upload/ itself: one such segment at the end is taken off."""
        assert settings_of("upload", "-p", "x", "-u", given).api_endpoint == meant

    @pytest.mark.parametrize("given", ["https://api.example.com/?key=hush", "https://api.example.com#hush"])
    def test_takes_no_query(self, given: str) -> None:
        """It would be lost on the way, and it may be a secret."""
        with pytest.raises(UsageError, match=r"--api-endpoint .* must not contain a query") as raised:
            settings_of("upload", "-p", "x", "-u", given)
        assert "hush" not in str(raised.value)

    def test_with_upload_is_the_same_platform(
        self, study: Path, here: Path, far_side: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        assert execute(["upload", "-p", "study", "-u", f"{far_side.url}/upload/"]) == 0
        assert execute(["upload", "-p", "study", "-u", far_side.url]) == 0
        assert read_summary(here / "report").by_status == {"already_uploaded": 3}


class TestApiKey:
    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"API_KEY": "hush", "API_KEY_FILE": "key"}, "DICOM_INGEST_API_KEY and API_KEY_FILE"),
            ({"API_KEY": "hush\nhush"}, "DICOM_INGEST_API_KEY is not one line of ASCII text"),
            ({"API_KEY": "hush\u00e9"}, "DICOM_INGEST_API_KEY is not one line of ASCII text"),
            *(
                ({"API_KEY": "hush", "API_KEY_HEADER": header}, "DICOM_INGEST_API_KEY_HEADER is no name")
                for header in (
                    "",
                    "x key",
                    "x:key",
                    "Authorization",
                    "host",
                    "Content-MD5",
                    "Transfer-Encoding",
                )
            ),
        ],
    )
    def test_that_cannot_be_sent_is_a_wrong_setting(
        self,
        settings: dict[str, str],
        told: str,
        study: Path,
        nobody: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"DICOM_INGEST_{name}", value)
        assert execute(["upload", "-p", "study", "-u", nobody]) == 2
        err = capsys.readouterr().err
        assert told in err
        assert "hush" not in err

    def test_is_part_of_no_digest_and_of_the_credentials_name(self) -> None:
        """As a token."""
        one, other = (load(api_endpoint="https://a.example.org", api_key=key) for key in ("x", "y"))
        without = load(api_endpoint="https://a.example.org")
        assert one.digest == other.digest == without.digest
        assert one.credential != other.credential
        assert one.credential.startswith("API key ")
        both = load(api_endpoint="https://a.example.org", api_key="x", token="t").credential
        assert re.fullmatch("token [0-9a-f]{16} and API key [0-9a-f]{16}", both)


class TestUnknownVariable:
    @pytest.mark.parametrize("command", ["upload -p study", "manifest . -o manifest.csv", "audit gone"])
    def test_is_warned_of_with_the_nearest_name(
        self,
        command: str,
        study: Path,
        far_side: FarSide,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """By every command, in one line, once; it changes nothing, and its value is not shown."""
        code = {"upload": 0, "manifest": 0, "audit": 2}[command.split()[0]]
        monkeypatch.setenv("DICOM_INGEST_API_ENDPOINT", far_side.url)
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)
        monkeypatch.setenv("DICOM_INGEST_PARALEL", "hush")
        assert execute(command.split()) == code
        err = capsys.readouterr().err
        assert err.count("DICOM_INGEST_PARALEL is no setting and changes nothing") == 1
        assert "the nearest one is DICOM_INGEST_PARALLEL." in err
        assert "hush" not in err

    def test_is_one_that_an_earlier_version_had(self) -> None:
        """Whoever has set it is told that it changes nothing."""
        (sentence,) = unknown_variables(["DICOM_INGEST_PROCESSES"])
        assert sentence == (
            "DICOM_INGEST_PROCESSES is no setting any more and changes nothing: one process sends all files. "
            "Leave it out."
        )

    def test_is_none_of_those_that_something_reads(
        self, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Settings of a run, of the sandbox, of the deployments, and of our own processes."""
        kinds = (Settings, MigrationSettings, IngestSettings, VerifySettings, ResultSettings)
        names = [each.name for kind in kinds for each in declarations(kind)]
        names += [f"sandbox_{each.name}" for each in declarations(GatewaySettings)]
        names += [each.name for each in declarations(CommandSettings)]
        names += ["home", "manifest_output", "manifest_scan", "serve_port"]
        names += ["demo_directory", "demo_slices"]
        names += ["plan_full", "plan_files_per_study", "plan_rate"]
        assert {f"DICOM_INGEST_{name.upper()}" for name in names} == VARIABLES
        assert unknown_variables([*VARIABLES, "dicom_ingest_token", "PATH", "DICOM_INGEST"]) == []

    def test_is_written_so_that_it_can_not_paint_a_terminal(self) -> None:
        (sentence,) = unknown_variables(["DICOM_INGEST_\x1b[31m"])
        assert "\x1b" not in sentence


@pytest.mark.usefixtures("at_sandbox")
class TestFirstLine:
    """A run that begins a new ledger says so, and what that means."""

    def test_of_upload_says_what_begins(
        self, study: Path, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = {}
        for campaign in ("a", "a", "b"):
            assert execute(["upload", "-p", "study", "--campaign", campaign]) == 0
            first.setdefault(campaign, []).append(capsys.readouterr().err.splitlines()[0])
        assert first["a"][0].startswith(f"A new ledger begins in {here / 'report' / 'ledger.sqlite'}: ")
        assert first["a"][0].endswith("is sent again.")
        assert "begins" not in first["a"][1]
        assert first["b"] == [Begins.CAMPAIGN.sentence("b")]

    def test_of_run_says_so_before_prefect_starts_and_in_its_log_without_the_path(
        self,
        study: Path,
        here: Path,
        prefect_server: Path,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (here / "manifest.csv").write_text("study_dir\nstudy\n")
        logged = logging.getLogger("prefect.flow_runs")
        with caplog.at_level(logging.INFO, "prefect.flow_runs"):
            logged.addHandler(caplog.handler)
            try:
                assert execute(["run", "manifest.csv"]) == 0
                assert execute(["run", "manifest.csv"]) == 0
            finally:
                logged.removeHandler(caplog.handler)
        err = capsys.readouterr().err
        assert err.splitlines()[0].startswith(f"A new ledger begins in {here / 'report' / 'ledger.sqlite'}: ")
        assert err.count(f"A new ledger begins in {here}") == 1
        told = [record.getMessage() for record in caplog.records if "ledger begins" in record.getMessage()]
        assert set(told) == {Begins.LEDGER.sentence("default")}
        assert str(here) not in "".join(told)


def settings_of(*arguments: str) -> Settings:
    """What a command line amounts to."""
    _, bound, _ = app.parse_args(arguments, exit_on_error=False)
    options: RunOptions = bound.arguments["options"]
    return load(**{"api_endpoint": "https://api.example.org", **options.given(Settings)})


@pytest.mark.usefixtures("at_sandbox")
class TestUpload:
    def test_lists_each_file_with_key_and_outcome(
        self, study: Path, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One line a file, also for a name with a line break in it; the summary is on standard error."""
        (study / "two\nlines.txt").write_text("a text\n")
        assert execute(["upload", "-p", str(study), "--list"]) == 0
        out, err = capsys.readouterr()
        assert out.splitlines() == [
            f"{escape(row['path'])}\t{row['key'] or '-'}\t{row['status']} {row['reason']}".rstrip()
            for row in read_report(here / "report")
        ]
        assert len(out.splitlines()) == 4
        assert "not_dicom text" in out
        assert "4 files: 3 uploaded, 1 not_dicom" in err
        assert str(here / "report" / "report.csv") in err

    def test_names_no_file_unless_asked(self, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Names may be patients'."""
        assert execute(["upload", "-p", str(study)]) == 0
        out, err = capsys.readouterr()
        assert out == ""
        assert "IM0001" not in err

    def test_of_one_file_takes_no_other(
        self, study: Path, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The report has its one row, and the study is complete with it: one of each is said."""
        assert execute(["upload", "-p", "study/IM0002.dcm"]) == 0
        err = capsys.readouterr().err
        assert "1 file: 1 uploaded" in err
        assert "1 of 1 study complete" in err
        (row,) = read_report(here / "report")
        assert (row["path"], row["status"]) == (str(study / "IM0002.dcm"), "uploaded")

    def test_again_sends_nothing(self, study: Path, here: Path, objects: Objects) -> None:
        """Every file is known from the first run."""
        assert execute(["upload", "-p", str(study)]) == 0
        before = objects()
        assert execute(["upload", "-p", str(study)]) == 0
        assert objects() == before
        assert read_summary(here / "report").by_status == {"already_uploaded": 3}

    def test_ends_with_1_when_a_file_could_not_be_sent(self, study: Path, here: Path) -> None:
        """The report says which."""
        cut(study / "IM0003.dcm")
        assert execute(["upload", "-p", str(study)]) == 1
        assert read_summary(here / "report").by_status == {"uploaded": 2, "invalid": 1}

    def test_stores_the_very_bytes(self, study: Path, here: Path, sandbox: Sandbox) -> None:
        """Object and file are equal, and so is the digest in the report."""
        execute(["upload", "-p", str(study)])
        for row in read_report(here / "report"):
            stored = sandbox.object_path(row["key"]).read_bytes()
            assert stored == Path(row["path"]).read_bytes()
            assert row["sha256"] == hashlib.sha256(stored).hexdigest()


@pytest.mark.usefixtures("at_sandbox")
class TestNoReader:
    """`upload --list | head`: what has read enough goes away; the run has its report and its exit code."""

    @pytest.mark.parametrize("code", [0, 1])
    def test_of_the_list_is_no_fault(self, code: int, study: Path, here: Path) -> None:
        """Not a word about it, also when more is to be said than a buffer holds."""
        for number in range(200):
            (study / f"{number:03}.txt").write_text("a text\n")
        if code:
            cut(study / "IM0003.dcm")
        done = without_reader("stdout", "upload", "-p", str(study), "--list")
        assert done.returncode == read_summary(here / "report").exit_code == code
        assert "\n203 files: " in done.stderr
        assert done.stderr.splitlines()[-1] == f"Report: {here / 'report' / 'report.csv'}"
        assert len(done.stderr.splitlines()) < 10

    def test_of_what_is_said_meanwhile_stops_no_run(self, study: Path, here: Path) -> None:
        """`2>&1 | head`."""
        done = without_reader("stderr", "upload", "-p", str(study), "--list")
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
        assert len(list(read_report(here / "report"))) == 3

    @pytest.mark.parametrize("arguments", [["--help"], ["upload", "--help"], ["demo", "--slices", "1"]])
    def test_of_anything_else_is_no_defect_either(self, arguments: list[str]) -> None:
        assert without_reader("stdout", *arguments).stderr == ""


class TestClosedStreams:
    """Whoever starts us may have closed them, as some service managers do."""

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_are_no_defect(self, closed: str, study: Path, here: Path, far_side: FarSide) -> None:
        """The run has its report, and its exit code."""
        command = [
            sys.executable,
            "-m",
            "flows.cli",
            "upload",
            "-p",
            str(study),
            "-u",
            far_side.url,
            "--list",
        ]
        done = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", *command],
            env=os.environ | {"DICOM_INGEST_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert len(list(read_report(here / "report"))) == 3
        assert done.stdout.count("uploaded") == (0 if " >&-" in f" {closed}" else 3)

    def test_are_none_for_help_either(self) -> None:
        command = ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "flows.cli", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def without_reader(stream: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of which one of the streams is a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            text=True,
            timeout=120,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer},
        )
    finally:
        os.close(writer)


class TestRun:
    def test_ends_like_upload(
        self,
        study: Path,
        here: Path,
        prefect_server: Path,
        at_sandbox: None,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Exit code, summary and report are the same; options reach the flow."""
        (here / "manifest.csv").write_text("study_dir,expected_instances\nstudy,3\n")
        assert execute(["run", "manifest.csv", "--report-dir", "proof", "--campaign", "trial"]) == 0
        err = capsys.readouterr().err
        assert "3 files: 3 uploaded" in err
        assert "1 of 1 study complete" in err
        assert read_summary(here / "proof").campaign == "trial"
        (here / "manifest.csv").write_text("study_dir,expected_instances\nstudy,4\n")
        assert execute(["run", "manifest.csv", "--report-dir", "proof", "--campaign", "trial"]) == 1


class TestManifest:
    def test_is_written_for_an_archive(
        self, here: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One row per study directory, and only the count is said."""
        plant(here / "archive" / "one", 2)
        (here / "archive" / "two").mkdir()
        (here / "archive" / "two" / "notes.txt").write_text("a text\n")
        assert execute(["manifest", "archive", "-o", "manifest.csv"]) == 0
        rows = (here / "manifest.csv").read_text().splitlines()
        assert rows == ["study_dir", str(here / "archive" / "one"), str(here / "archive" / "two")]
        assert "2 study directories" in capsys.readouterr().err
        assert execute(["manifest", "archive/one", "-o", "manifest.csv"]) == 0
        assert "1 study directory found" in capsys.readouterr().err


def test_a_command_that_is_interrupted_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("deployments.sandbox.demo.run_demo", interrupted)
    assert execute(["demo"]) == 130
    assert "The same command goes on from here" in capsys.readouterr().err


def test_sigterm_is_not_lost_where_python_drops_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a callback of garbage collection, as imports make thousands: it is found at the next look."""

    class Garbage:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    with terminated_like_interrupted():
        raise_if_terminated()
        Garbage()
        assert len(dropped) == 1
        with pytest.raises(KeyboardInterrupt):
            raise_if_terminated()
    with terminated_like_interrupted():
        raise_if_terminated()


@pytest.mark.processes
class TestInterrupted:
    """Exit code 130 and a complete report; the same command goes on from there."""

    FILES = 120

    @pytest.fixture(autouse=True)
    def credentials(self, nobody_elses_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DICOM_INGEST_TOKEN", TOKEN)

    @pytest.fixture
    def slow_far_side(self, far_side: FarSide) -> FarSide:
        """Every PUT takes a while; from the second round on so long that the signal comes before the end."""

        def wait(request: Request) -> None:
            if request.step is Step.PUT:
                time.sleep(0.3 if request.n <= 20 else 3)

        far_side.script = wait
        return far_side

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_upload(self, number: signal.Signals, here: Path, plant: Plant, slow_far_side: FarSide) -> None:
        """Ctrl-C, or a machine that shuts down."""
        plant(here / "study", self.FILES)
        command = ["upload", "-p", "study", "-u", slow_far_side.url]
        self.assert_goes_on(command, number, slow_far_side, here / "report")

    def test_run(
        self,
        here: Path,
        plant: Plant,
        slow_far_side: FarSide,
        prefect_server: Path,
        prefect_home: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """At a terminal, Ctrl-C reaches Prefect's embedded server too; the run ends in order all the same."""
        monkeypatch.setenv("PREFECT_HOME", str(prefect_home))
        plant(here / "study", self.FILES)
        (here / "manifest.csv").write_text("study_dir\nstudy\n")
        command = ["run", "manifest.csv", "-u", slow_far_side.url]
        self.assert_goes_on(command, signal.SIGINT, slow_far_side, here / "report")

    def assert_goes_on(
        self, command: list[str], number: signal.Signals, far_side: FarSide, report: Path
    ) -> None:
        """Interrupted, the report is complete; done again, it is good, and nothing was sent twice."""
        code, err = interrupted(command, number, far_side)
        assert (code, "Traceback" in err) == (130, False)
        assert read_summary(report).exit_code == 130
        self.assert_complete(list(read_report(report)), far_side)
        sent = far_side.keys_handed_out
        far_side.script = all_good
        assert execute(command) == 0
        assert read_summary(report).by_status.keys() == {"uploaded", "already_uploaded"}
        self.assert_nothing_twice(list(read_report(report)), sent, far_side)

    def assert_complete(self, rows: list[dict[str, str]], far_side: FarSide) -> None:
        """Each file has its row, and `uploaded` is what is stored."""
        assert len(rows) == self.FILES
        uploaded = {row["key"] for row in rows if row["status"] == "uploaded"}
        assert uploaded <= far_side.objects.keys()
        others = {(row["status"], row["reason"]) for row in rows if row["status"] != "uploaded"}
        assert ("not_attempted", "stopped") in others
        assert others <= {("not_attempted", "stopped"), ("failed", "interrupted")}

    def assert_nothing_twice(
        self, rows: list[dict[str, str]], sent_before: set[str], far_side: FarSide
    ) -> None:
        """What the first run stored has its key; each key got one body, and none is unaccounted for."""
        assert len(rows) == self.FILES
        kept = {row["key"] for row in rows if row["status"] == "already_uploaded"}
        assert kept <= sent_before
        assert {len(bodies) for bodies in far_side.objects.values()} == {1}
        told = (f"{row['key']};{row['superseded_keys']}".split(";") for row in rows)
        unused = far_side.keys_handed_out - set().union(*told)
        assert len(unused) == 2  # of each run's start
        assert not unused & set(far_side.objects)


def interrupted(command: list[str], number: signal.Signals, far_side: FarSide) -> tuple[int, str]:
    """Signals the command's process group, as a terminal does, once PUTs are under way."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *command],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert far_side.wait_for_puts(3, timeout_s=240)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=240)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, err
