"""A bucket of rclone's S3 endpoint, as boto3's environment names it. It does not look at its folder anew."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from deployments.sandbox.storage import BUCKET, serve_objects


@dataclass(slots=True)
class ObjectStore:
    """One prefix of it, which nobody else has."""

    client: Any
    prefix: str
    environment: dict[str, str]

    @property
    def address(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    def put(self, key: str, body: bytes) -> str:
        """The whole key."""
        self.client.put_object(Bucket=BUCKET, Key=self.prefix + key, Body=body)
        return self.prefix + key

    def get(self, key: str) -> bytes:
        """By its whole key."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=self.prefix + key)

    def keys(self, prefix: str | None = None) -> list[str]:
        """Whole keys of all that is there, by S3's listing."""
        pages = self.client.get_paginator("list_objects_v2")
        wanted = self.prefix if prefix is None else prefix
        found = pages.paginate(Bucket=BUCKET, Prefix=wanted)
        return [each["Key"] for page in found for each in page.get("Contents", ())]


@contextmanager
def object_store(data_dir: Path) -> Iterator[ObjectStore]:
    """Served until the block ends, and in this process's environment."""
    with serve_objects(data_dir) as endpoint, pytest.MonkeyPatch.context() as patched:
        environment = {
            "AWS_ENDPOINT_URL_S3": endpoint.url,
            "AWS_ACCESS_KEY_ID": endpoint.access_key_id,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_access_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in environment.items():
            patched.setenv(name, value)
        yield ObjectStore(boto3.session.Session().client("s3"), "", environment)
