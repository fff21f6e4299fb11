"""One token bucket for all bodies that are sent at a limited rate: libcurl pauses while it is empty.

libcurl asks for the next piece; who asks first gets it first, a fiftieth of a second's bytes at once, so that
all bodies move. What a late timer left unused is made up for, a tenth of a second of it at the most. Headers,
and what TLS adds, are not counted.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import pycurl

from tasks.core.bandwidth import Rate
from tasks.remote.streamed import SentBody

_PIECES_A_SECOND: Final = 50
_MADE_UP_FOR_S: Final = 0.1


class SendRate:
    """For the event loop's thread alone."""

    def __init__(self, rate: Rate = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._rate = rate
        self.is_used = rate is not None  # has been, or will be: a body that is begun unpaced stays so
        self._free_at = self._loop.time()  # when the next byte may be sent
        self._waiting: deque[PacedBody] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rate(self) -> Rate:
        """What is in force."""
        return self._rate

    def set(self, rate: Rate) -> None:
        """From now on, for what is under way, too."""
        now = self._loop.time()
        debt_bytes = max(0.0, self._free_at - now) * (self._rate or 0)
        self._rate = rate
        self.is_used |= rate is not None
        # What was granted is paid by the time that it takes, at the faster of the two.
        self._free_at = min(self._free_at, now + debt_bytes / rate) if rate else now
        self._serve()

    def take(self, body: "PacedBody", most_bytes: int) -> int:
        """How many bytes it may send now; 0: it waits, and is called when it may."""
        if self._waiting or not self._is_free():
            self._waiting.append(body)
            self._serve_later()
            return 0
        return self._grant(most_bytes)

    def give_back(self, count: int) -> None:
        """Of what was granted, so many bytes were not sent."""
        if self._rate and count:
            self._free_at -= count / self._rate

    def leave(self, body: "PacedBody") -> None:
        """It sends no more."""
        if body in self._waiting:
            self._waiting.remove(body)

    def close(self) -> None:
        """Nobody is called any more."""
        self._waiting.clear()
        if self._timer:
            self._timer.cancel()

    def _is_free(self) -> bool:
        return self._rate is None or self._free_at <= self._loop.time()

    def _grant(self, most_bytes: int) -> int:
        if self._rate is None:
            return most_bytes
        piece = min(most_bytes, max(1, self._rate // _PIECES_A_SECOND))
        self._free_at = max(self._free_at, self._loop.time() - _MADE_UP_FOR_S) + piece / self._rate
        return piece

    def _serve(self) -> None:
        """All whom there is something for, in their order."""
        while self._waiting and self._is_free():
            body = self._waiting.popleft()
            body.go_on(self._grant(body.wanted_bytes))
        self._serve_later()

    def _serve_later(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._timer = self._loop.call_at(self._free_at, self._serve)


class PacedBody:
    """A body that is sent as fast as the rate lets it."""

    def __init__(self, body: SentBody, rate: SendRate) -> None:
        self.size_bytes = body.size_bytes
        self.asks_first = body.asks_first
        self.wanted_bytes = 0  # while it waits
        self._body = body
        self._rate = rate
        self._left = body.size_bytes
        self._granted = 0
        self._on_piece: Callable[[], None] | None = None
        self._is_waiting = False

    @property
    def is_awaited(self) -> bool:
        """The next piece, by libcurl: of who reads it."""
        return self._body.is_awaited

    @property
    def is_held_up(self) -> bool:
        """By the rate."""
        return self._is_waiting

    @property
    def error(self) -> BaseException | None:
        """That the pieces raised."""
        return self._body.error

    @property
    def on_piece(self) -> Callable[[], None] | None:
        """Lets libcurl go on; None: it wants no more."""
        return self._on_piece

    @on_piece.setter
    def on_piece(self, on_piece: Callable[[], None] | None) -> None:
        self._on_piece = self._body.on_piece = on_piece
        if on_piece is None:
            self._stop()

    def read(self, most_bytes: int) -> bytes | int:
        """READFUNCTION: what may be sent now, of the next bytes."""
        if not self._granted and self._left:
            self.wanted_bytes = min(most_bytes, self._left)
            self._granted = self._rate.take(self, self.wanted_bytes)
            self._is_waiting = not self._granted
            if self._is_waiting:
                return int(pycurl.READFUNC_PAUSE)
        data = self._body.read(min(most_bytes, self._granted or most_bytes))
        if isinstance(data, bytes):
            self._left -= len(data)
            self._granted = max(0, self._granted - len(data))
        return data

    def go_on(self, granted: int) -> None:
        """So many bytes may be sent."""
        self._granted, self._is_waiting = granted, False
        if self._on_piece:
            self._on_piece()

    def close(self) -> None:
        """It was sent, or is not wanted any more."""
        self._stop()
        self._body.close()

    def _stop(self) -> None:
        self._rate.leave(self)
        self._rate.give_back(self._granted)
        self._granted, self._is_waiting = 0, False
