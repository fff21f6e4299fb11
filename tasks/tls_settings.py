"""The settings of TLS: whom it trusts, and as whom it introduces itself to the API."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tasks.declaration import Declared, Setting, Use


@dataclass(frozen=True, kw_only=True)
class TlsSettings(Declared):
    """Files of PEM, all of them."""

    ca_bundle: Annotated[
        Path | None,
        Setting("PEM certificates of a private certificate authority, beside the system's.", Use.BLOCK),
    ] = None
    client_cert: Annotated[
        Path | None,
        Setting("A PEM certificate that is shown to the API's host alone, where that wants one.", Use.BLOCK),
    ] = None
    client_key: Annotated[
        Path | None,
        Setting("Its private key in PEM, without a password; not needed in one file with it.", Use.BLOCK),
    ] = None

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if self.client_key and not self.client_cert:
            yield "CLIENT_KEY needs CLIENT_CERT beside it"
