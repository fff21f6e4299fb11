"""A server that speaks whatever a script says, byte by byte: one script for each connection it accepts."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

Script = Callable[[socket.socket], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class RawServer:
    """Accepts connections one after another; each is given to the next of its scripts, in a thread."""

    def __init__(
        self,
        *scripts: Script,
        context: ssl.SSLContext | None = None,
        family: socket.AddressFamily = socket.AF_INET,
        kernel_bytes: int = 0,
    ) -> None:
        """`kernel_bytes`: how much the kernel takes of what no script has read yet; 0: as it likes."""
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self._listening = socket.create_server((host, 0), family=family)
        if kernel_bytes:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_bytes)
        self._context = context
        scheme = "https" if context else "http"
        self.port: int = self._listening.getsockname()[1]
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self.connections = 0
        self.ended = threading.Event()  # let go: whatever waits for it
        self.failures: list[Exception] = []
        self._playing: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._serve, args=(scripts,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits until every script that was begun has been played."""
        self.ended.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in (self._thread, *self._playing):
            thread.join(10)

    def _serve(self, scripts: tuple[Script, ...]) -> None:
        for script in scripts:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._play, args=(script, connection), daemon=True)
            self._playing.append(thread)
            thread.start()

    def _play(self, script: Script, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            try:
                if self._context:
                    with _secured(self._context, connection) as secure:
                        script(secure)
                else:
                    script(connection)
            except OSError as error:  # also of TLS
                self.failures.append(error)


def _secured(context: ssl.SSLContext, connection: socket.socket) -> ssl.SSLSocket:
    """After the handshake; who fails at it is not reset before he has read why."""
    secure = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    try:
        secure.do_handshake()
    except ssl.SSLError:
        with socket.socket(fileno=secure.detach()) as plain, suppress(OSError):
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(1024):
                pass
        raise
    return secure


def head_of(connection: socket.socket) -> bytes:
    """Reads a request's head, and nothing after it; empty when the connection ends before."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def reply(answer: bytes, requests: int = 1) -> Script:
    """So many requests without a body are answered alike, then the connection is closed."""

    def play(connection: socket.socket) -> None:
        for _ in range(requests):
            head_of(connection)
            connection.sendall(answer)

    return play
