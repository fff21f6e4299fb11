"""The settings of a DICOMweb server: where it is, which one, and as whom it is asked.

It has credentials of its own and never gets the upload API's: they may be two organisations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from tasks.declaration import Declared, Setting, Use
from tasks.setting_values import no_secret

if TYPE_CHECKING:
    from pydantic import SecretStr


class DicomwebServer(StrEnum):
    """Whose ways a server has, where PS3.18 leaves room or it is not followed."""

    GENERIC = "generic"
    ORTHANC = "orthanc"
    DCM4CHEE = "dcm4chee"
    AZURE = "azure"
    GOOGLE = "google"
    HEALTHIMAGING = "healthimaging"


@dataclass(frozen=True, kw_only=True)
class DicomwebSettings(Declared):
    """Where studies are registered, and as whom."""

    dicomweb_url: Annotated[str, Setting("The DICOMweb server's base address, below which /studies is.")] = ""
    dicomweb_server: Annotated[
        DicomwebServer,
        Setting(
            "Whose ways it has, in what it answers to STOW-RS.",
            form={"title": "DICOMweb Server"},
        ),
    ] = DicomwebServer.GENERIC
    dicomweb_token: Annotated[
        "SecretStr", Setting("A static bearer token for the DICOMweb server.", Use.SECRET)
    ] = field(default_factory=no_secret)
    dicomweb_token_url: Annotated[
        str,
        Setting(
            "The DICOMweb server's OAuth2 token endpoint (client credentials grant).", Use.ENVIRONMENT_ALONE
        ),
    ] = ""
    dicomweb_client_id: Annotated[str, Setting("The OAuth2 client there.", Use.ENVIRONMENT_ALONE)] = ""
    dicomweb_client_secret: Annotated["SecretStr", Setting("That OAuth2 client's secret.", Use.SECRET)] = (
        field(default_factory=no_secret)
    )
    dicomweb_scope: Annotated[str, Setting("The OAuth2 scope to ask for there.", Use.ENVIRONMENT_ALONE)] = ""
    dicomweb_user: Annotated[
        str, Setting("A user of the DICOMweb server, for HTTP Basic.", Use.ENVIRONMENT_ALONE)
    ] = ""
    dicomweb_password: Annotated["SecretStr", Setting("That user's password.", Use.SECRET)] = field(
        default_factory=no_secret
    )

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if self.dicomweb_token_url and not (self.dicomweb_client_id and self.dicomweb_client_secret):
            yield "DICOMWEB_TOKEN_URL needs DICOMWEB_CLIENT_ID and DICOMWEB_CLIENT_SECRET beside it"
        if bool(self.dicomweb_user) != bool(self.dicomweb_password):
            yield "DICOMWEB_USER and DICOMWEB_PASSWORD need each other"
        if sum(map(bool, (self.dicomweb_token, self.dicomweb_token_url, self.dicomweb_user))) > 1:
            yield ("DICOMWEB_TOKEN, DICOMWEB_TOKEN_URL and DICOMWEB_USER: only one can say who asks there")
