"""What the gateway is set up by: DICOM_INGEST_SANDBOX_* alone."""

from pydantic import ValidationError

from tasks.core.errors import UsageError
from tasks.declaration import validated
from tasks.sandbox_settings import GatewaySettings


def settings_from_environment() -> GatewaySettings:
    """Raises UsageError with every fault, by the setting's name."""
    try:
        return validated(GatewaySettings)
    except ValidationError as invalid:
        faults = [f"{_setting(fault['loc'])}: {fault['msg']}" for fault in invalid.errors()]
        raise UsageError(f"DICOM_INGEST_SANDBOX_ settings are wrong: {'; '.join(faults)}.") from None


def _setting(location: tuple[int | str, ...]) -> str:
    """The name of a faulty setting; a fault of no single one is that no bucket is named."""
    return "_".join(map(str, location)).upper() or "BUCKET"
