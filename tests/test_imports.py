"""Who may import whom: the core does no I/O, a stage knows no later stage, and the work knows no shell."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks

ROOT = Path(tasks.__file__).parents[1]
CORE = sorted((ROOT / "tasks" / "core").glob("*.py"))
MODULES = sorted((ROOT / "tasks").rglob("*.py"))

# Of the standard library, what neither touches the world outside nor asks for the time: add with care.
PURE = {"abc", "bisect", "collections", "dataclasses", "difflib", "enum", "fnmatch", "functools", "hashlib"}
PURE |= {
    "heapq",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "operator",
    "posixpath",
    "re",
    "typing",
    "unicodedata",
}
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"})
# DESIGN.md section 3; a stage's name is its module. All that a module imports, and so on, counts as its own.
STAGES = ("source.manifest_reader", "source.scan", "upload.uploader", "report.directory", "run.engine")


def imports(path: Path) -> Iterator[str]:
    """Every module that is imported anywhere in a file, also in a function or for types alone."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(path: Path) -> Iterator[str]:
    """The names of plain functions that are called anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def reached_from(module: str) -> set[str]:
    """The modules of tasks that come in with this one."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        source = source_of(waiting.pop())
        assert source is not None
        for name in set(imports(source)):
            if name.startswith("tasks") and name not in reached and source_of(name):
                reached.add(name)
                waiting.append(name)
    return reached


def test_there_is_a_core() -> None:
    """Else the tests below would hold for nothing."""
    assert {"models", "errors", "manifest", "plan", "retry", "completeness"} <= {path.stem for path in CORE}


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_imports_nothing_but_itself_and_pure_modules_of_the_standard_library(path: Path) -> None:
    """No prefect, httpx, pandas, pydicom, SQLAlchemy; no os, no clock, no dice, no threads."""
    for name in imports(path):
        top = name.partition(".")[0]
        assert name.startswith("tasks.core") or top in PURE, name


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_opens_and_prints_nothing(path: Path) -> None:
    """Built-ins that reach out need no import."""
    assert not set(calls(path)) & IMPURE_CALLS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_tasks_know_no_shell(path: Path) -> None:
    """The same engine runs under Prefect, on the command line and in other people's code."""
    tops = {name.partition(".")[0] for name in imports(path)}
    assert not tops & {"flows", "prefect", "deployments", "tests", "cyclopts", "rich"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_knows_no_later_stage(stage: str) -> None:
    """load -> scan -> plan -> upload -> reconcile -> report; plan and reconcile are rules of the core."""
    later = {f"tasks.{name}" for name in STAGES[STAGES.index(stage) + 1 :]}
    assert not reached_from(f"tasks.{stage}") & later


@pytest.mark.processes
def test_importing_the_engine_brings_neither_prefect_nor_pandas() -> None:
    """`upload` starts fast: what takes seconds to import is imported where it is used."""
    slow = {"prefect", "pandas", "pyarrow"}
    code = f"import sys, tasks.run.engine; print({slow} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "set()"
