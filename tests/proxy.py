"""A real HTTP proxy on loopback that remembers which hosts it was asked for, and is two of them itself."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

API = "http://api.example.org"
STORE = "http://store.example.org"
SPELLINGS = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
DIRECTLY = ""  # in place of a host, by who takes it for a server
DEAD = "http://127.0.0.1:9"  # nobody listens there


class Proxy(ThreadingHTTPServer):
    """Answers for API and STORE itself, and refuses every other host."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []  # hosts
        self.answer_to_get: Callable[[], bytes] | None = None  # in place of its own

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._note_host()
        key = f"key-{len(self.server.asked)}"
        own = {"url": f"{STORE}/{key}", "key": key}
        self._answer(
            200, self.server.answer_to_get() if self.server.answer_to_get else json.dumps(own).encode()
        )

    def do_HEAD(self) -> None:
        self._note_host()
        self._answer(404)

    def do_POST(self) -> None:
        self._note_host()
        self._answer(404)

    def do_PUT(self) -> None:
        self._note_host()
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path.rpartition(":")[0])
        self._answer(502)

    def _note_host(self) -> None:
        self.server.asked.append(urlsplit(self.path).hostname or DIRECTLY)

    def _answer(self, status: int, text: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing: what counts is `asked`."""


@contextmanager
def running_proxy() -> Iterator[Proxy]:
    """Until the block ends."""
    with Proxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def through(proxy: str) -> dict[str, str]:
    """An environment in which everything is to go through this proxy."""
    return dict.fromkeys(SPELLINGS, proxy)
