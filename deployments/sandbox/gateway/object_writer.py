"""Instances of STOW-RS requests into the bucket that presigned uploads go to."""

import base64
import hashlib
from typing import Any, BinaryIO, Final

from botocore.exceptions import BotoCoreError, ClientError

from deployments.sandbox.gateway.presign import CONTENT_TYPE, s3_client
from tasks.sandbox_settings import GatewaySettings

_CHUNK_BYTES: Final = 1 << 18
_TIMEOUTS: Final = {
    "connect_timeout": 5,
    "read_timeout": 60,
    "retries": {"mode": "standard", "max_attempts": 3},
}


class StoreUnavailableError(Exception):
    """The object store did not take an object. It says no more: the library's text names the key's URL."""


class ObjectWriter:
    """Puts one object after another; from any thread."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._bucket = settings.bucket
        self._s3: Any = s3_client(settings, **_TIMEOUTS)  # boto3's clients have no types

    def put(self, key: str, file: BinaryIO, size_bytes: int) -> None:
        """The whole file, read as it is sent. StoreUnavailableError unless the store has it, by its MD5."""
        file.seek(0)
        digest = hashlib.md5(usedforsecurity=False)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        file.seek(0)
        try:
            self._s3.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=file,
                ContentLength=size_bytes,
                ContentType=CONTENT_TYPE,
                ContentMD5=base64.b64encode(digest.digest()).decode(),
            )
        except (BotoCoreError, ClientError):
            raise StoreUnavailableError from None
