"""The platform's API gateway: OAuth2 client credentials, and presigned PUT URLs minted one at a time.

    POST /oauth2/token  client id and secret         ->  {"access_token", "token_type", "expires_in", "scope"}
    GET  /upload/       Authorization: Bearer TOKEN  ->  {"url": <presigned PUT URL>, "key": <object key>}

`python -m deployments.sandbox.gateway` runs it by DICOM_INGEST_SANDBOX_* settings alone: over a bucket of
AWS S3 or MinIO when one is named, else over an object store of its own in a folder.
"""

import argparse
import base64
import hashlib
import os
import secrets
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qsl, unquote_plus

import boto3
import uvicorn
from botocore.config import Config
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from deployments.sandbox import storage
from tasks.core.errors import IngestError, UsageError

CONTENT_TYPE: Final = "application/dicom"
MAX_FORM_BYTES: Final = 16_384
MAX_LIVE_TOKENS: Final = 10_000
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class Settings(BaseSettings):
    """DICOM_INGEST_SANDBOX_<NAME>. Without keys boto3 looks for AWS credentials itself."""

    model_config = SettingsConfigDict(
        env_prefix="DICOM_INGEST_SANDBOX_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    client_id: str
    client_secret: SecretStr
    scope: str = "upload"  # what a client may ask for, space-separated
    token_lifetime_s: int = Field(default=3600, ge=1)
    url_lifetime_s: int = Field(default=900, ge=1, le=604_800)  # SigV4 allows a week
    key_prefix: str = "uploads"

    bucket: str = ""
    s3_endpoint: str = ""  # empty: AWS S3 in `region`
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: SecretStr = SecretStr("")

    data_dir: Path | None = None  # holds the embedded object store, when no bucket is named
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)

    @model_validator(mode="after")
    def _objects_have_a_place(self) -> Self:
        if not self.bucket and (self.s3_endpoint or not self.data_dir):
            raise ValueError(
                "name a BUCKET (and S3_ENDPOINT unless it is AWS), or a DATA_DIR for an embedded one"
            )
        return self


class Tokens:
    """The bearer tokens that are out, each until its expiry; at most MAX_LIVE_TOKENS, the oldest go first.

    Digests are held, not tokens: looking one up takes the same time however much of a guess is right.
    """

    def __init__(self, lifetime_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._expiry: dict[bytes, float] = {}  # in order of issue, and so of expiry

    def issue(self) -> str:
        """A new opaque token (RFC 6750 2.1: token68 characters only)."""
        now = self._clock()
        while self._expiry and (len(self._expiry) >= MAX_LIVE_TOKENS or self._first_expiry() <= now):
            del self._expiry[next(iter(self._expiry))]
        token = secrets.token_urlsafe(32)
        self._expiry[_digest(token)] = now + self._lifetime_s
        return token

    def accepts(self, token: str) -> bool:
        """Whether this token was issued here and has not expired."""
        expiry = self._expiry.get(_digest(token))
        return expiry is not None and self._clock() < expiry

    def _first_expiry(self) -> float:
        return next(iter(self._expiry.values()))


class TokenError(Exception):
    """An error answer of the token endpoint (RFC 6749 section 5.2)."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(code)
        self.body = {"error": code, "error_description": description}
        self.status = status

    def answer(self) -> JSONResponse:
        """The answer as HTTP sends it; a 401 names the scheme to use."""
        challenge = {"WWW-Authenticate": 'Basic realm="oauth2"'} if self.status == 401 else {}
        return JSONResponse(self.body, self.status, {**_NO_STORE, **challenge})


def create_app(settings: Settings) -> FastAPI:
    """The gateway over the bucket that `settings` name. Does no I/O: a URL is signed, not asked for."""
    app = FastAPI(title="Upload API", docs_url=None, redoc_url=None, redirect_slashes=False)
    tokens = Tokens(settings.token_lifetime_s)
    presign = presigner(settings)

    async def bearer(request: Request) -> None:
        check_bearer(request.headers.get("authorization", ""), tokens)

    @app.post("/oauth2/token")
    async def token(request: Request) -> Response:
        try:
            form = parse_form(request.headers.get("content-type", ""), await _body(request.stream()))
            scope = check_grant(form, request.headers.get("authorization", ""), settings)
        except TokenError as error:
            return error.answer()
        granted = {
            "access_token": tokens.issue(),
            "token_type": "Bearer",
            "expires_in": settings.token_lifetime_s,
        }
        return JSONResponse({**granted, "scope": scope}, headers=_NO_STORE)

    @app.get("/upload/", dependencies=[Depends(bearer)])
    async def upload() -> Response:
        key = new_key(settings.key_prefix)
        return JSONResponse({"url": presign(key), "key": key}, headers=_NO_STORE)

    return app


def new_key(prefix: str) -> str:
    """A key that was never handed out before."""
    return f"{prefix}/{datetime.now(UTC):%Y-%m-%d}/{uuid.uuid4()}.dcm"


def check_bearer(authorization: str, tokens: Tokens) -> None:
    """Raises 401 with the challenge of RFC 6750 section 3 unless the header carries a live token."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": 'Bearer realm="upload"'})
    if not tokens.accepts(token.strip()):
        challenge = 'Bearer realm="upload", error="invalid_token", error_description="unknown or expired"'
        raise HTTPException(401, "the token is unknown or expired", {"WWW-Authenticate": challenge})


