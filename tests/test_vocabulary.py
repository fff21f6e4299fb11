"""Objects and verbs have the field's own words: metaphors of ours must not come back."""

import ast
import re

import pytest

from tests.source_tree import OURS, functions, syntax, text

METAPHORS = {"hand", "hands", "crew", "hiring", "twin", "twins", "told"}
METAPHORS |= {"carrier", "weather", "follower", "territory"}
# Good words in a sentence, but no names of what we make or do.
NO_NAMES = {"turn", "place", "trip", "ticket", "heeded", "taken", "shown"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def words(text: str) -> set[str]:
    """In small letters; a name's parts are words of their own, whether joined by case or by underscores."""
    return {word.lower() for word in _WORD.findall(text)}


def names(module: str) -> set[str]:
    """Of functions and classes."""
    classes = (node.name for node in ast.walk(syntax(module)) if isinstance(node, ast.ClassDef))
    return {*classes, *(function.name for function in functions(module))}


@pytest.mark.parametrize("text", ["the_twin", "OfHands", "told.", "_TOLD", "Twins(", "HTTPCarrier"])
def test_a_word_is_found_also_in_a_name(text: str) -> None:
    """Else the tests below would hold for nothing."""
    assert words(text) & METAPHORS


def test_other_words_are_left_alone() -> None:
    """Words that only hold one of them."""
    assert not words("handle handler shorthand handed") & METAPHORS


@pytest.mark.parametrize("module", OURS)
def test_no_metaphor_of_ours_occurs(module: str) -> None:
    """In code, comments, docstrings and messages."""
    assert words(text(module)) & METAPHORS == set()
    assert "far side" not in text(module).lower(), "it is the platform"


@pytest.mark.parametrize("module", OURS)
def test_nothing_is_named_by_a_metaphor_or_a_participle(module: str) -> None:
    """A function that acts is a verb, one that gives something a noun."""
    assert {name for name in names(module) if words(name) & NO_NAMES} == set()
