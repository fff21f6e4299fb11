"""Presigned PUT URLs (AWS Signature Version 4), each for a key of its own."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import boto3
from botocore.config import Config

from tasks.sandbox_settings import GatewaySettings

CONTENT_TYPE: Final = "application/dicom"


def new_key(prefix: str) -> str:
    """A key that no file has: the day it was issued and a random UUID."""
    return f"{prefix}/{datetime.now(UTC):%Y-%m-%d}/{uuid.uuid4()}.dcm"


def presigner(settings: GatewaySettings) -> Callable[[str], str]:
    """Key to presigned PUT URL. The content type is signed: the store refuses a PUT that says another."""
    s3 = s3_client(settings)

    def presign(key: str) -> str:
        params = {"Bucket": settings.bucket, "Key": key, "ContentType": CONTENT_TYPE}
        url: str = s3.generate_presigned_url("put_object", params, ExpiresIn=settings.url_lifetime_s)
        return url

    return presign


def s3_client(settings: GatewaySettings, **options: Any) -> Any:  # boto3's clients have no types
    """A client for the bucket that the settings name; `options` are botocore's."""
    config = Config(
        **options,
        signature_version="s3v4",
        # boto3's "auto" signs for AWS's global host, which redirects to the region, and a signature does not
        # survive a redirect; virtual hosts are regional. Elsewhere a bucket is no host name.
        s3={"addressing_style": "path" if settings.s3_endpoint else "virtual"},
        # The default signs a checksum algorithm into the URL, which a plain PUT knows nothing of.
        request_checksum_calculation="when_required",
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint or None,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id or None,
        aws_secret_access_key=settings.secret_access_key.get_secret_value() or None,
        config=config,
    )
