"""Every request, by libcurl's multi interface on an asyncio event loop: no thread of ours waits for a socket.

libcurl says which sockets it waits for and when it wants to be called; the loop calls it; it says which
requests are done. Connections are kept and used again by libcurl, last in first out.
"""

import asyncio
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import pycurl

from tasks.core.errors import Fault, FaultKind
from tasks.remote.curl_handle import Handle, Sockets
from tasks.remote.exchange import LIMITS, Answer, Limits, Origin, Request, plain_url
from tasks.remote.proxies import proxy_for
from tasks.remote.streamed import StreamedRequest
from tasks.remote.tls import Option, TlsPolicy

_MOST_CONNECTIONS: Final = 256  # that are kept while they are idle
_CUT_WITHIN_S: Final = 3.0  # libcurl looks once a second; a disk may take longer
_MOST_IDLE: Final = 128  # handles of a kind
_NO_SOCKET: Final = 0  # in place of an inode
_LOOKED_AT_EVERY_S: Final = 1.0  # whether a server is silent

# Of requests that differ in path, headers and body alone: method, origin, allow_private, connect_s.
Kind = tuple[str, Origin, bool, float]


@dataclass(slots=True)
class _UnderWay:
    handle: Handle
    kind: Kind
    future: "asyncio.Future[Answer]"

    def settle(self, outcome: Answer | Exception) -> None:
        """Wakes who waits, unless he was cancelled meanwhile."""
        if self.future.done():
            return
        if isinstance(outcome, Answer):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


