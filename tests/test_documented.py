"""Whatever other people's scripts may rely on is in README.md; this fails when something is not."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from prefect import settings
from prefect.analytics import is_telemetry_enabled

from deployments.sandbox.gateway.app import Settings
from flows.cli.commands import app
from tasks.core.errors import IngestError
from tasks.core.models import REPORT_COLUMNS, OnConflict, Reason, Status
from tasks.report.directory import FILES, STUDY_COLUMNS
from tasks.settings import VARIABLES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
TABLE_ROWS = [line for line in README.splitlines() if line.startswith("|")]
CODE = " ".join(re.findall(r"`([^`\n]+)`", README))
COMMANDS = [name for name in app if not name.startswith("-")]


def options() -> set[str]:
    """Of every command, by their long names and their letters."""
    arguments = [argument for name in COMMANDS for argument in app[name].assemble_argument_collection()]
    return {name for argument in arguments for name in argument.names if name.startswith("-")}


def exit_codes() -> set[int]:
    """0, 1 and those that an error ends with."""
    kinds, codes = [IngestError], {0, 1}
    while kinds:
        kind = kinds.pop()
        codes.add(kind.exit_code)
        kinds += kind.__subclasses__()
    return codes


def missing(words: Iterable[str], text: str) -> list[str]:
    """The words that the text does not have as whole words."""
    return sorted(word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text))


def test_every_command_is_documented() -> None:
    """As it is typed."""
    assert missing({f"dicom-ingest {name}" for name in COMMANDS}, README) == []


def test_every_option_is_documented() -> None:
    """Those that commands share, and those of one alone."""
    assert missing(options(), CODE) == []


def test_every_setting_is_documented() -> None:
    """Each option of a run is one, and secrets are settings only."""
    assert missing({name for name in VARIABLES if "_SANDBOX_" not in name}, CODE) == []


def test_every_setting_of_the_sandbox_is_documented() -> None:
    """Which is how the gateway stands in front of another S3."""
    assert missing({f"DICOM_INGEST_SANDBOX_{name.upper()}" for name in Settings.model_fields}, CODE) == []


def test_how_telemetry_is_switched_off_at_a_server_of_ones_own_is_documented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the names that the installed Prefect heeds."""
    command = "PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 prefect server start"
    assert command in CODE
    assert settings.PREFECT_SERVER_ANALYTICS_ENABLED.name in command
    for environment, is_enabled in (({}, True), ({"DO_NOT_TRACK": "1"}, False)):
        monkeypatch.setattr("os.environ", environment)
        assert is_telemetry_enabled() is is_enabled


def test_every_column_is_documented() -> None:
    """Of the report, and of what is said of a study."""
    assert missing(set(REPORT_COLUMNS), CODE) == []
    assert missing(set(STUDY_COLUMNS), README) == []


def test_every_file_of_a_report_is_documented() -> None:
    """By its name."""
    assert missing(set(FILES), README) == []


@pytest.mark.parametrize("status", Status)
def test_every_status_is_documented(status: Status) -> None:
    """It begins a row of a table."""
    assert [row for row in TABLE_ROWS if re.match(rf"\|\s*`?{status}`?\s*\|", row)]


def test_every_reason_is_documented() -> None:
    """In the table of statuses; so are the choices that an option has."""
    assert missing(set(Reason) - {Reason.NONE}, "\n".join(TABLE_ROWS)) == []
    assert missing(set(OnConflict), "\n".join(TABLE_ROWS)) == []


@pytest.mark.parametrize("code", sorted(exit_codes()))
def test_every_exit_code_is_documented(code: int) -> None:
    """It begins a row of a table."""
    assert [row for row in TABLE_ROWS if re.match(rf"\|\s*`?{code}`?\s*\|", row)]
