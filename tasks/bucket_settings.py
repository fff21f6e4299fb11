"""The setting of a bucket: its name and a prefix. Credentials and endpoint are boto3's own (AWS_*)."""

import re
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from tasks.declaration import Declared, Setting

_ADDRESS: Final = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._:-]{1,254})(?:/(.*))?\Z", re.DOTALL)


class BucketAddress(NamedTuple):
    """A bucket, and what the keys of its objects begin with."""

    name: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.name}/{self.prefix}" if self.prefix else f"s3://{self.name}"


def bucket_address(text: str) -> BucketAddress:
    """s3://NAME[/PREFIX] in its parts; ValueError for anything else. A prefix is taken as it is written."""
    match = _ADDRESS.match(text)
    if match is None:
        raise ValueError("is s3://BUCKET or s3://BUCKET/PREFIX")
    return BucketAddress(match[1], match[2] or "")


def _checked(text: str) -> str:
    return str(bucket_address(text)) if text else ""


@dataclass(frozen=True, kw_only=True)
class BucketSettings(Declared):
    """Which bucket."""

    bucket: Annotated[
        str,
        Setting(
            "The bucket that uploads arrive in: s3://BUCKET or s3://BUCKET/PREFIX.",
            convert=_checked,
        ),
    ] = ""
