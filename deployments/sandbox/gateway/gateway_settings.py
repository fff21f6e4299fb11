"""What the gateway is set up by: DICOM_INGEST_SANDBOX_* alone."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.core.errors import UsageError


class GatewaySettings(BaseSettings):
    """DICOM_INGEST_SANDBOX_<NAME>. Without keys boto3 looks for AWS credentials itself."""

    model_config = SettingsConfigDict(
        env_prefix="DICOM_INGEST_SANDBOX_", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    client_id: str
    client_secret: SecretStr
    scope: str = "upload"  # what a client may ask for, space-separated
    token_lifetime_s: int = Field(default=3600, ge=1)
    url_lifetime_s: int = Field(default=900, ge=1, le=604_800)  # SigV4 allows a week
    key_prefix: str = "uploads"

    bucket: str = ""
    s3_endpoint: str = ""  # empty: AWS S3 in `region`
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: SecretStr = SecretStr("")

    data_dir: Path | None = None  # holds the embedded object store, when no bucket is named
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)

    @model_validator(mode="after")
    def _there_is_a_bucket(self) -> Self:
        if not self.bucket and (self.s3_endpoint or not self.data_dir):
            raise ValueError(
                "name a BUCKET (and S3_ENDPOINT unless it is AWS), or a DATA_DIR for an embedded one"
            )
        return self


def settings_from_environment() -> GatewaySettings:
    """Raises UsageError with every fault, by the setting's name."""
    try:
        return GatewaySettings()
    except ValidationError as invalid:
        faults = [f"{_setting(fault['loc'])}: {fault['msg']}" for fault in invalid.errors()]
        raise UsageError(f"DICOM_INGEST_SANDBOX_ settings are wrong: {'; '.join(faults)}.") from None


def _setting(location: tuple[int | str, ...]) -> str:
    """The name of a faulty setting; a fault of no single one is that no bucket is named."""
    return "_".join(map(str, location)).upper() or "BUCKET"
