"""Which proxy leads where, and what every library makes of an environment that was completed."""

import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from botocore.utils import should_bypass_proxies
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from tasks.core.http_messages import plain_url
from tasks.remote.proxies import proxy_for
from tasks.remote.proxy_environment import complete_environment
from tests.proxy import DEAD, DIRECTLY, SPELLINGS, Proxy, running_proxy, through

LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]
UNUSABLE = ["socks5h://proxy:1080", "ftp://proxy", "http://proxy:port", "://", "http://", "http://[::1"]
EXCEPTIONS = ["", "example.org", "example.org,[::1]", "fd00::/8, x:y,\xe4.example.org", ".local,<local>"]


@pytest.fixture(autouse=True)
def no_proxies(only_our_settings: None) -> None:
    """None of whoever runs the tests."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with running_proxy() as proxy:
        yield proxy


class TestCompleted:
    @pytest.fixture(params=EXCEPTIONS)
    def completed(
        self, request: pytest.FixtureRequest, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An environment with a proxy, and what people write into NO_PROXY."""
        environ = through(proxy.url) | {"NO_PROXY": request.param}
        complete_environment(environ)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    @pytest.mark.parametrize("host", LOOPBACK)
    def test_no_library_asks_a_proxy_for_this_machine(self, completed: None, proxy: Proxy, host: str) -> None:
        """httpx as Prefect's client, websockets as its events, urllib, botocore, and we."""
        url = f"http://{host}:{proxy.server_port}/api"
        assert [each for each in asked_by_httpx(proxy, url) if each != DIRECTLY] == []
        assert get_proxy(parse_uri(f"ws://{host}:4200/api")) is None
        assert proxy_to(url) == ""
        if host != "[::1]":  # written so, they know no exception that httpx can read; nobody here asks it
            assert urllib.request.proxy_bypass(f"{host}:4200")
            assert should_bypass_proxies(url)

    def test_every_library_asks_it_for_other_hosts(self, completed: None, proxy: Proxy) -> None:
        url = "http://api.example.com/upload/"
        assert asked_by_httpx(proxy, url) == ["api.example.com"]
        assert get_proxy(parse_uri("ws://api.example.com/")) == proxy.url
        assert proxy_to(url) == proxy.url
        assert not urllib.request.proxy_bypass("api.example.com")

    @pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy", "No_Proxy"])
    def test_what_was_excepted_stays_so_in_both_spellings(self, name: str) -> None:
        environ = {"HTTP_PROXY": DEAD, name: "a.example.org, .b.example.org:8080"}
        complete_environment(environ)
        assert environ["NO_PROXY"] == environ["no_proxy"]
        assert environ["NO_PROXY"].split(",")[:2] == ["a.example.org", ".b.example.org:8080"]

    def test_whoever_excepts_every_host_still_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """urllib understands the star only when it stands alone."""
        environ = {"HTTP_PROXY": DEAD, "NO_PROXY": "*"}
        complete_environment(environ)
        assert environ["NO_PROXY"] == environ["no_proxy"] == "*"

    def test_the_hosts_of_urls_on_this_machine_are_excepted_and_no_others(self) -> None:
        environ = {"HTTP_PROXY": DEAD}
        complete_environment(
            environ, "http://127.0.0.2:4200/api", "https://prefect.example.org/api", "", "://"
        )
        assert environ["no_proxy"] == "localhost,127.0.0.1,::1,127.0.0.2"

    def test_twice_is_as_once(self) -> None:
        """A command that a command starts does it, too."""
        environ = {"HTTPS_PROXY": "socks5://proxy", "http_proxy": DEAD, "NO_PROXY": "a"}
        complete_environment(environ)
        once = dict(environ)
        complete_environment(environ)
        assert environ == once

    @pytest.mark.parametrize("environ", [{}, {"NO_PROXY": "a"}, {"HTTP_PROXY": ""}])
    def test_nothing_is_changed_where_there_is_no_proxy(self, environ: dict[str, str]) -> None:
        before = dict(environ)
        complete_environment(environ)
        assert environ == before


class TestUnusable:
    """By httpx; what we say of one that nobody can use, test_engine_proxies.py shows."""

    @pytest.mark.parametrize("unusable", UNUSABLE)
    def test_proxy_keeps_nobody_from_asking_this_machine(
        self, unusable: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """httpx refuses to work at all while the environment names one."""
        environ = through(unusable)
        complete_environment(environ)
        assert not set(SPELLINGS) & set(environ)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert asked_by_httpx(proxy, f"{proxy.url}/api") == [DIRECTLY]

    def test_proxy_for_all_is_not_missed_where_another_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        environ = {"HTTPS_PROXY": "proxy:3128", "ALL_PROXY": "socks5://proxy"}
        complete_environment(environ)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert proxy_to("https://api.example.org") == "http://proxy:3128"
        assert proxy_to("http://api.example.org") == "socks5://proxy:1080"


def proxy_to(url: str) -> str:
    return proxy_for(plain_url(url)[1])


def asked_by_httpx(proxy: Proxy, url: str) -> list[str]:
    """What comes in at the proxy when a client of httpx, made now, asks for this URL."""
    with httpx.Client() as client, suppress(httpx.ConnectError):  # nobody listens at [::1]
        client.get(url)
    return proxy.asked
