"""TLS and proxies on loopback, with certificates of our own making."""

import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from tasks.core.errors import Fault, FaultKind
from tasks.remote.http_pool import Connections, Timeouts, transport_to, trust
from tests.far_side import FarSide


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def served(certificate: trustme.LeafCert) -> FarSide:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return FarSide(context)


@pytest.fixture
def secure(only_our_settings: None, authority: trustme.CA) -> Iterator[FarSide]:
    """A far side with a certificate of the private authority, for its own address and for a name."""
    with served(authority.issue_cert("127.0.0.1", "api.example.org")) as far_side:
        yield far_side


def answered(url: str, ca_bundle: Path | None) -> int:
    context = trust(ca_bundle)
    connections = Connections(lambda url: transport_to(url, lambda: context), Timeouts(5, 5))
    try:
        return connections.send("HEAD", url, {}).status
    finally:
        connections.close()


class TestCertificate:
    def test_of_a_private_authority_is_trusted_when_its_bundle_is_given(
        self, secure: FarSide, bundle: Path
    ) -> None:
        assert answered(secure.url, bundle) == 404

    def test_of_an_unknown_authority_is_not(self, secure: FarSide) -> None:
        """And the message says which setting takes a private one."""
        with pytest.raises(Fault) as fault:
            answered(secure.url, None)
        assert fault.value.kind is FaultKind.SETTINGS
        assert "DICOM_INGEST_CA_BUNDLE" in str(fault.value)

    def test_for_another_host_is_not(
        self, only_our_settings: None, authority: trustme.CA, bundle: Path
    ) -> None:
        with served(authority.issue_cert("api.example.org")) as far_side, pytest.raises(Fault) as fault:
            answered(far_side.url, bundle)
        assert fault.value.kind is FaultKind.SETTINGS

    def test_is_checked_whatever_the_environment_says(
        self, secure: FarSide, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There is no way to switch it off."""
        for name in ("PYTHONHTTPSVERIFY", "SSL_VERIFY", "CURL_INSECURE"):
            monkeypatch.setenv(name, "0")
        with pytest.raises(Fault):
            answered(secure.url, None)


def test_an_answer_that_comes_before_the_body_is_sent_is_the_answer(
    authority: trustme.CA, bundle: Path
) -> None:
    """A store that refuses a large object says why and closes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def refuse() -> None:
        connection, _ = listening.accept()
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(1024)
            secure.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            secure.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while connection.recv(1 << 20):
                    pass

    trusted = trust(bundle)
    connections = Connections(lambda url: transport_to(url, lambda: trusted), Timeouts(5, 5))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=refuse)
        server.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/"
        assert connections.send("PUT", url, {}, bytes(20_000_000)).status == 403
        connections.close()
        server.join()


class Proxy(socketserver.ThreadingTCPServer):
    """HTTP CONNECT alone, to this machine; remembers where it was asked to connect to."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Tunnel)


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        _method, target, _version = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(target)
        with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2]))) as onward:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_copy, args=(onward, self.connection))
            back.start()
            _copy(self.connection, onward)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, only_our_settings: None) -> Iterator[Proxy]:
    with Proxy() as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        yield proxy
        proxy.shutdown()


class TestProxy:
    def test_of_the_environment_is_used(self, secure: FarSide, bundle: Path, proxy: Proxy) -> None:
        """TLS goes through it from end to end."""
        assert answered(named(secure), bundle) == 404
        assert proxy.asked == [named(secure).removeprefix("https://")]

    def test_is_left_out_for_hosts_that_are_excepted(
        self, secure: FarSide, bundle: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("no_proxy", "example.org")
        with pytest.raises(Fault):  # there is no such host
            answered(named(secure), bundle)
        assert proxy.asked == []

    def test_is_never_used_for_this_machine(self, secure: FarSide, bundle: Path, proxy: Proxy) -> None:
        """Whether NO_PROXY says so or not."""
        assert answered(secure.url, bundle) == 404
        assert proxy.asked == []


def named(secure: FarSide) -> str:
    """Its URL for who asks a proxy: no resolver knows the name."""
    return secure.url.replace("127.0.0.1", "api.example.org")
