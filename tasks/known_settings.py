"""Every setting that there is, of all commands: what begins like one and is none is warned of."""

from collections.abc import Iterable
from typing import Final

from tasks.bucket_settings import BucketSettings
from tasks.declaration import PREFIX, variables, without_effect
from tasks.dicomweb_settings import DicomwebSettings
from tasks.ingest_settings import IngestSettings
from tasks.plan_settings import PlanSettings
from tasks.postprocess_settings import ResultSettings
from tasks.sandbox_settings import GatewaySettings, SandboxSettings
from tasks.settings import (
    GONE,
    CommandSettings,
    DemoSettings,
    ManifestSettings,
    MigrationSettings,
    ServeSettings,
    Settings,
    no_setting_any_more,
)
from tasks.verify_settings import VerifySettings

_OF_PIPELINE: Final = (
    DicomwebSettings,
    BucketSettings,
    IngestSettings,
    VerifySettings,
    ResultSettings,
)
_OF_COMMANDS: Final = (
    CommandSettings,
    DemoSettings,
    ManifestSettings,
    PlanSettings,
    ServeSettings,
    SandboxSettings,
)
KINDS: Final = (Settings, MigrationSettings, *_OF_PIPELINE, *_OF_COMMANDS, GatewaySettings)
# HOME is of deployments/prefect.yaml.
VARIABLES: Final = frozenset((*(name for kind in KINDS for name in variables(kind)), f"{PREFIX}HOME"))


def unknown_variables(names: Iterable[str]) -> list[str]:
    """A sentence for each name of an environment variable that looks like a setting and is none."""
    ours = sorted(name for name in names if name.upper().startswith(PREFIX))
    return [
        no_setting_any_more(name, gone)
        if (gone := name.upper().removeprefix(PREFIX).lower()) in GONE
        else without_effect(name, VARIABLES)
        for name in ours
        if name.upper() not in VARIABLES
    ]
