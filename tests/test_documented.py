"""What scripts may rely on and what a person may be told is documented; this fails when something is not.

README.md is for a newcomer and stays short, deployments/README.md has everything,
tests/benchmarks/README.md the figures.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from prefect import settings
from prefect.analytics import is_telemetry_enabled

from flows.cli.commands import app
from tasks.comparison.instance_comparison import Difference
from tasks.comparison.verification_files import VERIFICATION_COLUMNS
from tasks.core.audit_chain import Event
from tasks.core.errors import IngestError
from tasks.core.models import ACCEPTABLE, Flaw, OnConflict, Reason, Status, Summary
from tasks.core.object_outcomes import After, ObjectReason, ObjectStatus
from tasks.core.object_rules import ObjectRule
from tasks.core.problems import CURES
from tasks.core.registration_rows import REGISTRATION_COLUMNS
from tasks.core.remedies import REMEDIES, SIGNS
from tasks.core.signs import InBucket, InRegistry, Retrieved, SafeToDelete, Sign
from tasks.core.stow_answers import IN_BOTH, NOT_NAMED, WARNINGS
from tasks.core.stow_profiles import OTHER, PROFILES, STANDARD
from tasks.core.verification_totals import Verification
from tasks.declaration import Declared, Use, declarations, variables
from tasks.known_settings import KINDS, VARIABLES
from tasks.report.directory import FILES, REPAIRS, VERIFICATION, VERIFICATION_CERTIFICATE_SIG
from tasks.report.studies_csv import STUDY_COLUMNS
from tasks.sandbox_settings import GatewaySettings, SandboxSettings
from tests import stopping_messages
from tests.report_columns_table import column_table

ROOT = Path(__file__).parents[1]
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "deployments/README.md", "tests/benchmarks/README.md")
}
README, OPERATIONS = PAGES["README.md"], PAGES["deployments/README.md"]
TEXT = "\n".join(PAGES.values())
CODE = " ".join(re.findall(r"`([^`\n]+)`", TEXT))
COMMANDS = [name for name in app if not name.startswith("-")]
MOST_LINES, LONGEST_LINE = 200, 140


def section(title: str) -> str:
    """What stands in deployments/README.md below a heading, until the next one of its rank or a higher."""
    rank, text = title.split(" ")[0], OPERATIONS.split(f"\n{title}\n", 1)[1]
    return re.split(rf"^#{{2,{len(rank)}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str, *headings: str) -> list[list[str]]:
    """The cells of each row of all tables whose first headings these are."""
    rows, is_in = [], False
    for line in text.splitlines():
        if not line.startswith("|"):
            is_in = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if tuple(cells[: len(headings)]) == headings:
            is_in = True
        elif is_in and set(cells[0]) != {"-"}:
            rows.append(cells)
    return rows


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


def typed_lines() -> Iterator[str]:
    """The lines of code blocks that begin with our command, without their comments."""
    for block in re.findall(r"^```\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL):
        yield from (line for line in block.splitlines() if line.startswith("dicom-ingest "))


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def says(quoted: str, key: str) -> bool:
    """Whether what a row quotes begins, or goes on, with these words of a message."""
    return f" {key} " in f" {' '.join(stopping_messages.words(quoted))} "


class TestReadme:
    def test_is_short(self) -> None:
        """One page for a newcomer; what is added later goes to deployments/README.md."""
        lines = README.splitlines()
        assert len(lines) <= MOST_LINES
        assert [line for line in lines if len(line) > LONGEST_LINE] == []

    def test_has_every_command(self) -> None:
        """As it is typed."""
        assert missing({f"dicom-ingest {name}" for name in COMMANDS}, README) == []

    def test_has_the_options_that_run_has(self) -> None:
        """What they mean to the letter, deployments/README.md says."""
        names = {name for argument in app["run"].assemble_argument_collection() for name in argument.names}
        assert missing({name for name in names if name.startswith("--")}, README) == []


class TestPages:
    @pytest.mark.parametrize("line", [*typed_lines()])
    def test_have_commands_that_can_be_typed(self, line: str) -> None:
        """Each is understood, with the options that it has."""
        tokens = shlex.split(line, comments=True)[1:]
        command, _, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        assert command.__name__.removesuffix("_") == tokens[0]

    @pytest.mark.parametrize("page", PAGES)
    def test_have_links_that_lead_somewhere(self, page: str) -> None:
        """To a file of the repository, and to a heading in it."""
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", PAGES[page]):
            path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
            assert path.is_file(), target
            assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), anchor

    def test_show_every_picture(self) -> None:
        """Or it need not be kept."""
        pictures = {path.name for path in (ROOT / "deployments/pictures").iterdir()}
        assert {name for name in pictures if f"pictures/{name})" not in TEXT} == set()


class TestEverything:
    def test_every_option_is_documented(self) -> None:
        """Those that commands share, and those of one alone."""
        assert missing(options(), CODE) == []

    def test_every_setting_has_a_row_and_every_row_is_a_setting(self) -> None:
        """Each option of a run is one, and secrets are settings only."""
        rows = table(section("## Settings"), "option", "setting")
        documented = [cell.strip("`") for _, cell, *_ in rows]
        not_here = {name for name in VARIABLES if "_SANDBOX_" in name} | {"DICOM_INGEST_HOME"}  # of a worker
        assert sorted(documented) == sorted(VARIABLES - not_here)

    @pytest.mark.parametrize(
        "kind", [kind for kind in KINDS if kind not in (SandboxSettings, GatewaySettings)]
    )
    def test_a_setting_is_explained_as_its_declaration_has_it(self, kind: type[Declared]) -> None:
        """Which is also its option's help and the form's; what more there is to say follows."""
        rows = {row[1].strip("`"): row for row in table(section("## Settings"), "option", "setting")}
        for variable, declared in zip(variables(kind), declarations(kind), strict=True):
            option, _, meaning = rows[variable]
            assert meaning.startswith(declared.setting.help)
            is_option = f"--{declared.name.replace('_', '-')}`" in option
            assert is_option == (Use.OPTION in declared.setting.use), variable
            if not (declared.default in (None, "", ()) or declared.default is False):
                assert f"Default `{declared.default}`." in meaning, variable

    def test_every_setting_of_the_sandbox_is_documented(self) -> None:
        """Which is how the gateway stands in front of another S3."""
        assert missing(variables(GatewaySettings), CODE) == []

    def test_how_telemetry_is_switched_off_at_a_server_of_ones_own_is_documented(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the names that the installed Prefect reads."""
        command = "PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 prefect server start"
        assert command in CODE
        assert settings.PREFECT_SERVER_ANALYTICS_ENABLED.name in command
        for environment, is_enabled in (({}, True), ({"DO_NOT_TRACK": "1"}, False)):
            monkeypatch.setattr("os.environ", environment)
            assert is_telemetry_enabled() is is_enabled

    def test_every_column_of_the_report_has_the_row_of_its_declaration(self) -> None:
        """In the same order; what more there is to say stands below."""
        assert column_table() in section("### Columns")

    def test_every_column_of_studies_is_documented(self) -> None:
        """What is said of a study."""
        assert missing(set(STUDY_COLUMNS), section("### Columns")) == []

    def test_every_file_of_a_report_is_documented(self) -> None:
        """By its name."""
        assert missing(set(FILES), section("## Report")) == []

    def test_every_field_of_the_summary_is_documented_in_its_order(self) -> None:
        """And all of them are where scripts expect them (DESIGN.md, section 6)."""
        rows = table(section("### Fields of summary.json"), "field", "what it is")
        documented = [name for cell, *_ in rows for name in re.findall(r"`(\w+)`", cell)]
        assert documented == [field.name for field in fields(Summary)]
        assert documented[:7] == [
            "run_id",
            "campaign",
            "api_host",
            "storage_hosts",
            "manifest_sha256",
            "root",
            "files",
        ]

    def test_every_event_of_the_trail_is_documented(self) -> None:
        rows = table(section("## Audit trail and certificate"), "event", "what it says")
        assert sorted(name for cell, *_ in rows for name in re.findall(r"`(\w+)`", cell)) == sorted(Event)

    def test_what_verify_writes_is_documented(self) -> None:
        """Each sign has its row, in what it says; each column, file and field its name, fields in order."""
        text = section("## Verify")
        signs = [row[0].strip("`") for row in table(text, "`sign`", "`verdict`")]
        assert sorted(signs) == sorted(Sign)
        assert (
            missing({*VERIFICATION_COLUMNS, *VERIFICATION, *REPAIRS} - {VERIFICATION_CERTIFICATE_SIG}, text)
            == []
        )
        assert missing({*InBucket, *InRegistry, *Retrieved, *SafeToDelete} - {""}, text) == []
        rows = table(text, "field of `verification.json`", "what it is")
        documented = [name for cell, *_ in rows for name in re.findall(r"`(\w+)`", cell)]
        assert documented == [field.name for field in fields(Verification)]

    def test_every_choice_of_an_option_is_documented(self) -> None:
        """Beside the option."""
        assert missing({*OnConflict, *ACCEPTABLE}, section("## Settings")) == []

    @pytest.mark.parametrize("code", sorted(exit_codes()))
    def test_every_exit_code_is_documented(self, code: int) -> None:
        """It begins a row of the table."""
        assert [row for row in table(section("## Exit codes"), "code") if row[0] == str(code)]


