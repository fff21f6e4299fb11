"""OAuth2 client credentials (RFC 6749 section 4.4) and bearer tokens (RFC 6750), for one client."""

import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse

from tasks.sandbox_settings import GatewaySettings

NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
MAX_FORM_BYTES: Final = 16_384
MAX_LIVE_TOKENS: Final = 10_000


class Tokens:
    """The bearer tokens that are valid, each until its expiry; at most MAX_LIVE_TOKENS, the oldest go first.

    Digests are held, not tokens: looking one up takes the same time however much of a guess is right.
    """

    def __init__(self, lifetime_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._live: dict[bytes, tuple[float, frozenset[str]]] = {}  # expiry, in order of issue, and scopes

    def issue(self, scope: str = "") -> str:
        """A new opaque token (RFC 6750 2.1: token68 characters only) for these scopes, space-separated."""
        now = self._clock()
        while self._live and (len(self._live) >= MAX_LIVE_TOKENS or self._first_expiry() <= now):
            del self._live[next(iter(self._live))]
        token = secrets.token_urlsafe(32)
        self._live[_digest(token)] = now + self._lifetime_s, frozenset(scope.split())
        return token

    def accepts(self, token: str) -> bool:
        """Whether this token was issued here and has not expired."""
        live = self._live.get(_digest(token))
        return live is not None and self._clock() < live[0]

    def is_for(self, token: str, scope: str) -> bool:
        """Whether it was issued for that scope."""
        live = self._live.get(_digest(token))
        return live is not None and scope in live[1]

    def _first_expiry(self) -> float:
        return next(iter(self._live.values()))[0]


class TokenError(Exception):
    """An error answer of the token endpoint (RFC 6749 section 5.2)."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(code)
        self.body = {"error": code, "error_description": description}
        self.status = status

    def answer(self) -> JSONResponse:
        """The answer as HTTP sends it; a 401 names the scheme to use."""
        challenge = {"WWW-Authenticate": 'Basic realm="oauth2"'} if self.status == 401 else {}
        return JSONResponse(self.body, self.status, {**NO_STORE, **challenge})


def check_bearer(authorization: str, tokens: Tokens, scope: str) -> None:
    """Raises 401 with the challenge of RFC 6750 section 3 unless the header carries a live token.

    And 403 unless that is for `scope`.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": 'Bearer realm="upload"'})
    if not tokens.accepts(token.strip()):
        challenge = 'Bearer realm="upload", error="invalid_token", error_description="unknown or expired"'
        raise HTTPException(401, "the token is unknown or expired", {"WWW-Authenticate": challenge})
    if not tokens.is_for(token.strip(), scope):
        challenge = f'Bearer realm="upload", error="insufficient_scope", scope="{scope}"'
        raise HTTPException(403, f"the token is not for {scope}", {"WWW-Authenticate": challenge})


async def grant_token(request: Request, tokens: Tokens, settings: GatewaySettings) -> Response:
    """The token endpoint's answer to a client-credentials request: a new token, or a TokenError's."""
    try:
        form = await _form(request)
        scope = _grant(form, request.headers.get("authorization", ""), settings)
    except TokenError as error:
        return error.answer()
    token = {
        "access_token": tokens.issue(scope),
        "token_type": "Bearer",
        "expires_in": settings.token_lifetime_s,
    }
    return JSONResponse({**token, "scope": scope}, headers=NO_STORE)


async def _form(request: Request) -> dict[str, str]:
    """The parameters of a token request; one without a value counts as left out (RFC 6749 section 3.2).

    Raises TokenError for what is no form, and for more than MAX_FORM_BYTES.
    """
    body = await _body(request.stream())
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise TokenError("invalid_request", "the body must be application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(body.decode("ascii"), errors="strict", max_num_fields=32)
    except ValueError:
        raise TokenError("invalid_request", "the body cannot be parsed") from None
    if len(form := dict(pairs)) < len(pairs):
        raise TokenError("invalid_request", "a parameter is repeated")
    return form


async def _body(stream: AsyncIterator[bytes]) -> bytes:
    body = b""
    async for chunk in stream:
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise TokenError("invalid_request", "the body is too large", status=413)
    return body


def _grant(form: dict[str, str], authorization: str, settings: GatewaySettings) -> str:
    """The scope to grant to a client-credentials request (RFC 6749 section 4.4); TokenError when refused."""
    _check_client(*_credentials(form, authorization), settings)
    if "grant_type" not in form:
        raise TokenError("invalid_request", "grant_type is missing")
    if form["grant_type"] != "client_credentials":
        raise TokenError("unsupported_grant_type", "only client_credentials is supported")
    asked = form.get("scope", settings.scope).split()
    if not set(asked) <= set(settings.scope.split()):
        raise TokenError("invalid_scope", "a scope that this client may not have")
    return " ".join(asked)


def _credentials(form: dict[str, str], authorization: str) -> tuple[str, str]:
    """Client id and secret from HTTP Basic or from the body, never from both (RFC 6749 section 2.3)."""
    if not authorization:
        return form.get("client_id", ""), form.get("client_secret", "")
    if "client_secret" in form:
        raise TokenError("invalid_request", "credentials in both header and body")
    scheme, _, encoded = authorization.partition(" ")
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode() if scheme.lower() == "basic" else ""
    except ValueError:
        pair = ""
    client_id, _, client_secret = pair.partition(":")
    return unquote_plus(client_id), unquote_plus(client_secret)


def _check_client(client_id: str, client_secret: str, settings: GatewaySettings) -> None:
    known_id = secrets.compare_digest(_digest(client_id), _digest(settings.client_id))
    known_secret = secrets.compare_digest(
        _digest(client_secret), _digest(settings.client_secret.get_secret_value())
    )
    if not (known_id and known_secret):
        raise TokenError("invalid_client", "unknown client or wrong secret", status=401)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
