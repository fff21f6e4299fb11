"""httpx's vocabulary over the engine, for everything but the hot path, where its types cost too much."""

import logging
import time
from dataclasses import replace
from typing import Final

import httpx

from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import LIMITS, Answer, Limits, Request
from tasks.remote.curl_engine import Engine

_NOT_PASSED_ON: Final = frozenset({"content-encoding", "content-length", "transfer-encoding", "set-cookie"})


def http_client(engine: Engine) -> httpx.AsyncClient:
    """A client whose requests the engine sends, by its limits; it follows no redirect and keeps no cookie."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # below, it says every URL
    transport = EngineTransport(engine)
    return httpx.AsyncClient(transport=transport, timeout=None, trust_env=False)  # noqa: S113


def answer_of(response: httpx.Response) -> Answer:
    """What its status means, and how long it asks to wait, is asked of this."""
    return Answer(response.status_code, response.headers, response.content, received_at=time.time())


class EngineTransport(httpx.AsyncBaseTransport):
    """One TLS and proxy policy for all: `httpx.AsyncClient(transport=...)` then reads no environment.

    Requests are sent whole, answers are read whole, up to a bound. Raises Fault as the engine does, none of
    httpx's exceptions; also for an answer that is longer than the bound.
    """

    def __init__(self, engine: Engine, limits: Limits = LIMITS) -> None:
        """Closing it leaves the engine to whoever else uses that."""
        self._engine = engine
        self._limits = limits

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer to one request, decoded."""
        timeouts = request.extensions.get("timeout", {})
        limits = replace(
            self._limits,
            connect_s=timeouts.get("connect") or self._limits.connect_s,
            silence_s=timeouts.get("read") or self._limits.silence_s,
        )
        headers = {**request.headers, "accept-encoding": "identity"}  # httpx asks for what it could decode
        body = await request.aread()
        answer = await self._engine.send(Request(request.method, str(request.url), headers, body), limits)
        if answer.is_cut:
            raise Fault(FaultKind.NETWORK, "the answer has no end", answer.status)
        kept = {name: value for name, value in answer.headers.items() if name not in _NOT_PASSED_ON}
        return httpx.Response(answer.status, headers=kept, content=answer.body, request=request)
