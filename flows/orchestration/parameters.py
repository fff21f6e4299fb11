"""The parameters that flows share, as the form in Prefect's UI shows them.

The form sends every default that it has, and what is sent wins over the worker's settings. So fields start
empty, and only what a person filled in is a parameter of the run. The server checks parameters against these
patterns before it keeps them: a password in a URL gets no further.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from tasks.dicomweb_settings import DicomwebServer
from tasks.ingest_settings import RegistrationSettings
from tasks.setting_values import WITHOUT_USER_OR_QUERY
from tasks.settings import GONE, RunSettings, ShardCount, no_setting_any_more


def _empty_fields(schema: dict[str, Any]) -> None:
    """No field is filled in: its default is a sentence of its description."""
    for field in schema["properties"].values():
        default = field.pop("default", None)
        if default not in (None, "", []) and default is not False:
            field["description"] += f" Default: {default}."


class Options(BaseModel, RunSettings):
    """How a run behaves: nothing secret, so it may be a flow parameter."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_empty_fields)
    _gone: tuple[str, ...] = PrivateAttr(())

    def without_effect(self) -> list[str]:
        """A sentence for each setting that is none any more, and was given."""
        return [no_setting_any_more(f"The option {name}", name) for name in self._gone]

    @model_validator(mode="wrap")
    @classmethod
    def _leave_out_what_is_gone(cls, given: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        """A schedule or deployment that an earlier version saved goes on."""
        if not isinstance(given, dict) or not (gone := GONE.keys() & given.keys()):
            return make(given)
        options = make({name: value for name, value in given.items() if name not in gone})
        options._gone = tuple(sorted(gone))
        return options


class RegistrationOptions(BaseModel, RegistrationSettings):
    """How an ingest behaves: nothing secret, so it may be a flow parameter."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_empty_fields)


def _titled(title: str, **schema: Any) -> Any:
    """A name for people, in the form alone: Prefect's own is the parameter's."""
    return Field(json_schema_extra={"title": title} | schema)


ManifestPath = Annotated[str, _titled("Manifest", minLength=1)]
ReportDirectory = Annotated[str, _titled("Report Directory")]
ApiEndpoint = Annotated[str, _titled("API Endpoint", pattern=WITHOUT_USER_OR_QUERY)]
Shards = Annotated[ShardCount, _titled("Shards")]
Verify = Annotated[bool, _titled("Verify")]
ApiBlock = Annotated[str, _titled("API Block")]
Bucket = Annotated[str, _titled("Bucket")]
DicomwebUrl = Annotated[str, _titled("DICOMweb URL", pattern=WITHOUT_USER_OR_QUERY)]
DicomwebServerName = Annotated[
    str, _titled("DICOMweb Server", pattern=f"^({'|'.join(['', *DicomwebServer])})$")
]
RegistrationForm = Annotated[RegistrationOptions, _titled("Options", default={})]
OptionsForm = Annotated[Options, _titled("Options", default={})]
