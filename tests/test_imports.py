"""Who may import whom: imports go down the list of DESIGN.md section 3, and never up."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.source_tree import MODULES, ROOT, imports, syntax

# From the top down: a room imports those below it. A room is a package, or a module beside the packages.
TASKS = ["run", "upload", "pipeline", "comparison", "audit", "report", "ledger", "remote", "source"]
TASKS += [
    "known_settings",
    "ingest_settings",
    "verify_settings",
    "plan_settings",
    "postprocess_settings",
    "status_settings",
    "settings",
    "sandbox_settings",
    "bucket_settings",
    "dicomweb_settings",
    "tls_settings",
    "schedule_settings",
    "bandwidth_settings",
    "setting_values",
    "declaration",
    "concurrency",
    "process_memory",
    "core",
]
FLOWS = ["cli", "migrate", "ingest", "postprocess", "backfill", "verify", "shards", "orchestration"]
ROOMS = [*(f"flows.{name}" for name in FLOWS), "deployments.sandbox", *(f"tasks.{name}" for name in TASKS)]
CORE = sorted(name for name in MODULES if name.startswith("tasks.core"))
# Of the standard library, what neither touches the world outside nor asks for the time: add with care.
PURE = {
    "abc",
    "array",
    "bisect",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",  # whose now() and today() ask for the time: a test below looks for them
    "difflib",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
}
PURE |= {
    "heapq",
    "ipaddress",
    "itertools",
    "json",
    "marshal",
    "math",
    "operator",
    "posixpath",
    "re",
    "struct",
    "typing",
    "unicodedata",
    "zlib",
    "zoneinfo",
}
# Modules of which the same holds for what parses; other parts of their packages open connections.
PURE |= {"email.utils", "urllib.parse"}
# They ask for the time by `now` alone, which core never calls; time zones come from files of the system.
PURE |= {"datetime", "zoneinfo"}
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"})
CLOCKS = frozenset({"now", "today", "utcnow"})  # of datetime


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def edges() -> list[tuple[str, str]]:
    """Every import of one of our modules by another."""
    return [(module, name) for module in MODULES for name in sorted(imports(module) & MODULES.keys())]


def test_every_module_is_in_a_room_that_the_list_knows() -> None:
    """A new room gets its place among the others before anything imports it."""
    assert {room(module) for module in MODULES if "." in module} <= set(ROOMS)


def test_a_room_imports_those_below_it_alone() -> None:
    """So what a room reaches through others is below it, too."""
    below = {name: set(ROOMS[position:]) for position, name in enumerate(ROOMS)}
    assert {edge for edge in edges() if room(edge[1]) not in below[room(edge[0])]} == set()


def test_only_the_command_line_imports_the_sandbox() -> None:
    """A flow knows a platform by its address alone."""
    users = {module for module, name in edges() if name.startswith("deployments")}
    assert {room(module) for module in users} <= {"flows.cli", "deployments.sandbox"}


def test_there_is_no_import_cycle() -> None:
    """Raises CycleError, which names the modules."""
    graph = {module: imports(module) & MODULES.keys() - {module} for module in MODULES}
    TopologicalSorter(graph).prepare()


def test_a_manifest_is_read_without_a_scan() -> None:
    """Both are in one room; the scan comes later."""
    assert "tasks.source.scan" not in imports("tasks.source.manifest_reader")


def test_there_is_a_core() -> None:
    """Else the tests below would hold for nothing."""
    names = ("models", "errors", "manifest", "plan", "retry", "completeness", "duplicates")
    assert {f"tasks.core.{name}" for name in names} <= set(CORE)


@pytest.mark.parametrize("module", CORE)
def test_core_imports_nothing_but_itself_and_pure_modules_of_the_standard_library(module: str) -> None:
    """No prefect, httpx, pandas, pydicom, SQLAlchemy; no os, no clock, no dice, no threads."""
    for name in imports(module):
        assert name.startswith("tasks.core") or PURE & {name, name.partition(".")[0]}, name


@pytest.mark.parametrize("module", CORE)
def test_core_opens_and_prints_nothing(module: str) -> None:
    """Built-ins that reach out need no import."""
    calls = (node.func for node in ast.walk(syntax(module)) if isinstance(node, ast.Call))
    assert not {call.id for call in calls if isinstance(call, ast.Name)} & IMPURE_CALLS


@pytest.mark.parametrize("module", CORE)
def test_core_asks_no_clock(module: str) -> None:
    """What the time is comes from outside."""
    calls = (node.func for node in ast.walk(syntax(module)) if isinstance(node, ast.Call))
    assert not {call.attr for call in calls if isinstance(call, ast.Attribute)} & CLOCKS


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("tasks")))
def test_tasks_know_no_shell(module: str) -> None:
    """The same engine runs under Prefect, on the command line and in other people's code."""
    tops = {name.partition(".")[0] for name in imports(module)}
    assert not tops & {"flows", "prefect", "deployments", "tests", "cyclopts", "rich"}


@pytest.mark.processes
def test_importing_what_sends_requests_brings_no_httpx() -> None:
    """It is for what is not the hot path, and takes its time to import."""
    code = "import sys, tasks.remote.curl_engine; print('httpx' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert printed.stdout.strip() == "False"


@pytest.mark.processes
def test_importing_the_engine_brings_what_each_run_needs() -> None:
    """`upload` starts fast: what takes long to import is imported where it is used."""
    slow = {"prefect", "pandas", "pyarrow", "alembic", "cryptography", "oauthlib", "boto3", "fastapi"}
    slow |= {"sqlalchemy.dialects.postgresql", "awscrt.io", "awscrt.s3"}
    code = f"import sys, tasks.run.engine; print({slow} & set(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert printed.stdout.strip() == "set()"
