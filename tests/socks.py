"""A real proxy on loopback that tunnels to this machine, by SOCKS5 (RFC 1928) or CONNECT."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NAME, _IPV4 = 3, 1


class Socks(socketserver.ThreadingTCPServer):
    """Connects to this machine alone, whatever host it is asked for, and remembers that."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, password: str = "", *, connect_only: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Connect if connect_only else _Socks5)
        self.password = password
        self.asked: list[str] = []  # host:port

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Tunnel(socketserver.StreamRequestHandler):
    server: Socks

    def tunnel(self, host: str, port: int, success: bytes) -> None:
        self.server.asked.append(f"{host}:{port}")
        with socket.create_connection(("127.0.0.1", port)) as onward:
            self.wfile.write(success)
            back = threading.Thread(target=_copy, args=(onward, self.connection))
            back.start()
            _copy(self.connection, onward)
            back.join()


class _Connect(_Tunnel):
    def handle(self) -> None:
        _method, target, _version = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        host, _, port = target.rpartition(":")
        self.tunnel(host, int(port), b"HTTP/1.1 200 Connection established\r\n\r\n")


class _Socks5(_Tunnel):
    def handle(self) -> None:
        _version, count = self.rfile.read(2)
        self.rfile.read(count)
        if not self._signed_in():
            return
        _version, _connect, _zero, kind = self.rfile.read(4)
        if kind == _NAME:
            host = self.rfile.read(self.rfile.read(1)[0]).decode()
        else:
            assert kind == _IPV4
            host = socket.inet_ntoa(self.rfile.read(4))
        port = int.from_bytes(self.rfile.read(2))
        self.tunnel(host, port, b"\x05\0\0\x01" + bytes(6))

    def _signed_in(self) -> bool:
        if not self.server.password:
            self.wfile.write(b"\x05\0")
            return True
        self.wfile.write(b"\x05\x02")
        self.rfile.read(1)
        _user, password = (self.rfile.read(self.rfile.read(1)[0]).decode() for _ in range(2))
        is_right = password == self.server.password
        self.wfile.write(b"\x01\0" if is_right else b"\x01\x01")
        return is_right


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@contextmanager
def running_socks(password: str = "", *, connect_only: bool = False) -> Iterator[Socks]:
    """Until the block ends."""
    with Socks(password, connect_only=connect_only) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