def parse_form(content_type: str, body: bytes) -> dict[str, str]:
    """The parameters of a token request; one without a value counts as left out (RFC 6749 section 3.2)."""
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise TokenError("invalid_request", "the body must be application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(body.decode("ascii"), errors="strict", max_num_fields=32)
    except ValueError:
        raise TokenError("invalid_request", "the body cannot be parsed") from None
    if len(form := dict(pairs)) < len(pairs):
        raise TokenError("invalid_request", "a parameter is repeated")
    return form


def check_grant(form: dict[str, str], authorization: str, settings: Settings) -> str:
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


def _check_client(client_id: str, client_secret: str, settings: Settings) -> None:
    known_id = secrets.compare_digest(_digest(client_id), _digest(settings.client_id))
    known_secret = secrets.compare_digest(
        _digest(client_secret), _digest(settings.client_secret.get_secret_value())
    )
    if not (known_id and known_secret):
        raise TokenError("invalid_client", "unknown client or wrong secret", status=401)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


async def _body(stream: AsyncIterator[bytes]) -> bytes:
    body = b""
    async for chunk in stream:
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise TokenError("invalid_request", "the body is too large", status=413)
    return body


def presigner(settings: Settings) -> Callable[[str], str]:
    """Key to presigned PUT URL. The content type is signed: the store refuses a PUT that says another."""
    s3 = _s3_client(settings)

    def presign(key: str) -> str:
        params = {"Bucket": settings.bucket, "Key": key, "ContentType": CONTENT_TYPE}
        url: str = s3.generate_presigned_url("put_object", params, ExpiresIn=settings.url_lifetime_s)
        return url

    return presign


def _s3_client(settings: Settings) -> Any:  # boto3's clients have no types
    config = Config(
        signature_version="s3v4",
        # boto3's "auto" signs for AWS's global host, which redirects to the region, and a signature does not
        # survive a redirect; virtual hosts are regional. Elsewhere a bucket is no host name.
        s3={"addressing_style": "path" if settings.s3_endpoint else "virtual"},
        # The default signs a checksum algorithm into the URL, which a plain PUT knows nothing of.
        request_checksum_calculation="when_required",
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint or None,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id or None,
        aws_secret_access_key=settings.secret_access_key.get_secret_value() or None,
        config=config,
    )


def main() -> None:
    """Serves until SIGINT or SIGTERM; with --listen-fd until stdin closes, which is when the parent ends."""
    parser = argparse.ArgumentParser(prog="python -m deployments.sandbox.gateway")
    parser.add_argument(
        "--listen-fd", type=int, help="an inherited listening socket, instead of HOST and PORT"
    )
    listen_fd: int | None = parser.parse_args().listen_fd
    # uvicorn raises the signal again once it has drained: that must not end us before the store is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with _with_bucket(_settings_from_environment()) as settings:
            _serve(settings, listen_fd)
    except IngestError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _settings_from_environment() -> Settings:
    try:
        return Settings()
    except ValidationError as invalid:
        faults = [f"{_setting(fault['loc'])}: {fault['msg']}" for fault in invalid.errors()]
        raise UsageError(f"DICOM_INGEST_SANDBOX_ settings are wrong: {'; '.join(faults)}.") from None


def _setting(location: tuple[int | str, ...]) -> str:
    """The name of a faulty setting; a fault of no single one is that the objects have no place."""
    return "_".join(map(str, location)).upper() or "BUCKET"


@contextmanager
def _with_bucket(settings: Settings) -> Iterator[Settings]:
    """The settings with a bucket in them: the one they name, else an embedded one while the block lasts."""
    if settings.bucket:
        yield settings
        return
    assert settings.data_dir
    with storage.serve_objects(settings.data_dir) as endpoint:
        embedded = {
            "bucket": storage.BUCKET,
            "s3_endpoint": endpoint.url,
            "access_key_id": endpoint.access_key_id,
            "secret_access_key": SecretStr(endpoint.secret_access_key),
        }
        yield settings.model_copy(update=embedded)


def _serve(settings: Settings, listen_fd: int | None) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_level="warning" if listen_fd else "info",
            timeout_graceful_shutdown=2,
        )
    )
    if listen_fd is None:
        server.run()
        return
    threading.Thread(target=_stop_at_end_of_stdin, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=listen_fd)])


def _stop_at_end_of_stdin(server: uvicorn.Server) -> None:
    """The parent holds the other end: it closes however the parent ends, also by kill -9."""
    os.read(0, 1)
    server.should_exit = True
