"""Every setting, declared once: name, type, default, limits, help, and where it can be given.

From a field below derive the option of the command line and its help (flows/cli/options.py), the form in
Prefect's UI (flows/orchestration/parameters.py), the fields of its block (flows/orchestration/blocks.py) and
the variable `DICOM_INGEST_<NAME>`. Secrets are no option: other users of the machine can see those.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from tasks.bandwidth_settings import BandwidthSettings
from tasks.core.errors import FaultKind
from tasks.core.models import ACCEPTABLE, Balance, OnConflict
from tasks.core.retry import BUDGETS
from tasks.declaration import PREFIX, Declared, Setting, Use, declarations, load_as
from tasks.schedule_settings import ScheduleSettings
from tasks.setting_values import (
    BUDGETS_IN_WORDS,
    WITHOUT_SECRETS,
    as_reasons,
    digest_of,
    has_password,
    in_words,
    is_header_for_keys,
    known_kinds,
    no_secret,
    reasons_in_order,
    why_no_endpoint,
    without_upload,
)
from tasks.tls_settings import TlsSettings

if TYPE_CHECKING:
    from pydantic import SecretStr

MOST_PARALLEL: Final = 20  # what the platform asks for
MOST_SHARDS: Final = 1000
# Settings of earlier versions, and why they are none: schedules, deployments and environments keep them.
GONE: Final = {"processes": "one process sends all files"}


@dataclass(frozen=True, kw_only=True)
class CommandSettings(Declared):
    """Of every command."""

    debug: Annotated[bool, Setting("Show where an error came from.")] = False
    quiet: Annotated[bool, Setting("Say no progress and no news: warnings, errors and results remain.")] = (
        False
    )
    json_logs: Annotated[
        bool, Setting("Say everything on standard error as JSON, one object a line, log records, too.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Declared):
    """Of `dicom-ingest demo`."""

    prefix = f"{PREFIX}DEMO_"

    directory: Annotated[Path, Setting("Where everything of the demo is put.")] = Path("demo")
    slices: Annotated[int, Setting("Slices of the generated CT study.", limits={"ge": 1})] = 300


AcceptedReasons = Annotated[
    str,
    Setting(
        "Send as it is what is held back as malformed, no_preamble, truncated: which, comma-separated.",
        convert=reasons_in_order,
        form={"pattern": f"^({'|'.join(ACCEPTABLE)}|[, ])*$"},
    ),
]


# Of several commands.
ReadArchives = Annotated[
    bool, Setting("Read what is in zip, tar, tar.gz and gzip files, too, without unpacking them to disk.")
]
UserId = Annotated[str, Setting("Who is accountable for the run, in the audit trail.", Use.ENVIRONMENT_ALONE)]
AllowHttp = Annotated[
    bool, Setting("Accept plain http to other machines than this one.", form={"title": "Allow HTTP"})
]


@dataclass(frozen=True, kw_only=True)
class AcceptSettings(Declared):
    """What a run sends besides, as a scan is to expect it: what would be held back, what is in archives."""

    accept: AcceptedReasons = ""
    archives: ReadArchives = False

    @property
    def accepted(self) -> frozenset[str]:
        """The reasons for which a file is sent all the same."""
        return as_reasons(self.accept)


@dataclass(frozen=True, kw_only=True)
class ManifestSettings(Declared):
    """Of `dicom-ingest manifest`."""

    prefix = f"{PREFIX}MANIFEST_"

    output: Annotated[Path, Setting("Where to write it: .csv, .jsonl or .parquet.", letter="-o")]
    scan: Annotated[
        bool,
        Setting(
            "Read the header of every file, and fill in study_instance_uid (where all agree), "
            "expected_instances (distinct SOP Instance UIDs that would be sent) and expected_bytes (theirs)."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Declared):
    """Of `dicom-ingest serve`."""

    prefix = f"{PREFIX}SERVE_"

    port: Annotated[int, Setting("Port of the Prefect server that is started.")] = 4200


@dataclass(frozen=True, kw_only=True)
class PlatformSettings(Declared):
    """Where to send, and as whom."""

    api_endpoint: Annotated[
        str,
        Setting(
            "The upload API, with or without the /upload/ at which it is asked for each file's URL.",
            Use.OPTION | Use.BLOCK,
            convert=without_upload,
            letter="-u",
        ),
    ]
    token: Annotated["SecretStr", Setting("A static bearer token for the API.", Use.BLOCK | Use.SECRET)] = (
        field(default_factory=no_secret)
    )
    token_file: Annotated[
        Path | None,
        Setting(
            "A file that holds the token; read for every request, so it may be renewed meanwhile.",
            Use.ENVIRONMENT_ALONE,
        ),
    ] = None
    token_url: Annotated[str, Setting("The OAuth2 token endpoint (client credentials grant).", Use.BLOCK)] = (
        ""
    )
    client_id: Annotated[str, Setting("The OAuth2 client.", Use.BLOCK)] = ""
    client_secret: Annotated["SecretStr", Setting("The OAuth2 client's secret.", Use.BLOCK | Use.SECRET)] = (
        field(default_factory=no_secret)
    )
    client_secret_file: Annotated[
        Path | None, Setting("A file that holds the OAuth2 client's secret.", Use.ENVIRONMENT_ALONE)
    ] = None
    api_key: Annotated[
        "SecretStr", Setting("A key for the API, beside a token or in place of one.", Use.BLOCK | Use.SECRET)
    ] = field(default_factory=no_secret)
    api_key_file: Annotated[
        Path | None,
        Setting(
            "A file that holds the API key; read for every request, so it may be renewed meanwhile.",
            Use.ENVIRONMENT_ALONE,
        ),
    ] = None
    api_key_header: Annotated[
        str, Setting("The header that the API key is sent in, to the API's host alone.", Use.BLOCK)
    ] = "x-api-key"
    scope: Annotated[str, Setting("The OAuth2 scope to ask for.", Use.BLOCK)] = ""
    audience: Annotated[
        str, Setting("The audience to ask a token for, where the token endpoint wants one.", Use.BLOCK)
    ] = ""
    user_id: UserId = ""

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if self.token_url and not (self.client_id and (self.client_secret or self.client_secret_file)):
            yield "TOKEN_URL needs CLIENT_ID and CLIENT_SECRET (or CLIENT_SECRET_FILE) beside it"
        if sum(map(bool, (self.token, self.token_file, self.token_url))) > 1:
            yield "TOKEN, TOKEN_FILE and TOKEN_URL: only one of them can be the way to a token"
        key = self.api_key.get_secret_value()
        if key and self.api_key_file:
            yield "API_KEY and API_KEY_FILE: only one of them can hold the key"
        if not (key.isascii() and key.isprintable()):
            yield "API_KEY is not one line of ASCII text"
        if not is_header_for_keys(self.api_key_header):
            yield "API_KEY_HEADER is no name of a header that an API key can be sent in, such as x-api-key"


@dataclass(frozen=True, kw_only=True)
class ReportDirectorySettings(Declared):
    """Of what reads a report alone."""

    report_dir: Annotated[
        Path, Setting("Where the report is written, and the ledger unless --ledger names it.")
    ] = Path("report")


@dataclass(frozen=True, kw_only=True)
class LedgerSettings(Declared):
    """Which ledger, and which part of it."""

    ledger: Annotated[
        str,
        Setting(
            "SQLite path, or SQLAlchemy URL without a password. Default: ledger.sqlite by the report.",
            form={"pattern": WITHOUT_SECRETS},
        ),
    ] = ""
    campaign: Annotated[
        str,
        Setting(
            "The name under which files and UIDs are known to the ledger, from run to run.",
            limits={"pattern": r"^[A-Za-z0-9_.-]{1,100}$"},
        ),
    ] = "default"


@dataclass(frozen=True, kw_only=True)
class ReportSettings(LedgerSettings, ReportDirectorySettings):
    """Where a run's report is, and by which key its certificate is signed."""

    signing_key: Annotated[
        Path | None,
        Setting("An Ed25519 key in PEM that signs the certificate of completion.", Use.ENVIRONMENT_ALONE),
    ] = None

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if has_password(self.ledger):
            yield "LEDGER must not hold a password: it comes from PGPASSWORD or PGPASSFILE"

    @property
    def ledger_at(self) -> Path | str:
        """The SQLite file, or the URL of another database."""
        if not self.ledger:
            return self.report_dir / "ledger.sqlite"
        return self.ledger if "://" in self.ledger else Path(self.ledger)


