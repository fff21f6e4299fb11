"""What libcurl's numbers mean; that they come is shown against real sockets."""

import pytest

from tasks.core.curl_faults import fault_of
from tasks.core.errors import FaultKind

ALERT = (
    "OpenSSL SSL_read: OpenSSL/3.6.5: error:0A000{:03X}:SSL routines::alert of secret.example.org, errno 0"
)


@pytest.mark.parametrize("number", range(101))
def test_no_text_of_the_library_is_passed_on(number: int) -> None:
    """It may name a host or quote a URL."""
    fault = fault_of(number, "Could not resolve host: secret.example.org")
    assert "secret" not in str(fault)
    assert fault.kind in (FaultKind.NETWORK, FaultKind.SETTINGS, FaultKind.CHANGED)


def test_number_that_nobody_knows_may_pass() -> None:
    """And is said, for who looks it up."""
    fault = fault_of(99)
    assert (fault.kind, str(fault)) == (FaultKind.NETWORK, "the request failed (libcurl's error 99)")


@pytest.mark.parametrize("alert", [42, 43, 44, 45, 46, 48, 116])
def test_alert_about_the_certificate_is_a_fault_of_the_settings(alert: int) -> None:
    """Whatever libcurl says: TLS 1.3 sends it when the handshake is over for the client."""
    fault = fault_of(56, ALERT.format(1000 + alert))
    assert fault.kind is FaultKind.SETTINGS
    assert "DICOM_INGEST_CLIENT_CERT" in str(fault)


@pytest.mark.parametrize("alert", [0, 10, 40, 47, 80])
def test_other_alerts_may_pass(alert: int) -> None:
    """A server that is being exchanged sends them, too."""
    assert fault_of(35, ALERT.format(1000 + alert)).kind is FaultKind.NETWORK


def test_refusal_of_a_proxy_is_named_by_its_status() -> None:
    """A success before something else went wrong is none."""
    assert str(fault_of(56, connect_status=407)) == "the proxy answered 407 to CONNECT"
    assert fault_of(60, connect_status=200).kind is FaultKind.SETTINGS
