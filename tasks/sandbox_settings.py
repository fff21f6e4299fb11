"""Settings of the sandbox and of its gateway, declared as those of a run are."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tasks.declaration import PREFIX, Declared, Setting, Use
from tasks.dicomweb_settings import DicomwebServer
from tasks.setting_values import no_secret

if TYPE_CHECKING:
    from pydantic import SecretStr


class StoreAnswers(StrEnum):
    """What the answer to a PUT shows of the object that it stored."""

    PLAIN = "plain"
    S3 = "s3"
    KMS = "kms"
    KMS_WITHOUT_CRC = "kms-without-crc"
    OTHER_CLOUD = "other-cloud"


class DicomwebProgram(StrEnum):
    """What can be started as the sandbox's DICOMweb server."""

    ORTHANC = "orthanc"
    TINY_PACS = "tiny-pacs"


@dataclass(frozen=True, kw_only=True)
class StoreSettings(Declared):
    """How the object store is to answer, to try out what a platform's store may do."""

    prefix = f"{PREFIX}SANDBOX_"

    store_answers: Annotated[
        StoreAnswers,
        Setting(
            "How a PUT is answered. plain: an MD5 as ETag; s3: a CRC64NVME besides; kms: an ETag that is no "
            "MD5, and a CRC64NVME; kms-without-crc; other-cloud: an ETag that is no MD5, another cloud's "
            "header about encryption, and nothing of S3."
        ),
    ] = StoreAnswers.PLAIN
    damage_every: Annotated[
        int,
        Setting(
            "The first PUT of every so many objects arrives damaged, as on a faulty network; 0: none.",
            limits={"ge": 0},
        ),
    ] = 0

    @property
    def is_plain(self) -> bool:
        """The store itself answers: URLs lead to it."""
        return self.store_answers is StoreAnswers.PLAIN and not self.damage_every


def _of_gateway(text: str, use: Use = Use.ENVIRONMENT_ALONE, **limits: int) -> Setting:
    return Setting(text, use, limits)


@dataclass(frozen=True, kw_only=True)
class RegistrySettings(Declared):
    """The DICOMweb server behind the gateway: environment alone, where an empty text is not given."""

    prefix = f"{PREFIX}SANDBOX_"
    ignores_empty = True

    dicomweb_url: Annotated[
        str, _of_gateway("The DICOMweb server behind the gateway; none: the sandbox starts one.")
    ] = ""
    dicomweb_program: Annotated[
        DicomwebProgram | None, _of_gateway("Which one it starts; none: Orthanc where that is installed.")
    ] = None
    dicomweb_server: Annotated[DicomwebServer, _of_gateway("Whose ways it has.")] = DicomwebServer.GENERIC
    dicomweb_user: Annotated[str, _of_gateway("As whom it is asked.")] = ""
    dicomweb_password: Annotated["SecretStr", _of_gateway("That user's password.", Use.SECRET)] = field(
        default_factory=no_secret
    )

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if bool(self.dicomweb_user) != bool(self.dicomweb_password):
            yield "DICOMWEB_USER and DICOMWEB_PASSWORD need each other"


@dataclass(frozen=True, kw_only=True)
class SandboxSettings(StoreSettings):
    """Of `dicom-ingest sandbox`, which chooses for its gateway what is not given."""

    port: Annotated[int | None, Setting("Port of the upload API; a free one when not given.")] = None
    data_dir: Annotated[Path, Setting("Where the objects are kept.")] = Path("sandbox")


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(RegistrySettings, StoreSettings):
    """Of the sandbox's gateway: environment alone, where an empty text is not given."""

    ignores_empty = True

    client_id: Annotated[str, _of_gateway("The OAuth2 client.")]
    client_secret: Annotated["SecretStr", _of_gateway("The OAuth2 client's secret.", Use.SECRET)]
    scope: Annotated[
        str,
        _of_gateway(
            "What a client may ask for, space-separated: `upload` to be given URLs and to store, `read` to "
            "search and retrieve."
        ),
    ] = "upload read"
    token_lifetime_s: Annotated[int, _of_gateway("How long a token lasts.", ge=1)] = 3600
    url_lifetime_s: Annotated[int, _of_gateway("How long a URL does; SigV4's week.", ge=1, le=604_800)] = 900
    key_prefix: Annotated[str, _of_gateway("What every key begins with.")] = "uploads"
    rate_per_s: Annotated[int, _of_gateway("Requests a second, and as many at once; 0: any.", ge=0)] = 2000
    stow_parallel: Annotated[int, _of_gateway("STOW-RS requests at the same time.", ge=1)] = 8
    stow_max_bytes: Annotated[int, _of_gateway("The body of one; S3's 5 GiB.", ge=1)] = 5 << 30
    stow_max_parts: Annotated[int, _of_gateway("The parts of one.", ge=1)] = 2000
    stow_timeout_s: Annotated[int, _of_gateway("How long one may take.", ge=1)] = 1800
    bucket: Annotated[str, _of_gateway("The bucket; none: of an embedded store.")] = ""
    s3_endpoint: Annotated[str, _of_gateway("Where the bucket is; empty: AWS S3, in the region.")] = ""
    region: Annotated[str, _of_gateway("The bucket's region.")] = "us-east-1"
    access_key_id: Annotated[
        str, _of_gateway("Its key; none: boto3 looks for credentials, an embedded store makes one.")
    ] = ""
    secret_access_key: Annotated["SecretStr", _of_gateway("That key's secret.", Use.SECRET)] = field(
        default_factory=no_secret
    )
    data_dir: Annotated[Path | None, _of_gateway("Where the embedded store is.")] = None
    host: Annotated[str, _of_gateway("Where it listens.")] = "127.0.0.1"
    public_url: Annotated[str, _of_gateway("Its address in answers; none: the one it is asked by.")] = ""
    port: Annotated[int, _of_gateway("And on which port.", ge=0, le=65_535)] = 8000

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if not self.bucket and (self.s3_endpoint or not self.data_dir):
            yield "name a BUCKET (and S3_ENDPOINT unless it is AWS), or a DATA_DIR for an embedded one"