@dataclass(frozen=True, kw_only=True)
class ResolveSettings(ReportSettings):
    """Whose report is resolved, and who decides."""

    user_id: UserId = ""


# How patient a run is with others, whatever it does.
DeadAfter = Annotated[
    float,
    Setting(
        "Take over what another run has claimed when it gave no sign of life for so many seconds.",
        limits={"ge": 2},
    ),
]
MaxOutage = Annotated[
    float, Setting("Give up when the platform has been down for this many seconds.", limits={"ge": 0})
]
Retries = Annotated[
    tuple[str, ...],
    Setting(
        f"How many faults of a kind a file survives; repeatable. Kinds and defaults: {BUDGETS_IN_WORDS}.",
        convert=known_kinds,
        form={"items": {"type": "string", "pattern": rf"^({'|'.join(BUDGETS)})=[0-9]+$"}},
    ),
]


def budgets_of(retries: Iterable[str]) -> dict[FaultKind, int]:
    """How many faults of each kind a file, or an object, survives."""
    given = (each.split("=") for each in retries)
    return BUDGETS | {FaultKind(kind): int(count) for kind, count in given}


@dataclass(frozen=True, kw_only=True)
class RunSettings(ScheduleSettings, BandwidthSettings, LedgerSettings):
    """How a run behaves: nothing secret, so it may be a flow parameter."""

    parallel: Annotated[
        int,
        Setting(
            f"Uploads at the same time. The platform asks for no more than {MOST_PARALLEL}.",
            limits={"ge": 1, "le": MOST_PARALLEL},
        ),
    ] = MOST_PARALLEL
    root: Annotated[
        str, Setting("A directory that every study directory, and every link in one, has to stay in.")
    ] = ""
    rehash: Annotated[bool, Setting("Read also files whose size and time say that they are stored.")] = False
    trust_ctime: Annotated[bool, Setting("Read also stored files of which the ctime alone differs.")] = True
    on_conflict: Annotated[
        OnConflict,
        Setting(
            "A SOP Instance UID that is stored with other bytes: report it, or upload it too.",
            form={"title": "On Conflict"},
        ),
    ] = OnConflict.REPORT
    accept: AcceptedReasons = ""
    archives: ReadArchives = False
    same_platform: Annotated[
        bool,
        Setting(
            "The upload API is the campaign's platform by another host or port: said once, the ledger "
            "remembers it."
        ),
    ] = False
    min_age: Annotated[
        float, Setting("Leave files alone that changed less than this many seconds ago.", limits={"ge": 0})
    ] = 0
    dead_after: DeadAfter = 180
    max_outage: MaxOutage = 3600
    retries: Retries = ()
    allow_storage_host: Annotated[
        tuple[str, ...],
        Setting(
            "Shell pattern of a host that presigned URLs may lead to; repeatable. None: any.",
            Use.OPTION | Use.BLOCK,
        ),
    ] = ()
    allow_http: AllowHttp = False

    @property
    def accepted(self) -> frozenset[str]:
        """The reasons for which a file is sent all the same."""
        return as_reasons(self.accept)

    @property
    def budgets(self) -> dict[FaultKind, int]:
        """How many faults of each kind a file survives."""
        return budgets_of(self.retries)


