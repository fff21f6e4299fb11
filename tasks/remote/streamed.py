"""A body too large to hold: read and sent in a thread of its own, where a slow disk stops nobody else."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import pycurl

from tasks.concurrency.daemon_threads import in_thread
from tasks.core.errors import Fault, FaultKind
from tasks.remote.curl_handle import Handle
from tasks.remote.exchange import Answer, Limits, Request

if TYPE_CHECKING:
    import asyncio


class StreamedRequest:
    """One request, whose body is asked for once, from the first piece to the last."""

    def __init__(
        self, handle: Handle, pieces: Iterable[bytes], size_bytes: int, progress: Callable[[int], None] | None
    ) -> None:
        self._handle = handle
        self._pieces = iter(pieces)
        self._size_bytes = size_bytes
        self._progress = progress
        self._piece = memoryview(b"")
        self._error: BaseException | None = None
        self._is_cut = False

    def start(self, request: Request, url: str, limits: Limits) -> "asyncio.Future[Answer]":
        """What `run` makes, in a thread of its own."""
        return in_thread(partial(self.run, request, url, limits), "streamed")

    def run(self, request: Request, url: str, limits: Limits) -> Answer:
        """Blocks until there is an answer. Raises Fault, and what the pieces raise."""
        curl, number, text = self._handle.curl, 0, ""
        try:
            self._handle.begin_streamed(request, url, limits, self._size_bytes)
            curl.setopt(pycurl.READFUNCTION, self._read)
            curl.setopt(pycurl.XFERINFOFUNCTION, self._look)
            curl.setopt(pycurl.NOPROGRESS, 0)
            try:
                curl.perform()
            except pycurl.error as error:
                number, text = error.args
            if self._error:
                raise self._error
            if self._is_cut:
                raise Fault(FaultKind.NETWORK, "the transfer was cut off")
            return self._handle.answer(number, text)
        finally:
            curl.close()

    def cut(self) -> None:
        """From any thread: the connection is closed within a second."""
        self._is_cut = True

    def _read(self, most_bytes: int) -> bytes | int:
        try:
            while not self._piece and not self._is_cut:
                self._piece = memoryview(next(self._pieces))
        except StopIteration:
            return b""
        except BaseException as error:  # noqa: BLE001 - whatever it is, whoever waits for the answer gets it
            self._error = error
        if self._is_cut or self._error:
            return int(pycurl.READFUNC_ABORT)
        self._handle.excuse()  # the disk's time is not the server's
        data = bytes(self._piece[:most_bytes])
        self._piece = self._piece[most_bytes:]
        return data

    def _look(self, _to_get: int, _got: int, _to_send: int, sent_bytes: int) -> int:
        """Called about once a second, more often while something moves."""
        if self._progress:
            self._progress(sent_bytes)
        return int(self._is_cut or self._handle.lateness(sent_bytes) is not None)
