"""What a worker's environment bounds: who may start a run in Prefect's UI does not get the worker's secrets.

The parameters of a deployment's run, and the block that one of them names, come from people who may use
Prefect's UI; the environment is the operator's. So parameters may narrow what it sets and never widen it, and
credentials go nowhere but to an endpoint that is named where they are: in the environment, or in the block.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from httpx import URL, InvalidURL

from tasks.core.allowed_hosts import is_within
from tasks.core.errors import UsageError
from tasks.declaration import PREFIX, Use, declarations, environment
from tasks.ledger.ledger_servers import server_of
from tasks.setting_values import without_upload
from tasks.settings import PlatformSettings, Settings, load

_SECRETS: Final = [each.name for each in declarations(PlatformSettings) if Use.SECRET in each.setting.use]
_CREDENTIALS: Final = [name for secret in _SECRETS for name in (secret, f"{secret}_file")]
_MAY_BE_LEFT_OPEN: Final = ("ledger", "root", "allow_storage_host")  # an empty one permits everything


def load_bounded(
    block: Mapping[str, Any], parameters: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings of a deployment's run. UsageError for those that go beyond the worker's environment."""
    ours = {name: value for name, value in environment(Settings).items() if value}
    given = dict(block) | dict(parameters)
    for name in _MAY_BE_LEFT_OPEN:
        if name in ours and not given.get(name):
            given.pop(name, None)
    settings = load(**given)
    for name in _widened(settings, ours, environ):
        raise UsageError(
            f"This run's {name} goes beyond {PREFIX}{name.upper()} of its worker, which a parameter or a "
            "block may narrow alone. Nothing was sent. Leave it empty, or have the worker's setting changed."
        )
    misled = [*_misled(settings, block, ours), *_misled_to_ledger(settings, ours, environ)]
    for source, credentials, endpoint in misled:
        raise UsageError(
            f"The {source} has credentials ({credentials}) and does not name this run's {endpoint}, to which "
            "they would go. Nothing was sent. Name it there, or have no credentials there."
        )
    return settings


def _widened(settings: Settings, ours: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    """The settings that go beyond what the environment says."""
    if "api_endpoint" in ours and not is_below(settings.api_endpoint, ours["api_endpoint"]):
        yield "api_endpoint"
    if "ledger" in ours and server_of(settings.ledger, environ) != server_of(ours["ledger"], environ):
        yield "ledger"
    if "root" in ours and not _is_inside(settings.root, ours["root"]):
        yield "root"
    patterns = ours.get("allow_storage_host", ())
    if patterns and not all(is_within(each, patterns) for each in settings.allow_storage_host):
        yield "allow_storage_host"
    if "allow_http" in ours and settings.allow_http and not is_true(ours["allow_http"]):
        yield "allow_http"


def _misled(
    settings: Settings, block: Mapping[str, Any], ours: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Whose credentials would go where the same source does not lead: source, credentials, endpoint."""
    for source, values in (("block", block), ("worker's environment", ours)):
        names = [
            name for name in _CREDENTIALS if values.get(name) and (source == "block" or not block.get(name))
        ]
        if names and not _is_origin(settings.api_endpoint, values.get("api_endpoint")):
            yield source, ", ".join(names), "api_endpoint"
        of_client = [name for name in names if name.startswith("client_secret")]
        if of_client and settings.token_url and not _is_origin(settings.token_url, values.get("token_url")):
            yield source, ", ".join(of_client), "token_url"


def _misled_to_ledger(
    settings: Settings, ours: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    """The same of the ledger's password, which libpq takes from its own variables and files."""
    server = server_of(settings.ledger, environ)
    if server is None or server.is_of_environment(environ):
        return
    if server == server_of(ours.get("ledger", ""), environ):
        return
    if server.gets_password(environ):
        yield "worker's environment", "PGPASSWORD or what else PostgreSQL's client knows", "ledger"


def is_below(url: str, bound: str) -> bool:
    """Whether an endpoint is the same, or a path below it."""
    try:
        base = URL(without_upload(bound)).path.rstrip("/")
        path = URL(url).path
    except (InvalidURL, ValueError):
        return False
    return _is_origin(url, bound) and f"{path}/".startswith(f"{base}/") and ".." not in path.split("/")


def _is_origin(url: str, named: str | None) -> bool:
    """Whether both have one scheme, host and port."""
    if not named:
        return False
    try:
        one, other = ((each.scheme, each.host, each.port) for each in (URL(url), URL(named)))
    except (InvalidURL, UnicodeError):  # of IDNA
        return False
    return one == other


def _is_inside(directory: str, root: str) -> bool:
    """Whether it is this directory or lies below it, wherever links lead."""
    real = os.path.realpath(root)
    try:
        return os.path.commonpath([real, os.path.realpath(directory)]) == real
    except ValueError:  # of a null byte
        return False


def is_true(text: str) -> bool:
    """What a variable of the environment says."""
    from pydantic import TypeAdapter

    return bool(TypeAdapter(bool).validate_python(text))
