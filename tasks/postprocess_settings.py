"""The settings of post-processing: where its results go."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tasks.declaration import Declared, Setting, Use
from tasks.dicomweb_settings import DicomwebSettings
from tasks.setting_values import no_secret, why_no_endpoint
from tasks.settings import ReportSettings
from tasks.tls_settings import TlsSettings

if TYPE_CHECKING:
    from pydantic import SecretStr


@dataclass(frozen=True, kw_only=True)
class ResultSettings(Declared):
    """Where the result of a study goes: to a file, to a webhook, to both."""

    result_dir: Annotated[
        Path | None, Setting("A directory for a file with each study's result.", Use.ENVIRONMENT_ALONE)
    ] = None
    webhook_url: Annotated[
        str, Setting("An address that each study's result is posted to.", Use.ENVIRONMENT_ALONE)
    ] = ""
    webhook_secret: Annotated[
        "SecretStr",
        Setting(
            "The secret that signs what is posted there, as Standard Webhooks has it: whsec_ and base64.",
            Use.SECRET,
        ),
    ] = field(default_factory=no_secret)

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if bool(self.webhook_url) != bool(self.webhook_secret):
            yield "WEBHOOK_URL and WEBHOOK_SECRET need each other"
        if self.webhook_secret and not _is_secret(self.webhook_secret.get_secret_value()):
            yield "WEBHOOK_SECRET is not whsec_ and at least 24 bytes in base64"


@dataclass(frozen=True, kw_only=True)
class PostprocessSettings(ResultSettings, ReportSettings, DicomwebSettings, TlsSettings):
    """Which study of which ledger, whom to ask about it, where its result goes."""

    allow_http: Annotated[
        bool, Setting("Accept plain http to other machines than this one.", form={"title": "Allow HTTP"})
    ] = False

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if not (self.result_dir or self.webhook_url):
            yield "RESULT_DIR or WEBHOOK_URL has to say where results go"
        if not self.dicomweb_url:
            yield "DICOMWEB_URL has to say which server has the studies"
        for name, url in (("DICOMWEB_URL", self.dicomweb_url), ("WEBHOOK_URL", self.webhook_url)):
            if url and (objection := why_no_endpoint(url, allow_http=self.allow_http)):
                yield f"{name} {objection}"


def _is_secret(text: str) -> bool:
    """Whether it is one of Standard Webhooks: 24 to 64 bytes."""
    import base64
    import binascii

    try:
        key = base64.b64decode(text.removeprefix("whsec_") + "==", validate=False)
    except (binascii.Error, ValueError):
        return False
    return text.startswith("whsec_") and len(key) >= 24
