"""The engine's TLS on loopback, with certificates of our own making: whom it trusts, as whom it signs in."""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from tasks.core.errors import Fault, FaultKind, UsageError
from tasks.core.http_messages import Answer, Limits, Request
from tasks.remote.curl_engine import Engine
from tasks.remote.tls import TlsPolicy
from tests.raw_server import OK, RawServer, Script, head_of, reply
from tests.tasks.remote.test_curl_engine import EARLY, LARGE, directly

LIMITS = Limits(connect_s=5, silence_s=5, answer_s=5)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """Of a server that has this machine's address, and a name."""
    return of_server(authority.issue_cert("127.0.0.1", "localhost"))


def of_server(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@contextmanager
def serving(context: ssl.SSLContext, *scripts: Script) -> Iterator[RawServer]:
    server = RawServer(*scripts, context=context)
    try:
        yield server
    finally:
        server.close()


def ask(policy: TlsPolicy, *urls: str, body: bytes = b"") -> list[Answer]:
    """One after the other, by one engine."""

    async def send() -> list[Answer]:
        engine = Engine(policy, directly)
        try:
            requests = [Request("PUT" if body else "GET", url, {}, body) for url in urls]
            return [await engine.send(request, LIMITS) for request in requests]
        finally:
            engine.close()

    return asyncio.run(send())


class TestCertificate:
    def test_of_a_private_authority_is_trusted_when_its_bundle_is_given(
        self, context: ssl.SSLContext, bundle: Path
    ) -> None:
        with serving(context, reply(OK, requests=2)) as server:
            assert [each.status for each in ask(TlsPolicy(bundle), server.url, server.url)] == [200, 200]
            assert server.connections == 1

    def test_of_an_unknown_authority_is_not(self, context: ssl.SSLContext) -> None:
        """And the message says which setting takes a private one."""
        with serving(context, reply(OK)) as server, pytest.raises(Fault) as fault:
            ask(TlsPolicy(), server.url)
        assert fault.value.kind is FaultKind.SETTINGS
        assert "DICOM_INGEST_CA_BUNDLE" in str(fault.value)

    def test_for_another_host_is_not(self, authority: trustme.CA, bundle: Path) -> None:
        context = of_server(authority.issue_cert("api.example.org"))
        with serving(context, reply(OK)) as server, pytest.raises(Fault) as fault:
            ask(TlsPolicy(bundle), server.url)
        assert fault.value.kind is FaultKind.SETTINGS

    def test_that_is_out_of_date_is_not(self, authority: trustme.CA, bundle: Path) -> None:
        from datetime import UTC, datetime

        context = of_server(authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)))
        with serving(context, reply(OK)) as server, pytest.raises(Fault) as fault:
            ask(TlsPolicy(bundle), server.url)
        assert fault.value.kind is FaultKind.SETTINGS

    def test_is_checked_whatever_the_environment_says(
        self, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There is no way to switch it off."""
        for name in ("PYTHONHTTPSVERIFY", "SSL_VERIFY", "CURL_INSECURE"):
            monkeypatch.setenv(name, "0")
        with serving(context, reply(OK)) as server, pytest.raises(Fault):
            ask(TlsPolicy(), server.url)

    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
    def test_of_an_authority_of_the_operating_system_is_trusted(
        self, variable: str, context: ssl.SSLContext, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """These variables say where that keeps them; a directory's are named by their hashes."""
        directory = bundle.parent / "system"
        directory.mkdir()
        (directory / "0a1b2c3d.0").write_bytes(bundle.read_bytes())
        monkeypatch.setenv(variable, str(bundle if variable == "SSL_CERT_FILE" else directory))
        with serving(context, reply(OK)) as server:
            assert ask(TlsPolicy(), server.url)[0].status == 200

    def test_of_the_operating_systems_authorities_are_trusted_beside_the_bundles(
        self, context: ssl.SSLContext, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(other)
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        with serving(context, reply(OK)) as server:
            assert ask(TlsPolicy(other), server.url)[0].status == 200

    @pytest.mark.parametrize("text", [None, "", "no PEM"])
    def test_bundle_that_cannot_be_read_is_known_at_once(self, text: str | None, tmp_path: Path) -> None:
        path = tmp_path / "ca.pem"
        if text is not None:
            path.write_text(text)
        with pytest.raises(UsageError, match="DICOM_INGEST_CA_BUNDLE can't be read"):
            TlsPolicy(path)


class TestConnection:
    def test_that_is_no_tls_is_a_fault_of_the_network(self, bundle: Path) -> None:
        server = RawServer(lambda connection: connection.sendall(OK))
        with pytest.raises(Fault) as fault:
            ask(TlsPolicy(bundle), server.url.replace("http:", "https:"))
        server.close()
        assert fault.value.kind is FaultKind.NETWORK
        assert "TLS" in str(fault.value)

    def test_of_an_old_version_is_refused(
        self, context: ssl.SSLContext, bundle: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with serving(context, reply(OK)) as server, pytest.raises(Fault) as fault:
            ask(TlsPolicy(bundle), server.url)
        assert fault.value.kind is FaultKind.NETWORK

    def test_that_is_closed_while_it_is_idle_is_opened_anew(
        self, context: ssl.SSLContext, bundle: Path
    ) -> None:
        def late(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(OK)
            connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

        async def send_two() -> list[int]:
            engine = Engine(TlsPolicy(bundle), directly)
            request = Request("GET", server.url)
            first = await engine.send(request, LIMITS)
            time.sleep(0.2)
            second = await engine.send(request, LIMITS)
            engine.close()
            return [first.status, second.status]

        with serving(context, late, reply(OK)) as server:
            assert asyncio.run(send_two()) == [200, 200]
            assert server.connections == 2

    def test_that_is_cut_within_an_answer_is_a_fault_of_the_network(
        self, context: ssl.SSLContext, bundle: Path
    ) -> None:
        """Also where the end of the connection would be the end of the body: TLS says when that is whole."""

        def cut(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            connection.shutdown(socket.SHUT_RDWR)  # of TCP, without an end of TLS

        with serving(context, cut) as server, pytest.raises(Fault) as fault:
            ask(TlsPolicy(bundle), server.url)
        assert fault.value.kind is FaultKind.NETWORK

    def test_that_is_silent_from_the_start_is_a_time_out(self, bundle: Path) -> None:
        server = RawServer(lambda _: bool(server.ended.wait(10)))

        async def send() -> None:
            engine = Engine(TlsPolicy(bundle), directly)
            url = server.url.replace("http:", "https:")
            try:
                await engine.send(Request("GET", url), Limits(connect_s=0.3))
            finally:
                engine.close()

        with pytest.raises(Fault, match="in time") as fault:
            asyncio.run(send())
        server.close()
        assert fault.value.kind is FaultKind.NETWORK

    def test_carries_an_answer_that_comes_before_the_body_is_sent(
        self, context: ssl.SSLContext, bundle: Path
    ) -> None:
        """A store that refuses a large object says why and closes."""

        def refuse(connection: socket.socket) -> None:
            connection.recv(1024)
            connection.sendall(EARLY)
            connection.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while connection.recv(1 << 20):
                    pass

        with serving(context, refuse) as server:
            (answer,) = ask(TlsPolicy(bundle), server.url, body=LARGE)
        assert (answer.status, answer.is_sent_whole) == (403, False)


class TestClientCertificate:
    @pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
    def demanding(
        self, request: pytest.FixtureRequest, context: ssl.SSLContext, authority: trustme.CA
    ) -> ssl.SSLContext:
        """Of a server that wants a certificate of this authority, by each version of TLS."""
        context.minimum_version = context.maximum_version = request.param
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
        return context

    @pytest.fixture
    def client(self, authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
        """A certificate and its key."""
        return written(authority, tmp_path)

    def test_is_presented_to_the_api(
        self, demanding: ssl.SSLContext, bundle: Path, client: tuple[Path, Path]
    ) -> None:
        with serving(demanding, reply(OK)) as server:
            assert ask(TlsPolicy(bundle, *client, server.url), server.url)[0].status == 200

    def test_is_presented_with_a_streamed_body_too(
        self, demanding: ssl.SSLContext, bundle: Path, client: tuple[Path, Path]
    ) -> None:
        """One policy for both ways."""

        async def send() -> Answer:
            engine = Engine(TlsPolicy(bundle, *client, server.url), directly)
            try:
                return await engine.send_streamed(Request("PUT", server.url), [b"body"], 4, LIMITS)
            finally:
                engine.close()

        def read(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.recv(4)
            connection.sendall(OK)

        with serving(demanding, read) as server:
            assert asyncio.run(send()).status == 200

    def test_and_key_may_be_one_file(
        self, demanding: ssl.SSLContext, bundle: Path, client: tuple[Path, Path], tmp_path: Path
    ) -> None:
        both = tmp_path / "both.pem"
        both.write_bytes(client[0].read_bytes() + client[1].read_bytes())
        with serving(demanding, reply(OK)) as server:
            assert ask(TlsPolicy(bundle, both, None, server.url), server.url)[0].status == 200

    def test_is_presented_to_nobody_else(
        self, context: ssl.SSLContext, authority: trustme.CA, bundle: Path, client: tuple[Path, Path]
    ) -> None:
        """The object store at another port, or the API's by another name, asks in vain."""
        context.verify_mode = ssl.CERT_OPTIONAL
        authority.configure_trust(context)
        presented: list[bool] = []

        def note(connection: socket.socket) -> None:
            assert isinstance(connection, ssl.SSLSocket)
            head_of(connection)
            presented.append(bool(connection.getpeercert()))
            connection.sendall(OK)

        with serving(context, note, note) as api, serving(context, note, note) as store:
            policy = TlsPolicy(bundle, *client, api.url)
            ask(policy, api.url, store.url, api.url.replace("127.0.0.1", "localhost"))
        assert sorted(presented) == [False, False, True]
        assert presented[0]

    def test_that_the_server_wants_and_nobody_gave_is_a_fault(
        self, demanding: ssl.SSLContext, bundle: Path
    ) -> None:
        with serving(demanding, reply(OK)) as server, pytest.raises(Fault) as fault:
            ask(TlsPolicy(bundle), server.url)
        is_plain = demanding.minimum_version is ssl.TLSVersion.TLSv1_3  # before, any handshake may fail so
        assert fault.value.kind is (FaultKind.SETTINGS if is_plain else FaultKind.NETWORK)
        assert "DICOM_INGEST_CLIENT_CERT" in str(fault.value)

    def test_of_an_authority_that_the_server_does_not_trust_is_a_fault(
        self, demanding: ssl.SSLContext, bundle: Path, tmp_path: Path
    ) -> None:
        with serving(demanding, reply(OK)) as server, pytest.raises(Fault) as fault:
            ask(TlsPolicy(bundle, *written(trustme.CA(), tmp_path), server.url), server.url)
        assert fault.value.kind is FaultKind.SETTINGS

    def test_that_cannot_be_read_is_known_at_once(self, client: tuple[Path, Path], tmp_path: Path) -> None:
        """Or a key that is not its own, or behind a password that nobody is asked for."""
        certificate, key = client
        other = written(trustme.CA(), tmp_path / "other")[1]
        locked = tmp_path / "locked.pem"
        locked.write_bytes(with_password(key.read_bytes()))
        for pair in [
            (tmp_path / "none", key),
            (certificate, other),
            (certificate, locked),
            (certificate, None),
        ]:
            with pytest.raises(UsageError, match="DICOM_INGEST_CLIENT_CERT and _CLIENT_KEY can't be read"):
                TlsPolicy(None, *pair, "https://api.example.org")


def written(authority: trustme.CA, directory: Path) -> tuple[Path, Path]:
    directory.mkdir(exist_ok=True)
    certificate, key = directory / "client.pem", directory / "client-key.pem"
    issued = authority.issue_cert("client@example.org")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    return certificate, key


def with_password(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key, None)
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
