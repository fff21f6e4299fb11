"""The platform's API gateway: OAuth2 client credentials, and presigned PUT URLs minted one at a time.

    POST /oauth2/token  client id and secret         ->  {"access_token", "token_type", "expires_in", "scope"}
    GET  /upload/       Authorization: Bearer TOKEN  ->  {"url": <presigned PUT URL>, "key": <object key>}
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
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from deployments.sandbox import storage
from deployments.sandbox.gateway.answering_store import AnsweringStore
from deployments.sandbox.gateway.gateway_settings import settings_from_environment
from deployments.sandbox.gateway.oauth2 import NO_STORE, Tokens, check_bearer, grant_token
from deployments.sandbox.gateway.presign import new_key, presigner
from tasks.core.errors import IngestError
from tasks.process_memory import forbid_memory_dumps
from tasks.sandbox_settings import GatewaySettings


def create_app(settings: GatewaySettings) -> FastAPI:
    """The gateway over the bucket that `settings` name. Does no I/O: a URL is signed, not asked for."""
    app = FastAPI(title="Upload API", docs_url=None, redoc_url=None, redirect_slashes=False)
    tokens = Tokens(settings.token_lifetime_s)
    presign = presigner(settings)

    async def bearer(request: Request) -> None:
        check_bearer(request.headers.get("authorization", ""), tokens)

    @app.post("/oauth2/token")
    async def token(request: Request) -> Response:
        return await grant_token(request, tokens, settings)

    store = None if settings.is_plain else AnsweringStore(settings, presign)
    if store:
        store.add_to(app)

    @app.get("/upload/", dependencies=[Depends(bearer)])
    async def upload(request: Request) -> Response:
        key = new_key(settings.key_prefix)
        url = store.presigned(key, request) if store else presign(key)
        return JSONResponse({"url": url, "key": key}, headers=NO_STORE)

    return app


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
