"""The Prefect block `dicom-upload-api`: where to send, and as whom, kept by the Prefect server.

    prefect block register -m flows.orchestration.blocks

Then it is filled in under Blocks in the UI, and a flow takes its name as the parameter `api`. Its secret
fields are masked in the UI and in the API's answers; the server encrypts what it stores of a block.
"""

from typing import Any

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from tasks.core.errors import UsageError
from tasks.core.options import HELP


class DicomUploadApi(Block):
    """The upload API of an imaging platform, and the credentials for it."""

    _block_type_name = "DICOM upload API"
    _block_type_slug = "dicom-upload-api"

    api_endpoint: str = Field(description=HELP["api_endpoint"])
    token: SecretStr = Field(SecretStr(""), description=HELP["token"])
    token_url: str = Field("", description=HELP["token_url"])
    client_id: str = Field("", description=HELP["client_id"])
    client_secret: SecretStr = Field(SecretStr(""), description=HELP["client_secret"])
    api_key: SecretStr = Field(SecretStr(""), description=HELP["api_key"])
    api_key_header: str = Field("", description=HELP["api_key_header"])
    scope: str = Field("", description=HELP["scope"])
    audience: str = Field("", description=HELP["audience"])
    ca_bundle: str = Field("", description=HELP["ca_bundle"])
    allow_storage_host: list[str] = Field([], description=HELP["allow_storage_host"])


def settings_of(name: str) -> dict[str, Any]:
    """What a block says, as `tasks.settings.load` takes it. Raises UsageError when there is no such block."""
    try:
        block = DicomUploadApi.load(name, validate=False)
    except ValueError:
        raise UsageError(
            "The Prefect server has no block dicom-upload-api of this name. Nothing was sent. Make it under "
            "Blocks in the UI, after `prefect block register -m flows.orchestration.blocks`."
        ) from None
    said = {field: getattr(block, field) for field in DicomUploadApi.model_fields}
    return {field: value for field, value in said.items() if value and value != SecretStr("")}
