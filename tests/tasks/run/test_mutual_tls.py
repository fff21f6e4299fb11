"""A platform that lets nobody in without a certificate, and what a run shows it."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tasks.core.errors import UsageError
from tasks.settings import load
from tests.conftest import NearSide, instance
from tests.far_side import FarSide


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    """The settings that name them."""
    names = {name: tmp_path / f"{name}.pem" for name in ("ca_bundle", "client_cert", "client_key")}
    issued = authority.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(names["ca_bundle"])
    issued.cert_chain_pems[0].write_to_path(names["client_cert"])
    issued.private_key_pem.write_to_path(names["client_key"])
    return names


@pytest.fixture
def near_side(only_our_settings: None, authority: trustme.CA, tmp_path: Path) -> Iterator[NearSide]:
    """One image, and a platform that demands a certificate of this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    with FarSide(context) as far_side:
        near_side = NearSide(far_side, tmp_path)
        near_side.put("study/a", instance("1.2"))
        yield near_side


def test_client_certificate_lets_a_run_in(near_side: NearSide, files: dict[str, Path]) -> None:
    run = near_side.run(**files)
    assert run.statuses == {"study/a": "uploaded"}
    assert [*near_side.far_side.bodies.values()] == [instance("1.2")]


def test_without_one_nothing_is_begun(near_side: NearSide, files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="Nothing was sent"):
        near_side.run(ca_bundle=files["ca_bundle"])
    assert not near_side.far_side.requests


def test_key_alone_is_a_fault_of_the_settings(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="CLIENT_KEY needs CLIENT_CERT"):
        load(api_endpoint="https://a.example.org", client_key=files["client_key"])


def test_pair_that_does_not_fit_is_known_at_once(near_side: NearSide, files: dict[str, Path]) -> None:
    trustme.CA().issue_cert("other@example.org").private_key_pem.write_to_path(files["client_key"])
    with pytest.raises(UsageError, match="DICOM_INGEST_CLIENT_CERT and _CLIENT_KEY can't be read"):
        near_side.run(**files)


def test_certificate_is_a_credential(files: dict[str, Path]) -> None:
    """An API that it lets into is not one that lets anybody upload."""
    settings = load(api_endpoint="https://a.example.org", client_cert=files["client_cert"])
    assert settings.credential == "client certificate"
    assert settings.credential_settings == "DICOM_INGEST_CLIENT_CERT"
