"""Where a URL leads, what is sent of a request, and what an answer asks for."""

from email.utils import formatdate

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Answer, Origin, Request, plain_url


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "sent", "origin"),
        [
            ("HTTP://A.example", "HTTP://A.example", Origin("http", "a.example", 80)),
            ("https://[FD00::1]:8443/a?b", "https://[FD00::1]:8443/a?b", Origin("https", "[fd00::1]", 8443)),
            ("http://a/../b//%41", "http://a/../b//%41", Origin("http", "a", 80)),
            ("http://a/b c?d=\u00fc%20", "http://a/b%20c?d=%C3%BC%20", Origin("http", "a", 80)),
            ("http://[::1]/\u65e5", "http://[::1]/%E6%97%A5", Origin("http", "[::1]", 80)),
            ("https://B\u00dccher.example:44/\u00e9", "https://xn--bcher-kva.example:44/%C3%A9", None),
            ("https://\u65e5\u672c.example/", "https://xn--wgv71a.example/", None),
        ],
    )
    def test_is_sent_as_it_is_but_for_what_no_url_has(
        self, url: str, sent: str, origin: Origin | None
    ) -> None:
        found, where = plain_url(url)
        assert found == sent
        assert where == (origin or plain_url(sent)[1])

    @pytest.mark.parametrize(
        "url",
        [
            "http://stra\u00dfe.example/",  # strasse to some, xn--strae-oqa to others
            "http://a\u200db.example/",
            "http://a\uff0fb.example/",  # a slash, once it is normalised
            "http://a\uff20b.example/",
            "http://\u00fc@a/",
            "http://a b/",
            "http://a/\n",
            "http://a/\u00fc\r\nX: y",
            "http://" + "\u00fc" * 70 + "/",
            "http://\u00fc..a/",
            "http://a:\u0661/",
            "http://\udcff/",
            "http://a/\udcff",
            "ftp://\u00fc/",
        ],
    )
    def test_that_some_read_otherwise_is_refused(self, url: str) -> None:
        with pytest.raises(Fault, match="can't be used") as fault:
            plain_url(url)
        assert fault.value.kind is FaultKind.SETTINGS

    @given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), max_size=8))
    def test_is_to_httpx_what_it_is_to_us(self, path: str) -> None:
        """Who asks by httpx asks the same server for the same."""
        try:
            url, origin = plain_url(f"https://b\u00fccher.example/{path}")
        except Fault:
            return
        assert origin.host == httpx.URL(url).raw_host.decode()
        assert httpx.URL(url).path == httpx.URL(f"https://b\u00fccher.example/{path}").path


class TestRequest:
    def test_asks_for_no_coding_unless_it_says_so(self) -> None:
        assert Request("GET", "").header_lines() == ["Accept-Encoding: identity"]
        assert Request("GET", "", {"accept-ENCODING": "br"}).header_lines() == ["accept-ENCODING: br"]

    def test_leaves_to_the_engine_what_the_engine_says(self) -> None:
        headers = dict.fromkeys(["Host", "content-length", "Transfer-Encoding", "Expect", "Connection"], "x")
        assert Request("GET", "", headers).header_lines() == ["Accept-Encoding: identity"]

    def test_says_an_empty_header_as_libcurl_wants_it(self) -> None:
        assert Request("GET", "", {"X": "", "Y": "a;b\tc"}).header_lines()[:2] == ["X;", "Y: a;b\tc"]

    @pytest.mark.parametrize(
        "headers",
        [{"X": "a\nb"}, {"X": "\r"}, {"X": "\xe9"}, {"X;": ""}, {"X;": "a"}, {"X ": "a"}, {" ": ""}],
    )
    def test_has_no_header_of_which_two_could_be_made(self, headers: dict[str, str]) -> None:
        with pytest.raises(Fault, match="can't be sent"):
            Request("GET", "", headers).header_lines()


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "date", "wait_s"),
        [
            ("7", 0, 7),
            ("999999", 0, 3600),
            ("soon", 0, 0),
            ("-3", 0, 0),
            (formatdate(1_000_100, usegmt=True), 0, 100),
            (formatdate(1_000_100, usegmt=True), 1_000_095, 5),
            (formatdate(999_000, usegmt=True), 0, 0),
        ],
    )
    def test_is_read_by_the_servers_clock_else_by_ours(self, value: str, date: int, wait_s: float) -> None:
        headers = {"retry-after": value} | ({"date": formatdate(date, usegmt=True)} if date else {})
        assert Answer(503, headers, b"", received_at=1_000_000.0).retry_after_s() == wait_s
