"""How a request signs in at the upload API: as the settings say, with a token, an API key."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tasks.core.errors import CredentialsRefusedError, UsageError
from tasks.remote.curl_engine import Engine
from tasks.settings import Settings

_MAX_SECRET: Final = 64 * 1024


class Credentials(Protocol):
    """Where a request's Authorization header comes from."""

    async def authorization(self, refused: str = "", http_status: int = 401) -> str:
        """The header's value, empty for none. `refused`: the one to which the API just answered so."""
        ...


class StaticToken:
    """One token for the whole run, or none."""

    def __init__(self, token: str) -> None:
        self._value = f"Bearer {token}" if token else ""

    async def authorization(self, refused: str = "", http_status: int = 401) -> str:
        """Always the same: a refused static token can't be renewed."""
        del refused, http_status
        return self._value


class TokenFile:
    """A token that something else renews in a file, as Kubernetes does with projected ones."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def authorization(self, refused: str = "", http_status: int = 401) -> str:
        """What the file holds now. Raises CredentialsRefusedError when it can't be read."""
        del refused, http_status
        return f"Bearer {secret_in(self._path, 'DICOM_INGEST_TOKEN_FILE')}"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that is sent to the upload API beside a token, or in place of one."""

    header: str
    value: Callable[[], str] = field(repr=False)  # asked for every request: a file may be renewed

    def headers(self) -> dict[str, str]:
        """What to add to a request to the API's host. CredentialsRefusedError when a file can't be read."""
        return {self.header: self.value()}


def credentials_of(settings: Settings, engine: Engine) -> Credentials:
    """Those that the settings name. UsageError when they name a file that holds none."""
    if settings.token_file:
        return TokenFile(settings.token_file)
    if settings.token_url:
        from tasks.remote.engine_transport import http_client
        from tasks.remote.oauth2_client import ClientCredentials

        return ClientCredentials(
            http_client(engine),
            settings.token_url,
            settings.client_id,
            _client_secret(settings),
            settings.scope,
            settings.audience,
        )
    return StaticToken(settings.token.get_secret_value())


def api_key_of(settings: Settings) -> ApiKey | None:
    """The key that the settings name, if any."""
    if (path := settings.api_key_file) is not None:
        return ApiKey(settings.api_key_header, lambda: secret_in(path, "DICOM_INGEST_API_KEY_FILE"))
    if settings.api_key:
        return ApiKey(settings.api_key_header, settings.api_key.get_secret_value)
    return None


def _client_secret(settings: Settings) -> str:
    if not settings.client_secret_file:
        return settings.client_secret.get_secret_value()
    try:
        return secret_in(settings.client_secret_file, "DICOM_INGEST_CLIENT_SECRET_FILE")
    except CredentialsRefusedError as error:
        raise UsageError(f"{error} Nothing was sent.") from None


def secret_in(path: Path, setting: str) -> str:
    """The one line of a file. Raises CredentialsRefusedError, which names the setting, when there is none."""
    try:
        with path.open(encoding="ascii") as file:
            secret = file.read(_MAX_SECRET).strip()
    except (OSError, ValueError):
        secret = ""
    if not secret or not secret.isprintable():
        raise CredentialsRefusedError(
            f"The file that {setting} names can't be read, or holds no line of ASCII text."
        )
    return secret
