"""The settings of `ingest`: which objects of the bucket, how they are judged and stored, what follows."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

from tasks.bucket_settings import BucketAddress, BucketSettings, bucket_address
from tasks.core.errors import FaultKind
from tasks.core.object_outcomes import After
from tasks.core.object_rules import ObjectRule
from tasks.declaration import Setting, Use, declarations, load_as
from tasks.dicomweb_settings import DicomwebSettings
from tasks.setting_values import digest_of, registry_of, why_no_endpoint
from tasks.settings import (
    AllowHttp,
    DeadAfter,
    LedgerSettings,
    MaxOutage,
    ReportSettings,
    Retries,
    UserId,
    budgets_of,
)
from tasks.tls_settings import TlsSettings

MOST_REQUESTS: Final = 4  # what servers are asked for at the same time
_RULES: Final = ", ".join(ObjectRule)
STDIN: Final = "-"


def _known_rules(names: tuple[str, ...]) -> tuple[str, ...]:
    """Each rule once, in their order; ValueError for what is none."""
    if unknown := sorted({*names} - {*ObjectRule}):
        raise ValueError(f"has what is no rule; there are {_RULES} ({len(unknown)} unknown)")
    return tuple(rule.value for rule in ObjectRule if rule in names)


@dataclass(frozen=True, kw_only=True)
class RegistrationSettings(LedgerSettings):
    """How a run of `ingest` behaves: nothing secret, so it may be a flow parameter."""

    keys: Annotated[
        str,
        Setting(
            "A file with one key a line: these objects alone, and afresh. Verify writes repair-keys.txt."
        ),
    ] = ""
    events: Annotated[
        str,
        Setting(
            "Objects that event messages of S3 tell of, in place of a listing: a folder with one message a "
            "file, or - for one a line on standard input."
        ),
    ] = ""
    after: Annotated[
        After,
        Setting(
            "What is done with an object that has its outcome: leave it, tag it, or move it to registered/ "
            "or quarantine/."
        ),
    ] = After.LEAVE
    bucket_read_only: Annotated[
        bool,
        Setting("Write nothing to the bucket, whatever --after says.", form={"title": "Read-only Bucket"}),
    ] = False
    stow_parallel: Annotated[
        int,
        Setting(
            f"STOW-RS requests at the same time, {MOST_REQUESTS} at most.",
            limits={"ge": 1, "le": MOST_REQUESTS},
            form={"title": "STOW Parallel"},
        ),
    ] = 2
    skip_rule: Annotated[
        tuple[str, ...],
        Setting(
            f"A rule for objects that is not to count; repeatable: {_RULES}.",
            convert=_known_rules,
            form={"items": {"type": "string", "enum": list(ObjectRule)}},
        ),
    ] = ()
    dciodvfy: Annotated[
        bool,
        Setting(
            "Have dciodvfy of dicom3tools look at each object, and count what it finds: it holds none back."
        ),
    ] = False
    quiet_after: Annotated[
        float,
        Setting(
            "A study of which nobody says how many instances it has is complete after so many seconds "
            "without another one.",
            limits={"ge": 0},
        ),
    ] = 600
    dead_after: DeadAfter = 180
    max_outage: MaxOutage = 3600
    retries: Retries = ()
    allow_http: AllowHttp = False

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if self.keys and self.events:
            yield "KEYS and EVENTS: only one of them can say which objects"

    @property
    def budgets(self) -> dict[FaultKind, int]:
        """How many faults of each kind an object, or a request, survives."""
        return budgets_of(self.retries)

    @property
    def done_after(self) -> After:
        """What is done with an object that has its outcome, in this bucket."""
        return After.LEAVE if self.bucket_read_only else self.after


@dataclass(frozen=True, kw_only=True)
class IngestSettings(RegistrationSettings, ReportSettings, TlsSettings, BucketSettings, DicomwebSettings):
    """All settings of `ingest`."""

    user_id: UserId = ""

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        for name in ("bucket", "dicomweb_url"):
            if not getattr(self, name):
                yield f"{name.upper()} is not given: --{name.replace('_', '-')}"
        for name in ("dicomweb_url", "dicomweb_token_url"):
            url = getattr(self, name)
            if url and (objection := why_no_endpoint(url, allow_http=self.allow_http)):
                yield f"{name.upper()} {objection}"

    @property
    def address(self) -> BucketAddress:
        """The bucket, and what the keys of its objects begin with."""
        return bucket_address(self.bucket)

    @property
    def registry(self) -> str:
        """The DICOMweb server: host:port/path."""
        return registry_of(self.dicomweb_url)

    @property
    def credential(self) -> str:
        """By what name the DICOMweb server knows us: a client's id, a user, a token's digest; no secret."""
        if self.dicomweb_token_url:
            return f"client {self.dicomweb_client_id}"
        if self.dicomweb_user:
            return f"user {self.dicomweb_user}"
        return digest_of("token", self.dicomweb_token.get_secret_value()) or "none"

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the secrets: two runs with the same had the same settings."""
        names = (each.name for each in declarations(IngestSettings) if Use.SECRET not in each.setting.use)
        values = {name: getattr(self, name) for name in names}
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def load_ingest(**given: Any) -> IngestSettings:
    """The settings of one run of `ingest`; a value of None was not given. UsageError names every fault."""
    return load_as(IngestSettings, **given)
