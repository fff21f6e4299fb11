"""httpx's vocabulary over the engine, for everything that is not the hot path."""

from dataclasses import replace
from typing import Final

import httpx

from tasks.core.errors import Fault, FaultKind
from tasks.remote.curl_engine import Engine
from tasks.remote.exchange import LIMITS, Limits, Request

_NOT_PASSED_ON: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


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
        headers = {**request.headers, "accept-encoding": "gzip, deflate"}  # what the engine decodes
        body = await request.aread()
        answer = await self._engine.send(Request(request.method, str(request.url), headers, body), limits)
        if answer.is_cut:
            raise Fault(FaultKind.NETWORK, "the answer has no end", answer.status)
        kept = {name: value for name, value in answer.headers.items() if name not in _NOT_PASSED_ON}
        return httpx.Response(answer.status, headers=kept, content=answer.body, request=request)
