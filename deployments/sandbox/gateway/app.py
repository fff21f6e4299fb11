"""The platform's API gateway: OAuth2 client credentials, presigned PUT URLs minted one at a time, DICOMweb.

    POST /oauth2/token  client id and secret         ->  {"access_token", "token_type", "expires_in", "scope"}
    GET  /upload/       Authorization: Bearer TOKEN  ->  {"url": <presigned PUT URL>, "key": <object key>}
    POST /studies       STOW-RS, into the same bucket; POST /studies/{uid}, too: `stow.py`
    GET  /studies...    QIDO-RS, WADO-RS of the server behind it; /series and /instances, too: `pass_on.py`
    PUT  /store/...     where the store is to answer as another would: `answering_store.py`

`python -m deployments.sandbox.gateway` runs it by DICOM_INGEST_SANDBOX_* settings alone: over a bucket of
AWS S3 or MinIO when one is named, else over an object store of its own in a folder.
"""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import httpx
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from deployments.sandbox import storage
from deployments.sandbox.gateway.answering_store import AnsweringStore
from deployments.sandbox.gateway.gateway_audit import GatewayAudit
from deployments.sandbox.gateway.gateway_settings import settings_from_environment
from deployments.sandbox.gateway.oauth2 import NO_STORE, Tokens, check_bearer, grant_token
from deployments.sandbox.gateway.object_writer import ObjectWriter
from deployments.sandbox.gateway.pass_on import PassedOn, closing_what_broke_off
from deployments.sandbox.gateway.presign import new_key, presigner
from deployments.sandbox.gateway.request_limits import Rate
from deployments.sandbox.gateway.stow import StowService
from tasks.core.errors import IngestError
from tasks.process_memory import forbid_memory_dumps
from tasks.sandbox_settings import GatewaySettings

_SEARCHED: Final = ("studies", "series", "instances")


def create_app(
    settings: GatewaySettings,
    writer: ObjectWriter | None = None,
    dicomweb: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """The gateway over the bucket that `settings` name. Does no I/O but to open the file of audit lines.

    `writer` and `dicomweb` stand for the bucket and for the DICOMweb server, where they are given.
    """
    app = FastAPI(title="Upload API", docs_url=None, redoc_url=None, redirect_slashes=False)
    tokens = Tokens(settings.token_lifetime_s)
    rate = Rate(settings.rate_per_s)
    audit = GatewayAudit(settings.data_dir)

    @app.post("/oauth2/token")
    async def token(request: Request) -> Response:
        rate.take()
        return await grant_token(request, tokens, settings)

    def needs(scope: str) -> Any:
        async def check(request: Request) -> None:
            rate.take()
            check_bearer(request.headers.get("authorization", ""), tokens, scope)

        return Depends(check)

    _add_presign(app, settings, audit, needs("upload"))
    stow = StowService(settings, audit, writer or ObjectWriter(settings))
    _add_stow(app, stow, settings.client_id, needs("upload"))
    _add_reading(app, PassedOn(settings, dicomweb), audit, settings.client_id, needs("read"))
    return app


def _add_presign(app: FastAPI, settings: GatewaySettings, audit: GatewayAudit, may_upload: Any) -> None:
    presign = presigner(settings)
    store = None if settings.is_plain else AnsweringStore(settings, presign)
    if store:
        store.add_to(app)

    @app.get("/upload/", dependencies=[may_upload])
    async def upload(request: Request) -> Response:
        key = new_key(settings.key_prefix)
        url = store.presigned(key, request) if store else presign(key)
        with _audited():
            audit.add(settings.client_id, "presign", key)
        return JSONResponse({"url": url, "key": key}, headers=NO_STORE)


def _add_stow(app: FastAPI, stow: StowService, user: str, may_upload: Any) -> None:
    @app.post("/studies", dependencies=[may_upload])
    async def store(request: Request) -> Response:
        return await stow.answer(request, user)

    @app.post("/studies/{study_uid}", dependencies=[may_upload])
    async def store_in_study(request: Request, study_uid: str) -> Response:
        return await stow.answer(request, user, study_uid)


def _add_reading(app: FastAPI, passed_on: PassedOn, audit: GatewayAudit, user: str, may_read: Any) -> None:
    async def read(request: Request) -> Response:
        last = request.url.path.rpartition("/")[2]
        with _audited():
            audit.add(user, "search" if last in _SEARCHED else "retrieve")
        return await passed_on.answer(request)

    for resource in _SEARCHED:
        for path in (f"/{resource}", f"/{resource}/{{rest:path}}"):
            app.add_api_route(path, read, dependencies=[may_read])


@contextmanager
def _audited() -> Iterator[None]:
    """What cannot be written down is not done."""
    try:
        yield
    except OSError:
        raise HTTPException(503, "no audit line can be written", {"Retry-After": "60"}) from None


def main() -> None:
    """Serves until SIGINT or SIGTERM; with --listen-fd until stdin closes, which is when the parent ends."""
    forbid_memory_dumps()
    parser = argparse.ArgumentParser(prog="python -m deployments.sandbox.gateway")
    parser.add_argument(
        "--listen-fd", type=int, help="an inherited listening socket, instead of HOST and PORT"
    )
    listen_fd: int | None = parser.parse_args().listen_fd
    # uvicorn raises the signal again once it has drained: that must not end us before the store is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with _with_bucket(settings_from_environment()) as settings:
            _serve(settings, listen_fd)
    except IngestError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def _with_bucket(settings: GatewaySettings) -> Iterator[GatewaySettings]:
    """The settings with a bucket in them: the one they name, else an embedded one while the block lasts."""
    if settings.bucket:
        yield settings
        return
    assert settings.data_dir
    keys = settings.access_key_id, settings.secret_access_key.get_secret_value()
    with storage.serve_objects(settings.data_dir, keys if all(keys) else None) as endpoint:
        embedded: dict[str, Any] = {
            "bucket": storage.BUCKET,
            "s3_endpoint": endpoint.url,
            "access_key_id": endpoint.access_key_id,
            "secret_access_key": SecretStr(endpoint.secret_access_key),
        }
        yield replace(settings, **embedded)


def _serve(settings: GatewaySettings, listen_fd: int | None) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            closing_what_broke_off(create_app(settings)),
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
