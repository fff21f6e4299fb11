"""OAuth2 client credentials (RFC 6749, 4.4): a token that is fetched, and renewed."""

import asyncio
import base64
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import httpx
from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error

from tasks.core.errors import CredentialsRefusedError, Fault, WrongSettingsError
from tasks.core.http_messages import Answer
from tasks.remote.engine_transport import answer_of

log = logging.getLogger("dicom_ingest")

_REFUSING: Final = frozenset({400, 401, 403})  # RFC 6749, 5.2; 403 is what gateways answer in its place
_EARLY_S: Final = 30.0  # renew this long before the end, so that no request leaves with a dying token
_USUAL_S: Final = 300.0  # a lifetime, where the answer names none
_TRIED_AGAIN_S: Final = 5.0  # to renew a token that is still good
# A token that took the place of a refused one is no better than that when it is refused itself: 403 is said
# about one file, or to everybody. After so long it may be about the token again.
_REPLACED_ONCE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class _Token:
    """The header's value, and by the clock from when on to renew it, and until when it may be used."""

    value: str
    renew_at: float
    expires_at: float


class ClientCredentials:
    """A token fetched once for all slots, renewed before it expires, or once when the API refuses it.

    Who renews it early keeps nobody waiting: until its end the token that there is does for all.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        token_url: str,
        client_id: str,
        client_secret: str,
        scope: str = "",
        audience: str = "",
        clock: Callable[[], float] = time.monotonic,
        prefix: str = "DICOM_INGEST_",
    ) -> None:
        """`prefix`: of the settings that a message names."""
        self._client = client
        self._prefix = prefix
        self._token_url = token_url
        self._scope = scope or None
        self._more = {"audience": audience} if audience else {}  # not in RFC 6749, yet many ask for it
        self._oauth = BackendApplicationClient(client_id)
        # RFC 6749, 2.3.1: both are form-encoded before they are joined.
        pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"
        self._basic = "Basic " + base64.b64encode(pair.encode()).decode()
        self._clock = clock
        self._fetching: asyncio.Task[str] | None = None
        self._token = _Token("", -math.inf, -math.inf)
        self._replaced = ""  # the last token that was refused, and when the current one took its place
        self._replaced_at = -math.inf
        self._tried_at = -math.inf  # to renew early, in vain

    async def authorization(self, refused: str = "", http_status: int = 401) -> str:
        """The current token; the first caller who finds it dying or refused fetches the next one for all.

        Until it expires, a token that can't be renewed is used. Raises Fault when the token endpoint does not
        answer, CredentialsRefusedError when it refuses the client, WrongSettingsError when its answer is that
        of no token endpoint.
        """
        while self._has_to_be_fetched(refused, http_status):
            if self._fetching is None:
                return await self._fetched(refused)
            await asyncio.wait([self._fetching])
        if self._fetching is None and self._is_dying():
            return await self._renewed_early()
        return self._token.value

    async def _fetched(self, refused: str) -> str:
        """By one for all; who waits for it may be cut off, it goes on."""
        self._fetching = asyncio.create_task(self._renewed(refused))
        self._fetching.add_done_callback(self._forget_fetching)
        return await asyncio.shield(self._fetching)

    def _forget_fetching(self, task: "asyncio.Task[str]") -> None:
        self._fetching = None
        task.cancelled() or task.exception()  # it has been seen

    async def _renewed_early(self) -> str:
        token, is_first_try = self._token, self._tried_at == -math.inf
        try:
            return await self._fetched("")
        except (Fault, CredentialsRefusedError, WrongSettingsError) as error:
            if is_first_try:
                log.warning("The OAuth2 token could not be renewed yet, and is used to its end: %s", error)
            return token.value

    def _has_to_be_fetched(self, refused: str, http_status: int) -> bool:
        """Whether there is no token that may be used, for a caller who had this one refused."""
        if self._clock() >= self._token.expires_at:
            return True
        if refused != self._token.value:
            return False
        is_no_better = http_status == 403 or refused == self._replaced
        return not (is_no_better and self._clock() < self._replaced_at + _REPLACED_ONCE_S)

    def _is_dying(self) -> bool:
        now = self._clock()
        return now >= self._token.renew_at and now >= self._tried_at + _TRIED_AGAIN_S

    async def _renewed(self, refused: str) -> str:
        began = self._clock()
        self._tried_at = began
        token = await self._fetch(began)
        if refused and refused == self._token.value:
            self._replaced, self._replaced_at = refused, began
        self._token = token
        self._tried_at = -math.inf
        return token.value

    async def _fetch(self, began: float) -> _Token:
        body = self._oauth.prepare_request_body(scope=self._scope, include_client_id=False, **self._more)
        headers = {
            "Authorization": self._basic,
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        answer = answer_of(await self._client.post(self._token_url, headers=headers, content=str(body)))
        if trouble := answer.trouble():
            what = f"the token endpoint answered {answer.status}"
            raise Fault(trouble, what, answer.status, answer.retry_after_s())
        try:
            token = self._oauth.parse_request_body_response(answer.text())
            value = f"Bearer {token['access_token']}"
        except (OAuth2Error, ValueError, TypeError, AttributeError, Warning):  # also JSON that is no object
            raise _refusal(answer, self._prefix) from None
        said_s = float(token.get("expires_in") or 0)
        lifetime_s = said_s or _USUAL_S
        renew_at = began + max(lifetime_s - _EARLY_S, lifetime_s / 2)
        return _Token(value, renew_at, began + said_s if said_s else math.inf)


def _refusal(answer: Answer, prefix: str) -> CredentialsRefusedError | WrongSettingsError:
    """A refused client, or an address at which there is no token endpoint."""
    if answer.status in _REFUSING:
        return CredentialsRefusedError(
            f"The token endpoint refused the client credentials (HTTP {answer.status}). "
            f"Check {prefix}TOKEN_URL, _CLIENT_ID, _CLIENT_SECRET and _SCOPE."
        )
    return WrongSettingsError(
        f"What is at {prefix}TOKEN_URL answers like no token endpoint (HTTP {answer.status}). "
        "Check that address, and _CLIENT_ID, _CLIENT_SECRET and _SCOPE."
    )
