"""The options of commands, derived from the settings that tasks/settings.py declares."""

from collections.abc import Callable
from dataclasses import field, make_dataclass
from typing import Annotated, Any, Final, TypeVar

from cyclopts import Group, Parameter

from tasks.bucket_settings import BucketSettings
from tasks.declaration import Declaration, Declared, Use, declarations
from tasks.dicomweb_settings import DicomwebSettings
from tasks.ingest_settings import IngestSettings
from tasks.plan_settings import PlanSettings
from tasks.sandbox_settings import SandboxSettings
from tasks.settings import (
    AcceptSettings,
    CommandSettings,
    DemoSettings,
    LedgerSettings,
    ManifestSettings,
    MigrationSettings,
    ResolveSettings,
    ServeSettings,
    Settings,
)
from tasks.status_settings import StatusSettings
from tasks.verify_settings import VerifySettings

_GROUP: Final = Group("Where and how")
_MAY_BE_STDIN: Final = frozenset({"events"})  # by a `-`, which would be taken for another option
_Given = TypeVar("_Given", bound="Given")


class Given:
    """Options as a command line gives them; None is not given, so that the setting or the default counts."""

    def given(self, kind: type[Declared]) -> dict[str, Any]:
        """The options that were given of one kind of settings, by name."""
        values = {each.name: getattr(self, each.name, None) for each in declarations(kind)}
        return {name: value for name, value in values.items() if value is not None}


def _option(declared: Declaration) -> Parameter:
    setting, default = declared.setting, declared.default
    return Parameter(
        name=[f"--{declared.name.replace('_', '-')}", *filter(None, [setting.letter])],
        help=setting.help,
        negative=f"--no-{declared.name.replace('_', '-')}" if default is True else "",
        show_default=False if default in (None, "", ()) or default is False else str(default),
        group=_GROUP,
        allow_leading_hyphen=declared.name in _MAY_BE_STDIN,
        n_tokens=0 if declared.type is bool else None,  # a flag, also where None is no value of it
        name_transform=_as_it_is,  # of the choices: a library's own would cut dcm4chee in two
    )


def _as_it_is(name: str) -> str:
    return name.lower().replace("_", "-")


def _with_options(
    *kinds: type[Declared], without: tuple[str, ...] = ()
) -> Callable[[type[_Given]], type[_Given]]:
    """Gives a class a field for each setting of these kinds that is an option; `without` are arguments."""
    options = [
        each
        for kind in kinds
        for each in declarations(kind)
        if Use.OPTION in each.setting.use and each.name not in without
    ]

    def decorate(cls: type[_Given]) -> type[_Given]:
        fields = [
            (each.name, Annotated[each.type | None, _option(each)], field(default=None)) for each in options
        ]
        made = make_dataclass(
            cls.__name__, fields, bases=(cls,), namespace={"__module__": __name__}, frozen=True, kw_only=True
        )
        return Parameter(name="*")(made)

    return decorate


@_with_options(CommandSettings)
class CommandOptions(Given):
    """Options of every command."""


@_with_options(LedgerSettings, CommandSettings)
class LedgerOptions(Given):
    """Options of what reads a ledger."""


@_with_options(StatusSettings, CommandSettings)
class StatusOptions(Given):
    """Options of what looks at the runs of a ledger."""


@_with_options(Settings, CommandSettings)
class RunOptions(Given):
    """Options of what sends files."""


@_with_options(Settings, BucketSettings, DicomwebSettings, PlanSettings, CommandSettings)
class PlanOptions(Given):
    """Options of what plans a run."""


@_with_options(Settings, MigrationSettings, CommandSettings)
class MigrateOptions(Given):
    """Options of what has many workers send files."""


@_with_options(IngestSettings, CommandSettings)
class IngestOptions(Given):
    """Options of what registers objects."""


@_with_options(ManifestSettings, AcceptSettings, CommandSettings)
class ManifestOptions(Given):
    """Options of what writes a manifest."""


@_with_options(ServeSettings, CommandSettings)
class ServeOptions(Given):
    """Options of what serves the deployments."""


@_with_options(VerifySettings, CommandSettings, without=("report_dir",))
class VerifyOptions(Given):
    """Options of what holds a report against bucket and registry."""


@_with_options(Settings, CommandSettings, without=("report_dir",))
class RetryOptions(Given):
    """Options of what sends files of an earlier run again."""


@_with_options(ResolveSettings, CommandSettings, without=("report_dir",))
class ResolveOptions(Given):
    """Options of what decides about rows of a report."""


@_with_options(DemoSettings, CommandSettings)
class DemoOptions(Given):
    """Options of the demo."""


@_with_options(SandboxSettings, CommandSettings)
class SandboxOptions(Given):
    """Options of the sandbox."""
