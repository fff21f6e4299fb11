"""URLs that need no look of httpx's are those of which it would say the same."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.setting_values import PLAIN_URL, host_of, why_no_endpoint, without_upload


@given(st.from_regex(PLAIN_URL, fullmatch=True))
def test_plain_url_is_to_httpx_what_it_is_to_us(url: str) -> None:
    plain, parsed = PLAIN_URL.match(url), httpx.URL(url)
    assert plain
    assert (plain["scheme"], plain["host"]) == (parsed.scheme, parsed.host)
    assert (int(plain["port"] or 0) or None) == parsed.port
    assert (plain["path"] or "/") == parsed.path
    assert parsed.raw_path.decode() == parsed.path


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://upload", "https://upload"),
        ("https://a.example.org/upload/", "https://a.example.org"),
        ("https://a.example.org:8443/v1/upload", "https://a.example.org:8443/v1"),
        ("https://a.example.org:443/v1/upload", "https://a.example.org/v1"),
        ("https://a.example.org/upload/upload/", "https://a.example.org/upload"),
        ("https://A.example.org/Upload/", "https://a.example.org/Upload"),
        ("https://a.example.org/a%20b/upload", "https://a.example.org/a%20b"),
    ],
)
def test_endpoint_is_known_by_its_upload_address(url: str, base: str) -> None:
    assert without_upload(url) == base


@pytest.mark.parametrize(
    "url",
    [
        "https://256.1.1.1",
        "https://01.2.3.4",
        "https://xn--/",
        "https://u:p@a.example.org",
        "https://",
        "a:b",
    ],
)
def test_what_is_no_endpoint_is_not_plain(url: str) -> None:
    assert not PLAIN_URL.match(url)
    assert why_no_endpoint(url, allow_http=True)


@pytest.mark.parametrize("url", ["http://api.example.org", "http://10.0.0.1:8000/"])
def test_plain_http_is_refused_where_nobody_allows_it(url: str) -> None:
    assert why_no_endpoint(url, allow_http=False)
    assert not why_no_endpoint(url, allow_http=True)
    assert host_of("http://10.0.0.1:8000/") == "10.0.0.1:8000"
