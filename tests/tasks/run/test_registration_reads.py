"""`register`: how the objects of a real S3 endpoint are read."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tasks.remote.bucket import Bucket, open_bucket
from tasks.run.registration import register
from tests.conftest import instance
from tests.pipeline_side import Ingested, PipelineSide


class CountingS3:
    """boto3's client, and what is asked of it."""

    def __init__(self, client: Any, sign: Callable[[str], str]) -> None:
        self._client = client
        self._sign = sign
        self.signed = 0
        self.gets = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_object(self, **asked: Any) -> Any:
        self.gets += 1
        return self._client.get_object(**asked)

    def generate_presigned_url(self, *asked: Any, **parameters: Any) -> str:
        self.signed += 1
        return self._sign(self._client.generate_presigned_url(*asked, **parameters))


def run(side: PipelineSide, sign: Callable[[str], str] = str) -> tuple[Ingested, CountingS3]:
    settings = side.settings()
    s3 = CountingS3(open_bucket(settings.address)._client, sign)
    summary = register(settings, edges=side.edges, bucket=Bucket(settings.address, s3))
    return side.told(summary), s3


def bodies(count: int) -> dict[str, bytes]:
    return {f"k{number}": instance(f"1.2.{number}") for number in range(count)}


def test_what_is_held_is_read_by_presigned_urls_alone(
    side: PipelineSide, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dicom_ingest")
    for key, body in bodies(5).items():
        side.put(key, body)
    ran, s3 = run(side)
    assert set(ran.statuses.values()) == {"registered"}
    assert sorted(side.registry.bodies.values()) == sorted(bodies(5).values())
    assert (s3.signed, s3.gets) == (5, 0)
    written = [each for each in side.directory.rglob("*") if each.is_file()]
    assert written
    assert not any(b"X-Amz" in each.read_bytes() for each in written)
    assert "X-Amz" not in caplog.text


def test_where_no_presigned_url_is_answered_boto3_reads(side: PipelineSide) -> None:
    """Of eight that are read at once each may have tried one."""
    for key, body in bodies(30).items():
        side.put(key, body)
    ran, s3 = run(side, lambda url: f"{url}0")
    assert set(ran.statuses.values()) == {"registered"}
    assert s3.gets == 30
    assert s3.signed <= 16


def test_one_that_is_replaced_after_it_was_listed_is_read_as_it_is_now(side: PipelineSide) -> None:
    side.put("k", instance("1.2.1"))

    def replaced(url: str) -> str:
        side.put("k", instance("1.2.2"))
        return url

    ran, s3 = run(side, replaced)
    assert ran.statuses == {"k": "registered"}
    assert [*side.registry.bodies.values()] == [instance("1.2.2")]
    assert (s3.signed, s3.gets) == (1, 1)


def test_one_that_is_gone_is_missing(side: PipelineSide) -> None:
    side.put("k", instance("1.2.1"))

    def removed(url: str) -> str:
        side.store.remove("k")
        return url

    ran, s3 = run(side, removed)
    assert ran.statuses == {"k": "missing"}
    assert s3.gets == 0
