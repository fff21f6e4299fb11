"""The project's own modules as text and syntax, for the tests that hold the house to its rules."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import tasks

ROOT: Final = Path(tasks.__file__).parents[1]
TOPS: Final = ("flows", "tasks", "deployments")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES: Final = {_name(path): path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))}
OURS: Final = sorted(MODULES)


@cache
def text(module: str) -> str:
    return MODULES[module].read_text("utf-8")


@cache
def syntax(module: str) -> ast.Module:
    return ast.parse(text(module))


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Also methods, and functions in functions."""
    for node in ast.walk(syntax(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that is imported anywhere in one, also in a function or for types alone."""
    found: set[str] = set()
    for node in ast.walk(syntax(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys()
            if not names <= MODULES.keys():  # some are no modules, but what is in one
                found.add(node.module)
    return frozenset(found)
