"""What a worker's environment bounds of an ingest that somebody starts in Prefect's UI.

As in `worker_bounds.py`: its credentials for a DICOMweb server go to the address that is named beside them,
those for a bucket open no other, and what it says may not be written is not written.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tasks.bucket_settings import bucket_address
from tasks.core.errors import UsageError
from tasks.declaration import PREFIX, environment
from tasks.ingest_settings import IngestSettings, load_ingest
from tasks.ledger.ledger_servers import server_of
from tasks.run.worker_bounds import is_below, is_true

_CREDENTIALS: Final = ("dicomweb_token", "dicomweb_token_url", "dicomweb_password")


def load_bounded_ingest(
    parameters: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> IngestSettings:
    """The settings of a deployment's run. UsageError for those that go beyond the worker's environment."""
    ours = {name: value for name, value in environment(IngestSettings).items() if value}
    given = dict(parameters)
    if "ledger" in ours and not given.get("ledger"):
        given.pop("ledger", None)
    settings = load_ingest(**given)
    for name in _widened(settings, ours, environ):
        raise UsageError(
            f"This ingest's {name} goes beyond {PREFIX}{name.upper()} of its worker, which a parameter may "
            "narrow alone. Nothing was registered. Leave it empty, or have the worker's setting changed."
        )
    return settings


def _widened(settings: IngestSettings, ours: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    is_bound = "dicomweb_url" in ours or any(ours.get(name) for name in _CREDENTIALS)
    if is_bound and not is_below(settings.dicomweb_url, ours.get("dicomweb_url", "")):
        yield "dicomweb_url"
    if "bucket" in ours:
        asked, bound = settings.address, bucket_address(ours["bucket"])
        if asked.name != bound.name or not asked.prefix.startswith(bound.prefix):
            yield "bucket"
    if "ledger" in ours and server_of(settings.ledger, environ) != server_of(ours["ledger"], environ):
        yield "ledger"
    if "allow_http" in ours and settings.allow_http and not is_true(ours["allow_http"]):
        yield "allow_http"
    if is_true(ours.get("bucket_read_only", "false")) and not settings.bucket_read_only:
        yield "bucket_read_only"
