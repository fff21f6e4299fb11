"""What flow runs are called: a typed name stays, one that Prefect made up gives way to ours."""

import re
from pathlib import Path

import prefect
import pytest
from prefect.utilities.names import generate_slug

from flows.orchestration.run_names import common_label, is_made_up, run_name
from tasks.core.models import StudyEntry


def animals_of_the_form() -> list[str]:
    """Those that a script of Prefect's UI has, and takes for names."""
    assets = Path(prefect.__file__).parent / "server" / "ui-v2" / "assets"
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in assets.glob("deployment_*.js"))
    found = re.search(r"`(Aardvark\.[^`]*)`", scripts)
    assert found, "where the form takes its names from has changed"
    return [animal for animal in found[1].split(".") if len(animal) <= 6]


class TestMadeUp:
    def test_is_every_name_that_prefects_server_gives(self) -> None:
        """By the very function that its server calls; thousands, for its vocabulary has odd corners."""
        assert [name for name in (generate_slug(2) for _ in range(5000)) if not is_made_up(name)] == []

    def test_is_every_name_that_the_form_fills_in(self) -> None:
        """By the very list that its script has."""
        animals = animals_of_the_form()
        assert len(animals) > 300
        assert [animal for animal in animals if not is_made_up(f"Generic-{animal}")] == []

    @pytest.mark.parametrize(
        "name",
        [
            "night-run",
            "Small-Batch",
            "Practical-Test",
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