class TestIngest:
    def test_every_status_and_every_reason_has_a_row(self) -> None:
        rows = table(section("## Ingest"), "status", "reason")
        assert {row[0].strip("`") for row in rows if row[0]} == set(ObjectStatus)
        reasons = sorted(row[1].strip("`") for row in rows if row[1])
        assert reasons == sorted(set(ObjectReason) - {ObjectReason.NONE})

    def test_every_column_has_the_row_of_its_declaration(self) -> None:
        """In the same order."""
        rows = table(section("## Ingest"), "column", "holds")
        assert rows == [
            [f"`{name}`", str(column.kind), column.sentence] for name, column in REGISTRATION_COLUMNS.items()
        ]

    def test_every_rule_is_documented(self) -> None:
        assert missing(set(ObjectRule) | set(After), section("## Ingest")) == []


class TestTroubleshooting:
    def test_has_a_row_for_every_status(self) -> None:
        """With its cause and what to do."""
        rows = table(section("### A row of the report"), "status", "reason")
        assert {row[0].strip("`") for row in rows} == set(Status)
        assert all(cause and what_to_do for *_, cause, what_to_do in rows)

    def test_has_one_row_for_every_reason(self) -> None:
        """And none for what is no reason."""
        rows = table(section("### A row of the report"), "status", "reason")
        assert sorted(row[1].strip("`") for row in rows if row[1]) == sorted(set(Reason) - {Reason.NONE})

    def test_says_of_a_row_what_the_page_and_the_log_say(self) -> None:
        """They have one source."""
        rows = table(section("### A row of the report"), "status", "reason")
        documented = {(row[0].strip("`"), row[1].strip("`")): (row[3], row[4]) for row in rows}
        assert documented == {key: (known.cause, known.action) for key, known in REMEDIES.items()}

    def test_says_of_a_sign_what_the_page_says(self) -> None:
        rows = table(section("## Verify"), "`sign`", "`verdict`")
        documented = {row[0].strip("`"): (row[1], row[2]) for row in rows}
        assert documented == {sign: (known.cause, known.action) for sign, known in SIGNS.items()}

    def test_has_every_flaw_of_a_file_beside_its_reason(self) -> None:
        """In the words of the row's `detail`, and with what to do in those of the log."""
        rows = {
            row[1].strip("`"): row for row in table(section("### A row of the report"), "status", "reason")
        }
        for flaw in set(Flaw) - {Flaw.NONE}:
            assert f"`{flaw}`" in rows[flaw.reason][3]
        for reason, cure in CURES.items():
            assert cure in rows[reason][4].replace("`", "")

    def test_has_a_row_for_every_word_about_an_answer_to_stow_rs(self) -> None:
        """And none for a word that is not said."""
        rules = [*STANDARD, OTHER, *(rule for profile in PROFILES.values() for rule in profile.rules)]
        words = {rule.word for rule in rules} | {NOT_NAMED, IN_BOTH, *map("warning {}".format, WARNINGS)}
        rows = table(section("#### What a DICOMweb server answers"), "`detail`", "the server")
        assert {word for row in rows for word in re.findall(r"`([^`]+)`", row[0])} == words

    def test_says_what_may_differ_between_two_instances(self) -> None:
        """In the words of a row's `detail`."""
        assert missing(Difference, section("#### What a DICOMweb server answers")) == []

    def test_has_a_row_for_every_kind_of_dicomweb_server(self) -> None:
        """With the size of its pages."""
        text = section("#### What a DICOMweb server answers")
        rows = table(text, "server", "an instance that is there already")
        assert [row[0].strip("`") for row in rows] == [*PROFILES]
        for row, profile in zip(rows, PROFILES.values(), strict=True):
            assert f"pages of {profile.page_rows:,}" in row[2]
            assert ("asked for first" in row[1] or "the same" in row[1]) or not profile.keeps_old_silently

    @pytest.mark.parametrize("key", [*stopping_messages.messages()])
    def test_has_a_row_for_every_message_that_stops_a_run(self, key: str) -> None:
        """By its first words; `…` stands for what is put into it while it runs."""
        assert any(
            says(quoted, key) for quoted in re.findall(r"`([^`\n]+)`", section("## Troubleshooting"))
        ), f"{stopping_messages.messages()[key]} says something that has no row"

    def test_has_no_row_for_a_message_that_nothing_says(self) -> None:
        """Any more."""
        rows = table(section("## Troubleshooting"), "message", "exit")
        quoted = [each for row in rows for each in re.findall(r"`([^`]+)`", row[0])]
        assert [
            each for each in quoted if not any(says(each, key) for key in stopping_messages.messages())
        ] == []
