"""As whom a DICOMweb server is asked: a bearer token, an OAuth2 client, HTTP Basic, or nobody.

They are its own: it never gets what the upload API gets.
"""

import base64
from typing import TYPE_CHECKING, Final

from tasks.core.errors import CredentialsRefusedError, UsageError
from tasks.declaration import PREFIX
from tasks.dicomweb_settings import DicomwebSettings
from tasks.remote.credentials import Credentials, StaticToken
from tasks.setting_values import why_no_endpoint

if TYPE_CHECKING:
    import httpx

_NAMES: Final = ("dicomweb_token", "dicomweb_token_url", "dicomweb_user")


class BasicCredentials:
    """A user and a password (RFC 7617)."""

    def __init__(self, user: str, password: str) -> None:
        """UsageError for a user with a colon, which ends the user's name."""
        if ":" in user:
            raise UsageError("DICOM_INGEST_DICOMWEB_USER has a colon, which HTTP Basic can't send.")
        self._value = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    async def authorization(self, refused: str = "", http_status: int = 401) -> str:
        """Always the same: there is no other password."""
        del refused, http_status
        return self._value


def dicomweb_credentials(
    settings: DicomwebSettings, http: "httpx.AsyncClient", *, allow_http: bool
) -> Credentials:
    """Those that the settings name. UsageError for an address that they must not be sent to."""
    check_address("DICOMWEB_TOKEN_URL", settings.dicomweb_token_url, allow_http=allow_http)
    if settings.dicomweb_token_url:
        from tasks.remote.oauth2_client import ClientCredentials

        return ClientCredentials(
            http,
            settings.dicomweb_token_url,
            settings.dicomweb_client_id,
            settings.dicomweb_client_secret.get_secret_value(),
            settings.dicomweb_scope,
            prefix=f"{PREFIX}DICOMWEB_",
        )
    if settings.dicomweb_user:
        return BasicCredentials(settings.dicomweb_user, settings.dicomweb_password.get_secret_value())
    return StaticToken(settings.dicomweb_token.get_secret_value())


def check_address(name: str, url: str, *, allow_http: bool) -> None:
    """UsageError for one that is no URL, or plain http to another machine; an empty one is none at all."""
    if url and (objection := why_no_endpoint(url, allow_http=allow_http)):
        raise UsageError(f"{PREFIX}{name} {objection}. Nothing was sent.")


def refusal(settings: DicomwebSettings, status: int) -> CredentialsRefusedError:
    """What ends a run: the server does not accept them."""
    names = " and ".join(f"{PREFIX}{name.upper()}" for name in _NAMES if getattr(settings, name))
    whose = f"with what {names} says" if names else "without credentials (DICOM_INGEST_DICOMWEB_TOKEN, ...)"
    return CredentialsRefusedError(
        f"The DICOMweb server refused the request {whose} (HTTP {status}). "
        "Check these settings, then run the same command again."
    )
