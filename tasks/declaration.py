"""How a setting is declared, and the one way from a declaration to a value.

What a caller gives (an option, a parameter or a block's field) wins over the environment, and that over the
default. Declaring imports no pydantic, so the help of a command answers at once; validating does.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from enum import Flag, auto
from typing import Any, ClassVar, Final, NamedTuple, TypeVar, get_args, get_origin

from tasks.core.errors import UsageError
from tasks.core.escape import escape

PREFIX: Final = "DICOM_INGEST_"
_Kind = TypeVar("_Kind", bound="Declared")


class Use(Flag):
    """Where a setting can be given, besides the environment."""

    ENVIRONMENT_ALONE = 0
    OPTION = auto()  # of the command line
    BLOCK = auto()  # a field of the block dicom-upload-api
    SECRET = auto()  # in no digest, and masked wherever it can be read


@dataclass(frozen=True, slots=True)
class Setting:
    """What a declaration says beside name, type and default: the metadata of an `Annotated` type."""

    help: str
    use: Use = Use.OPTION
    limits: Mapping[str, Any] = field(default_factory=dict)  # in pydantic-core's words: ge, le, pattern
    convert: Callable[[Any], Any] | None = None  # raises ValueError with what is wrong
    form: Mapping[str, Any] = field(default_factory=dict)  # of the JSON Schema of Prefect's form alone
    letter: str = ""  # short form of the option

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """The type's schema, with the limits."""
        schema = handler(source) | self.limits
        if self.convert is None:
            return schema
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.convert, schema)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> Any:
        """The type's JSON Schema, with what people read: Prefect's server checks values against it."""
        return handler(schema) | {"description": self.help} | self.form


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Settings that belong together: each field is an `Annotated` type with its `Setting`."""

    prefix: ClassVar[str] = PREFIX
    ignores_empty: ClassVar[bool] = False  # a variable without text is as one that is not set
    __pydantic_config__: ClassVar[dict[str, Any]] = {"validate_default": True}  # 45 is 45.0, given or not

    def __post_init__(self) -> None:
        """Raises ValueError when settings do not agree with each other."""
        if fault := next(self._faults(), ""):
            raise ValueError(fault)

    def _faults(self) -> Iterator[str]:
        """What does not agree, each in words that follow `DICOM_INGEST_`."""
        yield from ()


class Declaration(NamedTuple):
    """One declared setting."""

    name: str
    type: Any
    default: Any  # None when there is none, or none that can be said
    is_required: bool
    setting: Setting


def declarations(kind: type[Declared]) -> Iterator[Declaration]:
    """The settings of a class, in their order."""
    for each in fields(kind):
        annotated, setting = get_args(each.type)
        is_required = each.default is MISSING and each.default_factory is MISSING
        default = None if each.default is MISSING else each.default
        yield Declaration(each.name, annotated, default, is_required, setting)


def variables(kind: type[Declared]) -> Iterator[str]:
    """The names of the environment variables of a class of settings."""
    return (f"{kind.prefix}{each.name.upper()}" for each in declarations(kind))


def validated(kind: type[_Kind], **given: Any) -> _Kind:
    """The settings of one command; None was not given. Raises pydantic's ValidationError."""
    from pydantic import SecretStr, TypeAdapter  # noqa: F401 - of a secret's type

    values = {name: value for name, value in given.items() if value is not None}
    return TypeAdapter(kind).validate_python(environment(kind) | values)


def load_as(kind: type[_Kind], **given: Any) -> _Kind:
    """The settings of one command; None was not given. Raises UsageError that names every fault."""
    from pydantic import ValidationError

    try:
        return validated(kind, **given)
    except ValidationError as error:
        faults = [f"  {_fault(kind, each)}" for each in error.errors(include_input=False, include_url=False)]
        raise UsageError("\n".join(["The settings are wrong. Nothing was sent.", *faults])) from None


def environment(kind: type[Declared]) -> dict[str, Any]:
    """What the environment gives: text, of which a list is written as JSON."""
    texts = {name.upper(): text for name, text in os.environ.items() if name.upper().startswith(kind.prefix)}
    return {
        each.name: _from_json(variable, texts[variable])
        if get_origin(each.type) is tuple
        else texts[variable]
        for each, variable in zip(declarations(kind), variables(kind), strict=True)
        if variable in texts and (texts[variable] or not kind.ignores_empty)
    }


def _from_json(variable: str, text: str) -> list[Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = text
    if values is None:  # as templates write a list that nobody gave
        return []
    if not isinstance(values, list):
        raise UsageError(f'{variable} is not a JSON list, such as ["one", "two"]. Nothing was sent.')
    return values


def _fault(kind: type[Declared], detail: Any) -> str:
    """One fault without the value that was given: it may be a secret."""
    name = "".join(str(part) for part in detail["loc"][:1])
    option = f"--{name.replace('_', '-')} ({kind.prefix}{name.upper()})"
    if detail["type"] == "missing":
        return f"{option} is not given"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{option}: {message}" if name else f"{kind.prefix}{message}"


def without_effect(name: str, variables: Collection[str]) -> str:
    """What is said of an environment variable that looks like one of these and is none."""
    by_rest = {each.removeprefix(PREFIX): each for each in variables}
    (nearest,) = get_close_matches(name.upper().removeprefix(PREFIX), sorted(by_rest), 1, cutoff=0.0)
    return f"{escape(name)} is no setting and changes nothing; the nearest one is {by_rest[nearest]}."
