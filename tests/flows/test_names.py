"""What flow runs are called: a typed name stays, one that Prefect made up gives way to ours."""

from pathlib import Path

import prefect
import pytest
from prefect.utilities.names import generate_slug

from flows.names import common_label, is_made_up, run_name
from tasks.core.models import StudyEntry


def asset(ui: str, pattern: str) -> str:
    """A script of Prefect's UI."""
    assets = Path(prefect.__file__).parent / "server" / ui / "assets"
    return "\n".join(path.read_text() for path in assets.glob(pattern))


class TestMadeUp:
    def test_is_every_name_that_prefects_server_gives(self) -> None:
        """By the very function that its server calls; thousands, for its vocabulary has odd corners."""
        assert [name for name in (generate_slug(2) for _ in range(5000)) if not is_made_up(name)] == []

    @pytest.mark.parametrize(
        "name",
        [
            "night-run",
            "second-half",
            "CT",
            "quick-light",
            "happy-whale-2",
            "Happy-Whale",
            "-",
            "happy-",
            "-whale",
        ],
    )
    def test_is_nothing_that_a_person_types(self, name: str) -> None:
        assert not is_made_up(name)


class TestRunName:
    def test_is_the_one_that_was_typed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", "night-run")
        assert run_name() == "night-run"
        assert run_name(3, 12) == "night-run"

    def test_stays_when_a_run_is_started_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Resumed, or retried: with the time at which it first began."""
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", "happy-whale")
        monkeypatch.setenv("DICOM_INGEST_CAMPAIGN", "spring")
        first = run_name()
        assert first.startswith("spring 2")
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", first)
        assert run_name() == first


def test_a_common_label_is_one_that_all_rows_have() -> None:
    def labelled(*labels: str) -> str:
        return common_label([StudyEntry(row, "/a", label=label) for row, label in enumerate(labels, 1)])

    assert labelled("CT", "CT") == "CT"
    assert labelled("CT", "MR") == ""
    assert labelled("CT", "") == ""
    assert labelled() == ""