class Engine:
    """Of one event loop, in which everything here is called. Answers, 3xx too, are given as they come."""

    def __init__(self, tls: TlsPolicy, proxy: Callable[[Origin], str] = proxy_for) -> None:
        self._tls = tls
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._idle: defaultdict[Kind, list[Handle]] = defaultdict(list)
        self._proxies: dict[Origin, str] = {}
        self._sockets: Sockets = {}
        self._under_way: dict[pycurl.Curl, _UnderWay] = {}
        self._watched: dict[int, int] = {}  # sockets, and for what
        self._readers: dict[int, int] = {}  # sockets that have one in the loop, and their inodes
        self._timer: asyncio.TimerHandle | None = None
        self._is_called_soon = False
        self._sweep: asyncio.TimerHandle | None = None
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, _MOST_CONNECTIONS)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    async def send(self, request: Request, limits: Limits = LIMITS) -> Answer:
        """One request and its answer, of any status.

        Raises Fault when there is none: NETWORK for what may pass, SETTINGS for what won't. Who is cancelled
        while he waits here has cut the connection.
        """
        url, origin = plain_url(request.url)
        kind = (request.method, origin, request.allow_private, limits.connect_s)
        handle = self._idle[kind].pop() if self._idle[kind] else self._new_handle(kind, self._sockets)
        handle.begin(request, url, limits)
        under_way = _UnderWay(handle, kind, self._loop.create_future())
        self._under_way[handle.curl] = under_way
        self._multi.add_handle(handle.curl)
        self._sweep_later(min(_LOOKED_AT_EVERY_S, limits.silence_s / 4, limits.answer_s / 4))
        try:
            return await under_way.future
        except asyncio.CancelledError:
            self._cut(under_way)
            raise

    async def send_streamed(
        self,
        request: Request,
        pieces: Iterable[bytes],
        size_bytes: int,
        limits: Limits = LIMITS,
        progress: Callable[[int], None] | None = None,
    ) -> Answer:
        """The same with a body of so many bytes, whose pieces are asked for once, in a thread of its own.

        There, too, `progress` is called with how many bytes were sent. What the pieces raise is raised here.
        """
        url, origin = plain_url(request.url)
        kind = (request.method, origin, request.allow_private, limits.connect_s)
        streamed = StreamedRequest(self._new_handle(kind, {}), pieces, size_bytes, progress)
        answer = streamed.start(request, url, limits)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            streamed.cut()
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait([answer], timeout=_CUT_WITHIN_S)
            raise

    def _new_handle(self, kind: Kind, sockets: Sockets) -> Handle:
        """One for requests of this kind, by the one TLS and proxy policy."""
        method, origin, allow_private, connect_s = kind
        if origin not in self._proxies:
            self._proxies[origin] = self._proxy(origin)
        proxy = self._proxies[origin]
        is_tls = origin.scheme == "https" or proxy.startswith("https:")
        options: list[Option] = [
            (pycurl.PROXY, proxy),
            (pycurl.CONNECTTIMEOUT_MS, int(connect_s * 1000)),
            *(self._tls.options(origin) if is_tls else []),
        ]
        checks_address = origin.scheme == "http" and not proxy and not allow_private
        return Handle(method, options, sockets, checks_address=checks_address)

    def close(self) -> None:
        """Cuts what is under way off, closes connections, forgets the sockets."""
        for under_way in [*self._under_way.values()]:
            self._cut(under_way)
            under_way.settle(Fault(FaultKind.NETWORK, "the client was closed"))
        for timer in (self._timer, self._sweep):
            if timer:
                timer.cancel()
        self._multi.close()
        for handles in self._idle.values():
            for handle in handles:
                handle.curl.close()
        self._idle.clear()
        for socket in [*self._watched]:
            self._watch(pycurl.POLL_REMOVE, socket, None, None)
        for socket in [*self._readers]:
            self._remove_reader(socket)
        self._tls.close()

    def _watch(self, what: int, socket: int, _multi: object, _data: object) -> None:
        """M_SOCKETFUNCTION: for what libcurl waits now.

        The reader of a connection stays in the loop: it would be removed and added again for each request.
        """
        before = self._watched.pop(socket, pycurl.POLL_NONE)
        now = pycurl.POLL_NONE if what == pycurl.POLL_REMOVE else what
        if now != pycurl.POLL_NONE:
            self._watched[socket] = now
            if before == pycurl.POLL_NONE:
                self._forget_closed(socket)
        elif self._readers.get(socket) == _NO_SOCKET:
            self._remove_reader(socket)
        if now & pycurl.POLL_IN and socket not in self._readers:
            self._loop.add_reader(socket, self._read, socket)
            self._readers[socket] = _inode(socket)
        if now & pycurl.POLL_OUT and not before & pycurl.POLL_OUT:
            self._loop.add_writer(socket, self._act, socket, pycurl.CSELECT_OUT)
        elif before & pycurl.POLL_OUT and not now & pycurl.POLL_OUT:
            self._loop.remove_writer(socket)

    def _read(self, socket: int) -> None:
        if self._watched.get(socket, pycurl.POLL_NONE) & pycurl.POLL_IN:
            self._act(socket, pycurl.CSELECT_IN)
        else:  # nobody waits for it: of an idle connection it is most likely the end
            self._remove_reader(socket)

    def _forget_closed(self, socket: int) -> None:
        """Another one had this number before: closed, it has no reader any more."""
        if socket in self._readers and _inode(socket) != self._readers[socket]:
            self._remove_reader(socket)

    def _remove_reader(self, socket: int) -> None:
        del self._readers[socket]
        self._loop.remove_reader(socket)

    def _set_timer(self, timeout_ms: int) -> None:
        """M_TIMERFUNCTION: when libcurl wants to be called. Too early does no harm, and costs less."""
        if timeout_ms == 0:
            if not self._is_called_soon:
                self._is_called_soon = True
                self._loop.call_soon(self._call_soon)
        elif timeout_ms > 0:
            at = self._loop.time() + timeout_ms / 1000
            if self._timer and self._timer.when() <= at:
                return
            if self._timer:
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._call_late)

    def _call_soon(self) -> None:
        self._is_called_soon = False
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
                self._end(curl, 0, "")
            for curl, number, text in failed:
                self._end(curl, number, text)

    def _end(self, curl: pycurl.Curl, number: int, text: str) -> None:
        self._multi.remove_handle(curl)
        if self._under_way[curl].handle.is_stale:
            self._under_way[curl].handle.renew()
            self._multi.add_handle(curl)
            return
        under_way = self._under_way.pop(curl)
        try:
            answer = under_way.handle.answer(number, text)
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits has to learn of it
            curl.close()
            under_way.settle(error)
            return
        under_way.settle(answer)
        under_way.handle.rest()
        idle = self._idle[under_way.kind]
        if len(idle) < _MOST_IDLE:
            idle.append(under_way.handle)
        else:
            curl.close()

    def _cut(self, under_way: _UnderWay) -> None:
        """The connection is closed, whatever is on the wire."""
        curl = under_way.handle.curl
        if self._under_way.get(curl) is under_way:  # else it is done, and its handle may be another's by now
            del self._under_way[curl]
            self._multi.remove_handle(curl)
            curl.close()

    def _sweep_later(self, every_s: float) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(every_s, self._look_at_all, every_s)

    def _look_at_all(self, every_s: float) -> None:
        self._sweep = None
        for under_way in [*self._under_way.values()]:
            if fault := under_way.handle.lateness():
                self._cut(under_way)
                under_way.settle(fault)
        if self._under_way:
            self._sweep_later(every_s)


def _inode(opened: int) -> int:
    """By which a socket is known from all others; what is none has one with many."""
    status = os.fstat(opened)
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else _NO_SOCKET
