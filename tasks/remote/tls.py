"""Whom TLS trusts, and as whom it introduces itself: one rule for every request."""

import os
import re
import ssl
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from tempfile import mkstemp
from typing import Final

import pycurl

from tasks.core.errors import UsageError
from tasks.core.http_messages import Origin, plain_url

Option = tuple[int, int | str]

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----.*?-----END (?:TRUSTED |X509 )?CERTIFICATE-----",
    re.DOTALL,
)
_BY_HASH: Final = "[0-9a-f]" * 8 + ".[0-9]"  # how OpenSSL names the certificates of a directory


class TlsPolicy:
    """The operating system's authorities and those of a bundle; a client certificate for one origin alone."""

    def __init__(
        self,
        ca_bundle: Path | None = None,
        client_cert: Path | None = None,
        client_key: Path | None = None,
        api_endpoint: str = "",
    ) -> None:
        """`api_endpoint`: to whom the client certificate is presented. UsageError for unusable files."""
        self._bundle = _readable_bundle(ca_bundle) if ca_bundle else b""
        self._client: list[Option] = _readable_client(client_cert, client_key) if client_cert else []
        self._introduced_to = plain_url(api_endpoint)[1] if client_cert else None
        self._made: Path | None = None
        self._kept = -1

    def options(self, origin: Origin) -> list[Option]:
        """What is to be set on a handle for this origin; also of the TLS to a proxy."""
        file = self._authorities
        always: list[Option] = [(pycurl.CAINFO, file), (pycurl.PROXY_CAINFO, file)]
        return always + (self._client if origin == self._introduced_to else [])

    def close(self) -> None:
        """Removes what was written for libcurl."""
        if self._kept >= 0:
            os.close(self._kept)
            self._kept = -1
        if self._made:
            self._made.unlink(missing_ok=True)

    @cached_property
    def _authorities(self) -> str:
        """A file of them all. libcurl reads one once for all connections, but a directory for each."""
        paths = ssl.get_default_verify_paths()
        of_file = _certificates([Path(paths.cafile)]) if paths.cafile else {}
        of_directory = _certificates(Path(paths.capath).glob(_BY_HASH)) if paths.capath else {}
        of_bundle = dict.fromkeys(_CERTIFICATE.findall(self._bundle))
        every = of_file | of_directory | of_bundle
        if paths.cafile and every.keys() == of_file.keys():
            return paths.cafile
        return self._written(b"\n".join([*every, b""]))

    def _written(self, pem: bytes) -> str:
        if hasattr(os, "memfd_create"):  # in memory: whoever is killed leaves no file behind
            self._kept = os.memfd_create("authorities")
            path = Path(f"/proc/self/fd/{self._kept}")
        else:
            self._kept, name = mkstemp(suffix=".pem")
            path = self._made = Path(name)
        path.write_bytes(pem)
        return str(path)


def _certificates(files: Iterable[Path]) -> dict[bytes, None]:
    """Each once, in their order."""
    found: dict[bytes, None] = {}
    for file in files:
        with suppress(OSError):
            found |= dict.fromkeys(_CERTIFICATE.findall(file.read_bytes()))
    return found


def _readable_bundle(ca_bundle: Path) -> bytes:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=ca_bundle)
        return ca_bundle.read_bytes()
    except (OSError, ssl.SSLError):
        raise UsageError(
            "DICOM_INGEST_CA_BUNDLE can't be read as PEM certificates. Give a file of PEM certificates."
        ) from None


def _readable_client(certificate: Path, key: Path | None) -> list[Option]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError):
        raise UsageError(
            "DICOM_INGEST_CLIENT_CERT and _CLIENT_KEY can't be read as a certificate and its private key. "
            "Give PEM files, the key without a password."
        ) from None
    return [(pycurl.SSLCERT, str(certificate)), (pycurl.SSLKEY, str(key or certificate))]
