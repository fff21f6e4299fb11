"""Where bytes may go."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.allowed_hosts import is_loopback, is_private, why_not

AWS = ["*.amazonaws.com", "storage.example.org"]
names = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,4}", fullmatch=True)


class TestLoopback:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
    def test_is_this_machine(self, host: str) -> None:
        """By name, or by a literal address of the whole block."""
        assert is_loopback(host)

    @pytest.mark.parametrize(
        "host",
        [
            "",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "128.0.0.1",
            "0.0.0.0",
            "10.0.0.1",
            "::2",
            "2130706433",
        ],
    )
    def test_is_not_what_only_looks_like_it(self, host: str) -> None:
        """Names are not resolved: whoever answers for one may say loopback."""
        assert not is_loopback(host)

    @given(st.ip_addresses())
    def test_is_as_the_standard_library_says(
        self, address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> None:
        """For every literal address."""
        assert is_loopback(str(address)) == address.is_loopback


class TestWhyNot:
    @pytest.mark.parametrize(
        ("scheme", "host", "allow_http", "patterns", "objection"),
        [
            ("https", "anywhere.example.org", False, [], ""),
            ("https", "10.0.0.1", False, [], ""),
            ("http", "127.0.0.1", False, [], ""),
            ("http", "localhost", False, [], ""),
            ("http", "anywhere.example.org", True, [], ""),
            ("http", "anywhere.example.org", False, [], "plain http"),
            ("ftp", "127.0.0.1", True, [], "neither https nor http"),
            ("file", "", True, [], "neither https nor http"),
            ("", "127.0.0.1", True, [], "neither https nor http"),
            ("https", "bucket.s3.eu-west-1.amazonaws.com", False, AWS, ""),
            ("https", "BUCKET.S3.AMAZONAWS.COM", False, AWS, ""),
            ("https", "storage.example.org", False, AWS, ""),
            ("https", "amazonaws.com", False, AWS, "no --allow-storage-host permits"),
            ("https", "evilamazonaws.com", False, AWS, "no --allow-storage-host permits"),
            ("https", "x.amazonaws.com.example.org", False, AWS, "no --allow-storage-host permits"),
            ("https", "storage.example.org.evil.net", False, AWS, "no --allow-storage-host permits"),
            ("http", "storage.example.org", False, AWS, "plain http"),
            ("http", "127.0.0.1", False, AWS, "no --allow-storage-host permits"),
        ],
    )
    def test_says_what_is_wrong_with_a_url(
        self, scheme: str, host: str, allow_http: bool, patterns: list[str], objection: str
    ) -> None:
        """Scheme first, then host; nothing wrong is empty text."""
        found = why_not(scheme, host, allow_http=allow_http, patterns=patterns)
        assert objection in found
        assert bool(found) == bool(objection)

    @given(names, st.booleans())
    def test_never_lets_plain_http_out_unless_it_is_allowed(self, host: str, allow_http: bool) -> None:
        """Images and tokens go over TLS."""
        assert bool(why_not("http", host, allow_http=allow_http)) == (
            not allow_http and not is_loopback(host)
        )

    @given(names)
    def test_names_no_host_in_its_answer(self, host: str) -> None:
        """It goes into a message: of the URL, nothing is told."""
        assert "example" not in why_not("https", f"{host}.example", allow_http=False, patterns=["x"])


class TestPrivate:
    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "127.0.0.1",
            "127.1.2.3",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[fd00::1]",
            "[::ffff:10.0.0.1]",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "10.0.0.1.",
            "0177.0.0.1",
            "0300.0250.1.1",
            "10.0.0.1..",
            "%31%30.0.0.1",
            "localhost.",
            "LOCALHOST",
            "db.localhost",
            "localhost.localdomain",
            "ip6-loopback",
            "[::ffff:127.0.0.1]",
            "[::ffff:a00:1]",
            "[64:ff9b::10.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::8.8.8.8]",
            "[2002:a00:1::]",
            "[2002:a9fe:a9fe::1]",
            "[2002:7f00:1::1]",
            "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
            "[::10.0.0.1]",
            "[::169.254.169.254]",
            "[::ffff:0:10.0.0.1]",
            "[fec0::1]",
            "[feff::1]",
            "[ff02::1]",
            "[fe80::1%25eth0]",
            "[2001:db8::1]",
        ],
    )
    def test_is_what_no_other_network_can_reach(self, host: str) -> None:
        """Also as a resolver of the old kind would read it."""
        assert is_private(host)
        assert "private network" in why_not("https", host, allow_http=True, allow_private=False)

    @pytest.mark.parametrize(
        "host",
        [
            "s3.amazonaws.com",
            "s3.amazonaws.com.",
            "52.216.1.1",
            "[2600:1f60::1]",
            "[64:ff9b::52.216.1.1]",
            "[2002:34d8:101::1]",
            "[::ffff:52.216.1.1]",
            "localhost.example.org",
            "mylocalhost",
            "bucket.vpce-1.s3.vpce.amazonaws.com",
        ],
    )
    def test_is_no_name_and_no_public_address(self, host: str) -> None:
        """A name may well resolve to a private address: VPC endpoints do."""
        assert not is_private(host)
        assert why_not("https", host, allow_http=False, allow_private=False) == ""

    @pytest.mark.parametrize(
        ("host", "pattern", "is_permitted"),
        [
            ("10.0.0.5", "10.0.0.5", True),
            ("localhost", "LOCALHOST", True),
            ("fd00::5", "[fd00::5]", True),
            ("fd00::5", "FD00:0::5", True),
            ("0x7f.1", "0x7f.1", True),
            ("10.0.0.5", "10.0.0.6", False),
            ("10.0.0.5", "10.0.0.*", False),
            ("10.0.0.5", "*", False),
            ("10.0.0.5", "10.0.0.[5]", False),
        ],
    )
    def test_is_permitted_where_a_pattern_names_it_as_it_is(
        self, host: str, pattern: str, is_permitted: bool
    ) -> None:
        """An object store inside, an API outside. What a wildcard catches was not meant."""
        found = why_not("https", host, allow_http=False, patterns=[pattern], allow_private=False)
        assert (found == "") is is_permitted

    @given(st.ip_addresses(v=4))
    def test_is_the_same_wherever_it_is_embedded(self, address: ipaddress.IPv4Address) -> None:
        """Mapped, and as gateways translate it."""
        number = int(address)
        embedded = [(0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80) | 1]
        for each in embedded:
            assert is_private(str(ipaddress.IPv6Address(each))) == is_private(str(address))
