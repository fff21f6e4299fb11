"""A signed POST to an address of the operator's, as Standard Webhooks (standardwebhooks.com) has it.

webhook-id: <the same for each try of one message>
webhook-timestamp: <Unix seconds>
webhook-signature: v1,<HMAC-SHA256 of "id.timestamp.body", base64>
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Request
from tasks.core.retry import Action, backoff_s, decide
from tasks.remote.curl_engine import Engine

_REFUSING: Final = frozenset({401, 403})


class Webhook:
    """Where messages go, and what signs them."""

    def __init__(
        self,
        engine: Engine,
        url: str,
        secret: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        from standardwebhooks import Webhook as Signer

        self._engine = engine
        self._url = url
        self._signer = Signer(secret)
        self._sleep = sleep
        self._jitter = jitter

    async def post(self, message_id: str, body: str) -> None:
        """Posts a message, again with the same id while that may help. Raises the last Fault otherwise."""
        seen: Counter[FaultKind] = Counter()
        while True:
            try:
                return await self._post_once(message_id, body)
            except Fault as fault:
                seen[fault.kind] += 1
                follows = decide(fault.kind, seen[fault.kind], any_granted=True, forbidden_in_a_row=0)
                if follows is not Action.RETRY:
                    raise
                await self._sleep(backoff_s(fault, seen[fault.kind], self._jitter()))

    async def _post_once(self, message_id: str, body: str) -> None:
        at = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._signer.sign(message_id, at, body),
        }
        answer = await self._engine.send(Request("POST", self._url, headers, body.encode()))
        if 200 <= answer.status < 300:
            return
        what = f"the webhook answered {answer.status}"
        if trouble := answer.trouble():
            raise Fault(trouble, what, answer.status, answer.retry_after_s())
        kind = FaultKind.UNAUTHORIZED if answer.status in _REFUSING else FaultKind.REJECTED
        raise Fault(kind, what, answer.status)
