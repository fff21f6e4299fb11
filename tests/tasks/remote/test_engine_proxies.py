"""Through which proxy the engine asks, however people write it, and what it says of an unusable one."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Answer, Limits, Origin, Request, plain_url
from tasks.remote.curl_engine import Engine
from tasks.remote.proxies import is_excepted, proxy_for
from tasks.remote.proxy_environment import complete_environment
from tasks.remote.tls import TlsPolicy
from tests.proxy import API, STORE, Proxy, running_proxy
from tests.raw_server import OK, RawServer, reply
from tests.socks import running_socks
from tests.tasks.remote.test_engine_tls import of_server, serving

LIMITS = Limits(connect_s=5, silence_s=5, answer_s=5)
NOWHERE = Origin("https", "api.example.org", 443)
UNUSABLE = [
    "ftp://proxy",
    "http://proxy:port",
    "://",
    "http://",
    "http://[::1",
    "http://proxy:70000",
    "http://secret@pass@proxy",
    "proxy secret",
    "socks6://proxy",
]


@pytest.fixture(autouse=True)
def no_proxies(only_our_settings: None) -> None:
    """None of whoever runs the tests."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with running_proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    return of_server(authority.issue_cert("api.example.org", "127.0.0.1"))


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def ask(url: str, bundle: Path | None = None, body: bytes = b"", **more: bool) -> Answer:
    async def send() -> Answer:
        engine = Engine(TlsPolicy(bundle))
        try:
            return await engine.send(Request("PUT" if body else "GET", url, {}, body, **more), LIMITS)
        finally:
            engine.close()

    return asyncio.run(send())


def named(server: RawServer) -> str:
    """Its URL for who asks a proxy: no resolver knows the name."""
    return server.url.replace("127.0.0.1", "api.example.org")


