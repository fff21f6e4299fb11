"""Every request, by libcurl's multi interface on an asyncio event loop: no thread of ours waits for a socket.

libcurl says which sockets it waits for and when it wants to be called; the loop calls it; it says which
requests are done. Connections are kept and used again by libcurl, last in first out.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from selectors import DefaultSelector
from typing import Final

import pycurl

from tasks.concurrency.daemon_threads import wait_at_most
from tasks.core.answer_reader import Receiver
from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import LIMITS, Answer, Limits, Origin, Request, plain_url
from tasks.remote.curl_handle import Handle, Sockets
from tasks.remote.proxies import proxy_for
from tasks.remote.send_rate import PacedBody, SendRate
from tasks.remote.streamed import HeldBody, SentBody, StreamedBody
from tasks.remote.tls import Option, TlsPolicy

_MOST_CONNECTIONS: Final = 256  # that are kept while they are idle
_LOOKED_AT_EVERY_S: Final = 0.25  # whether a server is silent

# For what a handle is made: method, origin, allow_private, connect_s, and whether the body is streamed.
_Kind = tuple[str, Origin, bool, float, bool]


class Engine:
    """Of one event loop, in which everything here is called. Answers, 3xx too, are given as they come."""

    def __init__(self, tls: TlsPolicy, proxy: Callable[[Origin], str] = proxy_for) -> None:
        self._tls = tls
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._idle: defaultdict[_Kind, list[Handle]] = defaultdict(list)
        self._sockets: Sockets = {}
        self._under_way: dict[pycurl.Curl, Handle] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self.send_rate = SendRate()  # of all bodies that are `is_paced`
        # One of its own for libcurl's sockets, which the loop sees as one: its add_reader costs more.
        self._selector = DefaultSelector()
        self._watched: set[int] = set()
        self._loop.add_reader(self._selector.fileno(), self._poll)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, _MOST_CONNECTIONS)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    async def send(self, request: Request, limits: Limits = LIMITS, *, is_paced: bool = False) -> Answer:
        """One request and its answer, of any status. `is_paced`: its body counts for the `send_rate`.

        Raises Fault when there is none: NETWORK for what may pass, SETTINGS for what won't. Who is cancelled
        while he waits here has cut the connection.
        """
        if is_paced and self.send_rate.is_used:
            bare, body = replace(request, body=b""), request.body
            held = {"asks_first": False, "is_held": True}
            return await self.send_streamed(bare, [body], len(body), limits, **held, is_paced=True)
        return await self._send(request, limits, None)

    async def send_streamed(
        self,
        request: Request,
        pieces: Iterable[bytes],
        size_bytes: int,
        limits: Limits = LIMITS,
        *,
        asks_first: bool = True,
        is_held: bool = False,
        is_paced: bool = False,
    ) -> Answer:
        """The same with a body of so many bytes, whose pieces are asked for once, in a thread of its own.

        What they raise is raised here. `asks_first`: whether the server wants the body at all (Expect); one
        that does not know the question costs a second. `is_held`: the pieces need no thread.
        """
        kind: Callable[..., SentBody] = HeldBody if is_held else StreamedBody
        body = kind(pieces, size_bytes, asks_first=asks_first)
        if is_paced:
            body = PacedBody(body, self.send_rate)
        try:
            return await self._send(request, limits, body)
        finally:
            body.close()

    async def receive(self, request: Request, receiver: Receiver, limits: Limits = LIMITS) -> Answer:
        """The same without a body, for an answer too large to hold: if it is 2xx, the receiver gets its body.

        What the receiver raises is raised here.
        """
        return await self._send(request, limits, None, receiver)

    def close(self) -> None:
        """Cuts what is under way off, closes connections, forgets the sockets."""
        for handle in [*self._under_way.values()]:
            handle.fault = Fault(FaultKind.NETWORK, "the client was closed")
            self._end(handle.curl)
        for timer in filter(None, (self._soon, self._timer, self._sweep)):
            timer.cancel()
        self.send_rate.close()
        self._idle.clear()
        self._watched.clear()
        if self._selector.get_map() is not None:  # not closed yet
            self._loop.remove_reader(self._selector.fileno())
            self._selector.close()
            wait_at_most(1.0, self._multi.close, "closing")  # it waits for resolvers whom nobody needs
        self._tls.close()

    async def _send(
        self,
        request: Request,
        limits: Limits,
        streamed: SentBody | None,
        receiver: Receiver | None = None,
    ) -> Answer:
        url, origin = plain_url(request.url)
        kind = (request.method, origin, request.allow_private, limits.connect_s, streamed is not None)
        handle = self._idle[kind].pop() if self._idle[kind] else self._new_handle(kind)
        try:
            for is_again in (False, True):
                handle.begin(request, url, limits, streamed, is_again, receiver)
                handle.ended = self._loop.create_future()
                self._under_way[handle.curl] = handle
                self._multi.add_handle(handle.curl)
                self._sweep_later()
                number, text = await handle.ended
                if not handle.is_stale:
                    break
            return handle.answer(number, text)
        finally:
            if handle.curl in self._under_way:  # it was cancelled
                self._end(handle.curl)
            self._idle[kind].append(handle)

    def _new_handle(self, kind: _Kind) -> Handle:
        """One for requests of this kind, by the one TLS and proxy policy."""
        method, origin, allow_private, connect_s, _ = kind
        proxy = self._proxy(origin)
        is_tls = origin.scheme == "https" or proxy.startswith("https:")
        options: list[Option] = [
            (pycurl.PROXY, proxy),
            (pycurl.CONNECTTIMEOUT_MS, int(connect_s * 1000)),
            *(self._tls.options(origin) if is_tls else []),
        ]
        checks_address = origin.scheme == "http" and not allow_private
        return Handle(method, options, self._sockets, checks_address, is_proxied=bool(proxy))

    def _watch(self, what: int, socket: int, _multi: object, _data: object) -> None:
        """M_SOCKETFUNCTION: for what libcurl waits now, in bits that are the selectors' own."""
        if self._selector.get_map() is None:  # closed; libcurl says farewell to its connections
            return
        if what in (pycurl.POLL_NONE, pycurl.POLL_REMOVE):
            if socket in self._watched:
                self._watched.remove(socket)
                self._selector.unregister(socket)
        elif socket in self._watched:
            self._selector.modify(socket, what)
        else:
            self._watched.add(socket)
            self._selector.register(socket, what)

    def _poll(self) -> None:
        for key, events in self._selector.select(0):
            self._act(key.fd, events)

    def _set_timer(self, timeout_ms: int) -> None:
        """M_TIMERFUNCTION: when libcurl wants to be called. Too early does no harm, and costs less."""
        if timeout_ms == 0 and self._soon is None:
            self._soon = self._loop.call_soon(self._call_soon)
        elif timeout_ms > 0:
            at = self._loop.time() + timeout_ms / 1000
            if self._timer is None or at < self._timer.when():
                if self._timer:
                    self._timer.cancel()
                self._timer = self._loop.call_at(at, self._call_late)

    def _call_soon(self) -> None:
        self._soon = None
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _call_late(self) -> None:
        self._timer = None
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, socket: int, events: int) -> None:
        self._multi.socket_action(socket, events)
        left = 1
        while left:
            left, done, failed = self._multi.info_read()
            for curl in done:
                self._end(curl)
            for curl, number, text in failed:
                self._end(curl, number, text)

    def _end(self, curl: pycurl.Curl, number: int = 0, text: str = "") -> None:
        """Whatever is still on the wire then, its connection is closed."""
        handle = self._under_way.pop(curl)
        if handle.connection:
            self._sockets.pop(handle.connection, None)
            if (socket := curl.getinfo(pycurl.ACTIVESOCKET)) >= 0:  # it is kept
                self._sockets[handle.connection] = socket
        self._multi.remove_handle(curl)
        handle.rest()
        if not handle.ended.done():  # else it was cancelled
            handle.ended.set_result((number, text))

    def _sweep_later(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(_LOOKED_AT_EVERY_S, self._look_at_all)

    def _look_at_all(self) -> None:
        self._sweep = None
        for handle in [*self._under_way.values()]:
            if handle.is_late():
                self._end(handle.curl)
        if self._under_way:
            self._sweep_later()