@dataclass(frozen=True, kw_only=True)
class Settings(RunSettings, ReportSettings, TlsSettings, PlatformSettings):
    """All settings of a run."""

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        for name, url in (("API_ENDPOINT", self.api_endpoint), ("TOKEN_URL", self.token_url)):
            if url and (objection := why_no_endpoint(url, allow_http=self.allow_http)):
                yield f"{name} {objection}"

    @property
    def credential(self) -> str:
        """By what name the API knows us: a client's id, digests of token and API key; never a secret."""
        static = digest_of("token", self.token.get_secret_value())
        token = f"client {self.client_id}" if self.token_url else static
        key = digest_of("API key", self.api_key.get_secret_value())
        names = (
            "token file" if self.token_file else token,
            "API key file" if self.api_key_file else key,
            "client certificate" if self.client_cert else "",
        )
        return " and ".join(filter(None, names)) or "none"

    @property
    def credential_settings(self) -> str:
        """Which settings hold the credentials, in words; empty without any."""
        names = ("token", "token_file", "token_url", "api_key", "api_key_file", "client_cert")
        return " and ".join(f"{PREFIX}{name.upper()}" for name in names if getattr(self, name))

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the secrets: two runs with the same had the same settings."""
        names = (each.name for each in declarations(Settings) if Use.SECRET not in each.setting.use)
        values = {name: getattr(self, name) for name in names}
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def in_words(self) -> dict[str, str]:
        """The options as text, without those that say nothing: no secret, and no place of one."""
        options = (each.name for each in declarations(RunSettings) if Use.OPTION in each.setting.use)
        return {name: said for name in options if (said := in_words(getattr(self, name)))}


_PARTS: Final = "How many parts, of whole studies. More parts than workers even out their pace."
ShardCount = Annotated[int, Setting(_PARTS, limits={"ge": 1, "le": MOST_SHARDS})]
ShardBalance = Annotated[Balance, Setting("What is to be equal between shards: files, or bytes.")]


@dataclass(frozen=True, kw_only=True)
class MigrationSettings(Declared):
    """How a migration is cut."""

    shards: ShardCount = 4
    balance: ShardBalance = Balance.FILES


def load(**given: Any) -> Settings:
    """The settings of one run; a value of None was not given. Raises UsageError that names every fault."""
    return load_as(Settings, **given)


def no_setting_any_more(name: str, gone: str) -> str:
    """What is said of a name under which somebody still gives one of GONE."""
    return f"{name} is no setting any more and changes nothing: {GONE[gone]}. Leave it out."
