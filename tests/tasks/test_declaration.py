"""A declared setting: where its value comes from, and what is said of a wrong one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from tasks.core.errors import UsageError
from tasks.declaration import Declared, Setting, declarations, load_as, variables


def shout(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text.upper()


@dataclass(frozen=True, kw_only=True)
class Cake(Declared):
    """Settings of nothing in particular."""

    prefix = "TEST_OF_SETTINGS_"

    layers: Annotated[int, Setting("How many.", limits={"ge": 1, "le": 9})] = 3
    name: Annotated[str, Setting("On the icing.", convert=shout)] = "plain"
    toppings: Annotated[tuple[str, ...], Setting("From the bottom up.")] = ()
    recipe: Annotated[Path | None, Setting("Where it is written.")] = None
    baker: Annotated[str, Setting("Who is to blame.")]

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if self.toppings and self.layers > 5:
            yield "TOPPINGS are too much for so many LAYERS"


@pytest.fixture(autouse=True)
def baker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_OF_SETTINGS_BAKER", "nobody")


class TestPrecedence:
    def test_of_what_is_given_then_the_environment_then_the_default(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert load_as(Cake).layers == 3
        monkeypatch.setenv("TEST_OF_SETTINGS_LAYERS", "4")
        assert load_as(Cake).layers == 4
        assert load_as(Cake, layers=3).layers == 3
        assert load_as(Cake, layers=None).layers == 4

    def test_is_the_same_for_a_variable_in_small_letters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("test_of_settings_layers", "4")
        assert load_as(Cake).layers == 4


class TestEnvironment:
    def test_has_lists_in_json(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEST_OF_SETTINGS_TOPPINGS", '["cream", "cherry, red"]')
        assert load_as(Cake).toppings == ("cream", "cherry, red")

    def test_of_null_is_an_empty_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEST_OF_SETTINGS_TOPPINGS", "null")
        assert load_as(Cake).toppings == ()

    @pytest.mark.parametrize("text", ["cream", '["', '"cream"', "{}", ""])
    def test_with_another_list_is_wrong(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEST_OF_SETTINGS_TOPPINGS", text)
        with pytest.raises(UsageError, match="TEST_OF_SETTINGS_TOPPINGS is not a JSON list"):
            load_as(Cake)

    def test_gives_each_its_type(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEST_OF_SETTINGS_RECIPE", "book.txt")
        monkeypatch.setenv("TEST_OF_SETTINGS_NAME", "sponge")
        cake = load_as(Cake)
        assert (cake.recipe, cake.name) == (Path("book.txt"), "SPONGE")

    @pytest.mark.parametrize("empty_counts", [True, False])
    def test_without_text_is_given_or_not_as_the_declaration_says(
        self, empty_counts: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TEST_OF_SETTINGS_BAKER", "")
        monkeypatch.setattr(Cake, "ignores_empty", not empty_counts)
        if empty_counts:
            assert load_as(Cake).baker == ""
        else:
            with pytest.raises(UsageError, match="--baker"):
                load_as(Cake)


class TestFault:
    def test_of_each_setting_is_named_without_its_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may be a secret."""
        monkeypatch.delenv("TEST_OF_SETTINGS_BAKER")
        monkeypatch.setenv("TEST_OF_SETTINGS_LAYERS", "hush")
        with pytest.raises(UsageError) as error:
            load_as(Cake, name="")
        lines = str(error.value).splitlines()
        assert [line.partition(":")[0].strip() for line in lines[1:]] == [
            "--layers (TEST_OF_SETTINGS_LAYERS)",
            "--name (TEST_OF_SETTINGS_NAME)",
            "--baker (TEST_OF_SETTINGS_BAKER) is not given",
        ]
        assert "must not be empty" in lines[2]
        assert "hush" not in str(error.value)

    @pytest.mark.parametrize("layers", [0, 10])
    def test_is_a_value_beyond_the_limits(self, layers: int) -> None:
        with pytest.raises(UsageError, match="--layers"):
            load_as(Cake, layers=layers)

    def test_is_what_does_not_agree(self) -> None:
        with pytest.raises(UsageError, match="TEST_OF_SETTINGS_TOPPINGS are too much for so many LAYERS"):
            load_as(Cake, layers=6, toppings=["cream"])


def test_declarations_have_name_type_default_and_help() -> None:
    first, *_, last = declarations(Cake)
    assert (first.name, first.type, first.default, first.is_required) == ("layers", int, 3, False)
    assert first.setting.help == "How many."
    assert (last.name, last.is_required) == ("baker", True)
    assert list(variables(Cake))[:2] == ["TEST_OF_SETTINGS_LAYERS", "TEST_OF_SETTINGS_NAME"]
