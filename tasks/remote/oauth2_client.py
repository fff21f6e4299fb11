"""OAuth2 client credentials (RFC 6749, 4.4): a token that is fetched, and renewed."""

import base64
import threading
import time
from typing import Final
from urllib.parse import quote

from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error

from tasks.core.errors import CredentialsRefusedError, Fault, WrongSettingsError
from tasks.remote.http_pool import Answer, Connections
from tasks.turn import waiting

_REFUSING: Final = frozenset({400, 401, 403})  # RFC 6749, 5.2; 403 is what gateways answer in its place


class ClientCredentials:
    """A token fetched once for all slots, renewed before it expires, or once when the API refuses it."""

    _EARLY_S = 30.0  # renew this long before the end, so that no request leaves with a dying token

    def __init__(
        self,
        connections: Connections,
        token_url: str,
        client_id: str,
        client_secret: str,
        scope: str = "",
        audience: str = "",
    ) -> None:
        self._connections = connections
        self._token_url = token_url
        self._scope = scope or None
        self._more = {"audience": audience} if audience else {}  # not in RFC 6749, yet many ask for it
        self._oauth = BackendApplicationClient(client_id)
        # RFC 6749, 2.3.1: both are form-encoded before they are joined.
        pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"
        self._basic = "Basic " + base64.b64encode(pair.encode()).decode()
        self._lock = threading.Lock()
        self._value = ""
        self._good_until = 0.0  # time.monotonic()

    def authorization(self, refused: str = "") -> str:
        """The current token; the first caller who finds it dying or refused fetches the next one for all.

        Raises Fault when the token endpoint does not answer, CredentialsRefusedError when it refuses the
        client, WrongSettingsError when its answer is that of no token endpoint.
        """
        with waiting(), self._lock:
            if self._value == refused or time.monotonic() >= self._good_until:
                self._fetch()
            return self._value

    def _fetch(self) -> None:
        body = self._oauth.prepare_request_body(scope=self._scope, include_client_id=False, **self._more)
        headers = {
            "Authorization": self._basic,
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        answer = self._connections.send("POST", self._token_url, headers, str(body).encode())
        if trouble := answer.trouble():
            what = f"the token endpoint answered {answer.status}"
            raise Fault(trouble, what, answer.status, answer.retry_after_s())
        try:
            token = self._oauth.parse_request_body_response(answer.text())
            self._value = f"Bearer {token['access_token']}"
        except (OAuth2Error, ValueError, TypeError, AttributeError, Warning):  # also JSON that is no object
            raise _refusal(answer) from None
        lifetime_s = float(token.get("expires_in") or 300)
        self._good_until = time.monotonic() + max(lifetime_s - self._EARLY_S, lifetime_s / 2)


def _refusal(answer: Answer) -> CredentialsRefusedError | WrongSettingsError:
    """A refused client, or an address at which there is no token endpoint."""
    if answer.status in _REFUSING:
        return CredentialsRefusedError(
            f"The token endpoint refused the client credentials (HTTP {answer.status}). "
            "Check DICOM_INGEST_TOKEN_URL, _CLIENT_ID, _CLIENT_SECRET and _SCOPE."
        )
    return WrongSettingsError(
        f"What is at DICOM_INGEST_TOKEN_URL answers like no token endpoint (HTTP {answer.status}). "
        "Check that address, and _CLIENT_ID, _CLIENT_SECRET and _SCOPE."
    )
