"""One host is one text, however a URL writes it."""

import pytest

from tasks.setting_values import host_of


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.example.org", "api.example.org:443"),
        ("https://api.example.org:443/base", "api.example.org:443"),
        ("https://API.Example.ORG/", "api.example.org:443"),
        ("https://api.example.org./", "api.example.org:443"),
        ("http://api.example.org", "api.example.org:80"),
        ("https://api.example.org:8443", "api.example.org:8443"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[0:0:0:0:0:0:0:1]:8000/", "[::1]:8000"),
        ("https://[2001:DB8::0:1]", "[2001:db8::1]:443"),
        ("https://[::ffff:192.0.2.1]", "192.0.2.1:443"),
        ("https://bücher.example", "xn--bcher-kva.example:443"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example:443"),
        ("https://BÜCHER.example:444", "xn--bcher-kva.example:444"),
    ],
)
def test_is_in_one_spelling(url: str, host: str) -> None:
    """Capitals, the root's dot, zeros of IPv6, IDNA, and the port that the scheme implies."""
    assert host_of(url) == host
