"""How long a module and a function may be, and what a module is called."""

import sys
from collections import Counter

import pytest

from tests.source_tree import MODULES, OURS, functions, text

MAX_LINES = 400
MAX_FUNCTION_LINES = 45
LONG_FUNCTIONS = {"tasks.ledger.migrations.versions.0001_ledger.upgrade"}
PACKAGES = {module for module, path in MODULES.items() if path.stem == "__init__"}
NAMES = Counter(name.rpartition(".")[2] for name in MODULES.keys() - PACKAGES)


@pytest.mark.parametrize("module", sorted(OURS))
def test_a_module_can_be_read_at_one_sitting(module: str) -> None:
    """A longer one answers more than one question."""
    assert len(text(module).splitlines()) <= MAX_LINES


def test_only_these_functions_are_long() -> None:
    """Two at most: a list of columns in a database's first version does not get clearer in pieces."""
    lengths = {
        f"{module}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for module in OURS
        for function in functions(module)
    }
    assert {name for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == LONG_FUNCTIONS


def test_no_two_modules_have_one_name() -> None:
    """Each package may have a `__main__`."""
    assert [name for name, count in NAMES.items() if count > 1 and name != "__main__"] == []


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    """`import queue` must not be a question."""
    assert {*NAMES, *(name.rpartition(".")[2] for name in PACKAGES)} & sys.stdlib_module_names == set()
