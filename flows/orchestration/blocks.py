"""The Prefect block `dicom-upload-api`: where to send, and as whom, kept by the Prefect server.

    prefect block register -m flows.orchestration.blocks

Then it is filled in under Blocks in the UI, and a flow takes its name as the parameter `api`. Its secret
fields are masked in the UI and in the API's answers; the server encrypts what it stores of a block.
"""

from typing import Any, ClassVar, Final, get_origin

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, create_model

from tasks.core.errors import UsageError
from tasks.declaration import Declaration, Use, declarations
from tasks.settings import Settings

_DECLARED: Final = [each for each in declarations(Settings) if Use.BLOCK in each.setting.use]


def _field(declared: Declaration) -> Any:
    """Type and default of a field: empty unless a person fills it in, so that the worker's setting counts."""
    empty: Any = SecretStr("") if Use.SECRET in declared.setting.use else ""
    kind: Any = type(empty)
    if get_origin(declared.type) is tuple:
        empty, kind = [], list[str]
    return kind, Field(... if declared.is_required else empty, description=declared.setting.help)


DicomUploadApi = create_model(
    "DicomUploadApi",
    __base__=Block,
    __module__=__name__,
    __doc__="The upload API of an imaging platform, and the credentials for it.",
    _block_type_name=(ClassVar[str], "DICOM upload API"),
    _block_type_slug=(ClassVar[str], "dicom-upload-api"),
    **{each.name: _field(each) for each in _DECLARED},
)


def settings_of(name: str) -> dict[str, Any]:
    """What a block gives, as `tasks.settings.load` takes it. UsageError when there is no such block."""
    try:
        block = DicomUploadApi.load(name, validate=False)
    except ValueError:
        raise UsageError(
            "The Prefect server has no block dicom-upload-api of this name. Nothing was sent. Make it under "
            "Blocks in the UI, after `prefect block register -m flows.orchestration.blocks`."
        ) from None
    values = {each.name: getattr(block, each.name) for each in _DECLARED}
    return {name: value for name, value in values.items() if value and value != SecretStr("")}
