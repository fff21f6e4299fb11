"""What a worker's environment bounds of a verification that somebody starts in Prefect's UI.

As in `worker_bounds.py`: its credentials for a DICOMweb server go to the address that is named beside them,
and where it names a bucket nobody looks into another.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tasks.bucket_settings import bucket_address
from tasks.core.errors import UsageError
from tasks.declaration import PREFIX, environment, load_as
from tasks.run.worker_bounds import is_below
from tasks.verify_settings import VerifySettings

_CREDENTIALS: Final = ("dicomweb_token", "dicomweb_token_url", "dicomweb_password")


def load_bounded_verification(parameters: Mapping[str, Any]) -> VerifySettings:
    """The settings of a deployment's run. UsageError for those that go beyond the worker's environment."""
    settings = load_as(VerifySettings, **parameters)
    ours = {name: value for name, value in environment(VerifySettings).items() if value}
    for name in _widened(settings, ours):
        raise UsageError(
            f"This verification's {name} goes beyond {PREFIX}{name.upper()} of its worker, which a parameter "
            "may narrow alone. Nothing was written. Leave it empty, or have the worker's setting changed."
        )
    return settings


def _widened(settings: VerifySettings, ours: Mapping[str, Any]) -> Iterator[str]:
    is_bound = "dicomweb_url" in ours or any(ours.get(name) for name in _CREDENTIALS)
    is_other = settings.dicomweb_url and not is_below(settings.dicomweb_url, ours.get("dicomweb_url", ""))
    if is_bound and is_other:
        yield "dicomweb_url"
    if settings.bucket and "bucket" in ours:
        asked, bound = bucket_address(settings.bucket), bucket_address(ours["bucket"])
        if asked.name != bound.name or not asked.prefix.startswith(bound.prefix):
            yield "bucket"