class TestHttpProxy:
    @pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
    @pytest.mark.parametrize("scheme", ["", "http://", "HTTP://"])
    def test_of_the_environment_is_asked(
        self, proxy: Proxy, name: str, scheme: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a scheme or without."""
        monkeypatch.setenv(name, f"{scheme}127.0.0.1:{proxy.server_port}")
        assert ask(f"{API}/upload/").status == 200
        assert ask(f"{STORE}/key", body=b"body").status == 200
        assert proxy.asked == ["api.example.org", "store.example.org"]

    def test_resolves_names_itself(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        """So what it connects to is not ours to check."""
        monkeypatch.setenv("http_proxy", proxy.url)
        assert ask(f"{API}/upload/", allow_private=False).status == 200

    def test_leads_tls_through_from_end_to_end(
        self, context: ssl.SSLContext, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with serving(context, reply(OK)) as server, running_socks(connect_only=True) as tunnel:
            monkeypatch.setenv("https_proxy", f"127.0.0.1:{tunnel.port}")
            assert ask(named(server), bundle).status == 200
            assert tunnel.asked == [f"api.example.org:{server.port}"]

    def test_that_is_asked_over_tls_is_trusted_by_the_same_bundle(
        self, context: ssl.SSLContext, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with serving(context, reply(OK), reply(OK)) as server:
            monkeypatch.setenv("http_proxy", server.url)
            assert ask(f"{API}/upload/", bundle).status == 200
            with pytest.raises(Fault, match="not trusted"):
                ask(f"{API}/upload/")

    def test_that_refuses_is_a_fault_with_its_status(
        self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(Fault, match="the proxy answered 502 to CONNECT") as fault:
            ask("https://api.example.org/")
        assert fault.value.kind is FaultKind.NETWORK
        assert proxy.asked == ["api.example.org"]

    def test_that_is_not_there_is_a_fault_of_the_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("https_proxy", "proxy.invalid:3128")
        with pytest.raises(Fault, match="the proxy's name can't be resolved") as fault:
            ask("https://api.example.org/")
        assert fault.value.kind is FaultKind.NETWORK

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_is_never_asked_for_this_machine(
        self, proxy: Proxy, host: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether NO_PROXY says so or not."""
        monkeypatch.setenv("http_proxy", proxy.url)
        server = RawServer(reply(OK))
        assert ask(server.url.replace("127.0.0.1", host)).status == 200
        server.close()
        assert proxy.asked == []

    @pytest.mark.parametrize("entry", ["example.org", "api.example.org:80", "*"])
    def test_is_left_out_for_hosts_that_are_excepted(
        self, proxy: Proxy, entry: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Which no resolver knows here."""
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", entry)
        with pytest.raises(Fault, match="the host's name can't be resolved"):
            ask(f"{API}/upload/")
        assert proxy.asked == []


class TestSocksProxy:
    @pytest.mark.parametrize("is_completed", [False, True])
    @pytest.mark.parametrize("name", ["https_proxy", "ALL_PROXY"])
    def test_is_asked_by_name(
        self,
        name: str,
        is_completed: bool,
        context: ssl.SSLContext,
        bundle: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Also in a process that has hidden it from httpx, which would refuse to work."""
        with serving(context, reply(OK)) as server, running_socks() as socks:
            environ = {name: f"socks5h://127.0.0.1:{socks.port}"}
            if is_completed:
                complete_environment(environ)
                assert name not in environ
            for variable, value in environ.items():
                monkeypatch.setenv(variable, value)
            assert ask(named(server), bundle).status == 200
            assert socks.asked == [f"api.example.org:{server.port}"]

    def test_that_wants_a_password_gets_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = RawServer(reply(OK))
        with running_socks("pass/word") as socks:
            monkeypatch.setenv("http_proxy", f"socks5h://user:pass%2Fword@127.0.0.1:{socks.port}")
            assert ask(named(server)).status == 200
            monkeypatch.setenv("http_proxy", f"socks5h://user:other@127.0.0.1:{socks.port}")
            with pytest.raises(Fault, match="the proxy does not make the connection") as fault:
                ask(named(server))
        server.close()
        assert fault.value.kind is FaultKind.NETWORK


class TestUnusable:
    @pytest.mark.parametrize("text", UNUSABLE)
    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
    @pytest.mark.parametrize("is_completed", [False, True])
    def test_proxy_is_one_sentence_that_names_the_setting_and_not_its_text(
        self, text: str, name: str, is_completed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        environ = {name: text, "NO_PROXY": "example.com"}
        if is_completed:
            complete_environment(environ)
        for variable, value in environ.items():
            monkeypatch.setenv(variable, value)
        with pytest.raises(Fault) as fault:
            proxy_for(NOWHERE)
        assert fault.value.kind is FaultKind.SETTINGS
        assert str(fault.value).startswith(f"{name} names no proxy that can be used")
        assert "secret" not in str(fault.value)
        for host in ("127.0.0.1", "[::1]", "localhost", "api.example.com"):
            assert proxy_for(Origin("https", host, 443)) == ""


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("proxy", "http://proxy:80"),
        ("proxy:3128", "http://proxy:3128"),
        ("http://proxy.example.org/", "http://proxy.example.org:80"),
        ("https://proxy", "https://proxy:443"),
        ("socks5h://proxy", "socks5h://proxy:1080"),
        ("SOCKS5://[2001:db8::1]:1081", "socks5://[2001:db8::1]:1081"),
        (" http://user:p%40ss@10.0.0.1:8080 ", "http://user:p%40ss@10.0.0.1:8080"),
        ("", ""),
    ],
)
def test_proxy_is_understood_as_it_is_written(text: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports are those that the scheme usually has."""
    monkeypatch.setenv("https_proxy", text)
    assert proxy_for(NOWHERE) == proxy


def test_proxy_of_the_scheme_comes_before_that_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "all")
    monkeypatch.setenv("https_proxy", "secure")
    assert proxy_for(NOWHERE) == "http://secure:80"
    assert proxy_for(Origin("http", "api.example.org", 80)) == "http://all:80"


def test_proxy_in_small_letters_comes_before_one_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for curl and urllib; whichever of them httpx could not use."""
    for small, capital in (("socks5h://a:1", "http://b:2"), ("http://a:1", "socks5h://b:2")):
        environ = {"https_proxy": small, "HTTPS_PROXY": capital}
        complete_environment(environ)
        with monkeypatch.context() as patched:
            for name, value in environ.items():
                patched.setenv(name, value)
            assert proxy_for(NOWHERE) == small


@pytest.mark.parametrize(
    ("entries", "url", "excepted"),
    [
        ("*", "https://any.example", True),
        ("example.org", "https://example.org", True),
        ("example.org", "https://api.example.org", True),
        ("example.org", "https://counterexample.org", False),
        (".example.org", "https://api.EXAMPLE.org", True),
        ("*.example.org", "https://api.example.org.", True),
        ("a.example.org", "https://b.example.org", False),
        ("other, api.example.org", "https://api.example.org", True),
        ("other api.example.org", "https://api.example.org", True),
        ("api.example.org:8443", "https://api.example.org:8443", True),
        ("api.example.org:8443", "https://api.example.org", False),
        ("api.example.org:443", "https://api.example.org", True),
        ("192.0.2.7", "https://192.0.2.7", True),
        ("192.0.2.7", "https://192.0.2.70", False),
        ("192.0.2.0/24", "https://192.0.2.70", True),
        ("192.0.2.0/24", "https://192.0.3.70", False),
        ("192.0.2.0/24", "https://api.example.org", False),
        ("192.0.2.7:8443", "https://192.0.2.7:8443", True),
        ("192.0.2.7:8443", "https://192.0.2.7:1", False),
        ("2001:db8::1", "https://[2001:db8:0::1]", True),
        ("[2001:db8::1]", "https://[2001:db8::1]", True),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443", True),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]", False),
        ("2001:db8::/32", "https://[2001:db8::7]", True),
        ("", "https://api.example.org", False),
        (".", "https://api.example.org", False),
        (":443", "https://api.example.org", False),
    ],
)
def test_host_is_excepted_as_no_proxy_says(entries: str, url: str, excepted: bool) -> None:
    """Names, suffixes, addresses and networks."""
    assert is_excepted(plain_url(url)[1], entries) is excepted
