"""Every sentence in the source that can end a run, read off its syntax trees.

What an error is made of, and what a manifest is refused for.

What is put into a sentence while it runs stands as `…`. Names and functions of the same module are looked
up; a sentence that only passes on another one's text is listed in `PASSED_ON`, so that a new way of
making an error is noticed and not skipped.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PASSED_ON: Final = frozenset({"str(error)", "f'{error} Nothing was sent.'"})
# Words of a key: enough to find the row, few enough to let a sentence's end be reworded.
_FEWEST: Final = 3
_MOST: Final = 6


def words(text: str) -> list[str]:
    """Without marks, so that neither Markdown nor a full stop makes a difference; `…` once in a row."""
    found = re.findall(r"[\w'-]+|…", text)
    return [word for word, before in zip(found, ["", *found], strict=False) if (word, before) != ("…", "…")]


@cache
def messages() -> dict[str, str]:
    """The first words of each such sentence, and where it stands."""
    found: dict[str, str] = {}
    for path, tree in _trees().items():
        for line, sentence in _Module(path, tree).sentences(_errors()):
            found.setdefault(_key(sentence), f"{path}:{line}")
    return found


def _key(message: str) -> str:
    """The first words of its first sentence; of more when that is as short as "Interrupted."."""
    said, *others = message.split(". ")
    for sentence in others:
        if len(words(said)) < _FEWEST:
            said = f"{said}. {sentence}"
    return " ".join(words(said)[:_MOST])


@cache
def _trees() -> dict[Path, ast.Module]:
    paths = [path for room in ("tasks", "flows", "deployments") for path in (ROOT / room).rglob("*.py")]
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(paths)}


@cache
def _errors() -> frozenset[str]:
    """IngestError and all that derive from it, wherever they are defined."""
    bases = {
        node.name: {ast.unparse(base) for base in node.bases}
        for tree in _trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    errors = {"IngestError"}
    while more := {name for name, its in bases.items() if its & errors} - errors:
        errors |= more
    return frozenset(errors - {"ManifestError"})  # made of faults: its sentence stands in its own __init__


@cache
def _constants() -> dict[str, list[ast.expr]]:
    """What modules share: NAMES in capitals."""
    return {
        name: values
        for tree in _trees().values()
        for name, values in _assigned(tree).items()
        if name.isupper() and not name.startswith("_")
    }


def _assigned(tree: ast.Module) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found.setdefault(ast.unparse(target), []).append(node.value)
    return found


class _Module:
    def __init__(self, path: Path, tree: ast.Module) -> None:
        self._path, self._tree = path, tree
        self._functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        self._assigned = _constants() | _assigned(tree)

    def sentences(self, errors: frozenset[str]) -> Iterator[tuple[int, str]]:
        for node in ast.walk(self._tree):
            argument = _argument(node, errors)
            if argument is None or ast.unparse(argument) in PASSED_ON:
                continue
            sentences = self._texts(argument)
            where = f"{self._path}:{argument.lineno}"
            assert sentences != ["…"], f"{where}: what does {ast.unparse(argument)} say?"
            yield from ((argument.lineno, each) for each in sentences if _says_something(each))

    def _texts(self, expression: ast.expr, depth: int = 3) -> list[str]:
        """What the expression may read; what can't be known is `…`."""
        match expression:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                return ["".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)]
            case ast.BinOp(left=left):
                return self._texts(left)
            case ast.IfExp(body=body, orelse=otherwise):
                return self._texts(body) + self._texts(otherwise)
            case ast.Name(id=name) | ast.Attribute(attr=name) if depth and name in self._assigned:
                return [text for value in self._assigned[name] for text in self._texts(value, depth - 1)]
            case ast.Call(func=ast.Name(id=name)) if depth and name in self._functions:
                returned = [
                    node.value
                    for node in ast.walk(self._functions[name])
                    if isinstance(node, ast.Return) and node.value
                ]
                return [text for value in returned for text in self._texts(value, depth - 1)]
            case ast.Call(func=ast.Attribute(attr="join"), args=[ast.List(elts=[first, *_])]):
                return self._texts(first)
        return ["…"]


def _says_something(sentence: str) -> bool:
    """Or it is put together of other sentences."""
    return "…" not in sentence or len([word for word in words(sentence) if word != "…"]) >= 3


def _argument(node: ast.AST, errors: frozenset[str]) -> ast.expr | None:
    """The sentence of an error that is made here, or that stands beside its class in a table."""
    match node:
        case ast.Call(func=ast.Name(id="cls" | "kind"), args=[ast.JoinedStr() as sentence, *_]):
            return sentence
        case ast.Call(func=ast.Attribute(attr="__init__"), args=[ast.Call() as sentence]):
            return sentence
        case ast.Call(func=ast.Name(id="Problem" | "_FaultyCellError"), args=[*_, last]) if _is_text(last):
            return last
        case ast.Call(func=ast.Attribute(ast.Name("self" | "checker"), "fault"), args=[*_, last]) if _is_text(
            last
        ):
            return last
        case ast.Call(func=ast.Name() | ast.IfExp() as made, args=[first, *_]):
            names = {each.id for each in ast.walk(made) if isinstance(each, ast.Name)}
            return first if names & errors else None
        case ast.Tuple(elts=[ast.Name(id=name), ast.Constant(value=str()) as sentence]) if name in errors:
            return sentence
    return None


def _is_text(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Constant | ast.JoinedStr | ast.BinOp)


if __name__ == "__main__":
    print(*(f"{where}: {key}" for key, where in messages().items()), sep="\n")
