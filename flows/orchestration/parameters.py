"""The parameters that flows share, as the form in Prefect's UI shows them.

The form sends every default that it shows, and what is sent wins over the worker's settings. So fields start
empty, and only what a person filled in is a parameter of the run. The server holds parameters against these
patterns before it keeps them: a password in a URL gets no further.
"""

from typing import Annotated, Any

from pydantic import Field

from tasks.settings import Options


def _shown(title: str, **schema: Any) -> Any:
    """A name for people, in the form alone: Prefect's own is the parameter's."""
    return Field(json_schema_extra={"title": title} | schema)


ManifestPath = Annotated[str, _shown("Manifest", minLength=1)]
ReportDirectory = Annotated[str, _shown("Report Directory")]
ApiEndpoint = Annotated[str, _shown("API Endpoint", pattern=r"^(?![^:]*://[^/?#]*@)")]
ApiBlock = Annotated[str, _shown("API Block")]
RunOptions = Annotated[Options, _shown("Options", default={})]
