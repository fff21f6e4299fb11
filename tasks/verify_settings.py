"""The settings of `dicom-ingest verify`: which report, and what it is held against."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from tasks.bucket_settings import BucketAddress, BucketSettings, bucket_address
from tasks.declaration import Setting
from tasks.dicomweb_settings import DicomwebSettings
from tasks.setting_values import why_no_endpoint
from tasks.settings import AllowHttp, ReportSettings, UserId
from tasks.tls_settings import TlsSettings

DEEP: Final = r"^(|[0-9]{1,9}|(100|[0-9]{1,2})(\.[0-9]{1,4})?%)$"


class Sample(NamedTuple):
    """How many instances: so many, or such a part of all."""

    instances: int = 0
    percent: float = 0.0


def sample_of(text: str) -> Sample:
    """N or N% in its parts; none when it is empty. Raises ValueError."""
    if not re.match(DEEP, text):
        raise ValueError("is a number of instances, such as 100, or a part of them, such as 5%")
    if text.endswith("%"):
        percent = float(text[:-1])
        if percent > 100:
            raise ValueError("is at most 100%")
        return Sample(percent=percent)
    return Sample(instances=int(text or 0))


def _checked(text: str) -> str:
    sample_of(text)
    return text


@dataclass(frozen=True, kw_only=True)
class VerifySettings(ReportSettings, BucketSettings, DicomwebSettings, TlsSettings):
    """What a report is held against, and how closely."""

    deep: Annotated[
        str,
        Setting(
            "Retrieve so many instances, N or N%, from the registry, and compare them with their files.",
            convert=_checked,
            form={"pattern": DEEP},
        ),
    ] = ""
    seed: Annotated[
        int | None, Setting("Which ones --deep takes: the same seed, the same ones. Default: a new one.")
    ] = None
    allow_http: AllowHttp = False
    user_id: UserId = ""

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if self.dicomweb_url and (fault := why_no_endpoint(self.dicomweb_url, allow_http=self.allow_http)):
            yield f"DICOMWEB_URL {fault}"
        if self.deep and not self.dicomweb_url:
            yield "DEEP needs a DICOMWEB_URL, to retrieve instances from"
        if not self.bucket and not self.dicomweb_url:
            yield "BUCKET or DICOMWEB_URL has to say what the report is held against"

    @property
    def bucket_at(self) -> BucketAddress | None:
        """The bucket that was given."""
        return bucket_address(self.bucket) if self.bucket else None

    @property
    def sample(self) -> Sample:
        """Which part is retrieved."""
        return sample_of(self.deep)
