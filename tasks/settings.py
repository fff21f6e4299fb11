"""Every option as a setting `DICOM_INGEST_<NAME>`; the command line and a flow's form say the same words.

What is given by a caller wins over the environment, the environment over the defaults. Secrets come from the
environment alone: they are no flow parameter and no argument that other users of the machine can see.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tasks.core.allowed_hosts import why_not
from tasks.core.errors import FaultKind, UsageError
from tasks.core.models import OnConflict
from tasks.core.options import HELP, PREFIX
from tasks.core.retry import BUDGETS

MOST_PARALLEL: Final = 20  # what the platform asks for

# RFC 9110, 5.1; not one that says who asks, what is asked, or where a message ends.
_HEADER: Final = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+\Z")
_NOT_FOR_KEYS: Final = re.compile(
    r"(authorization|host|cookie|accept|cache-control|connection|keep-alive|expect|te|trailer|upgrade"
    r"|transfer-encoding|(content|proxy|if|accept)-.*)\Z",
    re.IGNORECASE,
)
# For the form: Prefect's server checks them before it keeps what was filled in.
_LEDGER: Final = r"^(?![^:]+://[^:/@]*:[^@]*@)"
_RETRY: Final = rf"^({'|'.join(BUDGETS)})=[0-9]+$"


def _empty_form(schema: dict[str, Any]) -> None:
    """No field is filled in; its default is told in words.

    Prefect's form sends all that it shows, and what is sent wins over the setting of the worker.
    """
    for field in schema["properties"].values():
        default = field.pop("default", None)
        if default not in (None, "", []) and default is not False:
            field["description"] += f" Default: {default}."


class Options(BaseModel):
    """How a run behaves: nothing secret, so it may be a flow parameter."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_empty_form)

    parallel: int = Field(MOST_PARALLEL, ge=1, le=MOST_PARALLEL, description=HELP["parallel"])
    processes: int = Field(0, ge=0, le=20, description=HELP["processes"])
    campaign: str = Field("default", pattern=r"^[A-Za-z0-9_.-]{1,100}$", description=HELP["campaign"])
    ledger: str = Field("", description=HELP["ledger"], json_schema_extra={"pattern": _LEDGER})
    root: str = Field("", description=HELP["root"])
    rehash: bool = Field(False, description=HELP["rehash"])
    on_conflict: OnConflict = Field(OnConflict.REPORT, title="On Conflict", description=HELP["on_conflict"])
    min_age: float = Field(0, ge=0, description=HELP["min_age"])
    dead_after: float = Field(45, ge=2, description=HELP["dead_after"])
    max_outage: float = Field(3600, ge=0, description=HELP["max_outage"])
    retries: list[str] = Field(
        [], description=HELP["retries"], json_schema_extra={"items": {"type": "string", "pattern": _RETRY}}
    )
    allow_storage_host: list[str] = Field([], description=HELP["allow_storage_host"])
    allow_http: bool = Field(False, title="Allow HTTP", description=HELP["allow_http"])

    @field_validator("retries")
    @classmethod
    def _known_kinds(cls, retries: list[str]) -> list[str]:
        for each in retries:
            kind, _, count = each.partition("=")
            if kind not in BUDGETS or not count.isdecimal():
                raise ValueError(f"is KIND=COUNT, where KIND is one of {', '.join(BUDGETS)}")
        return retries

    @property
    def budgets(self) -> dict[FaultKind, int]:
        """How many faults of each kind a file survives."""
        given = (each.split("=") for each in self.retries)
        return BUDGETS | {FaultKind(kind): int(count) for kind, count in given}


class Settings(BaseSettings, Options):
    """Options, where to send, and as whom."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    api_endpoint: str = Field(description=HELP["api_endpoint"])
    report_dir: Path = Field(Path("report"), description=HELP["report_dir"])
    token: SecretStr = Field(SecretStr(""), description=HELP["token"])
    token_file: Path | None = Field(None, description=HELP["token_file"])
    token_url: str = Field("", description=HELP["token_url"])
    client_id: str = Field("", description=HELP["client_id"])
    client_secret: SecretStr = Field(SecretStr(""), description=HELP["client_secret"])
    client_secret_file: Path | None = Field(None, description=HELP["client_secret_file"])
    api_key: SecretStr = Field(SecretStr(""), description=HELP["api_key"])
    api_key_file: Path | None = Field(None, description=HELP["api_key_file"])
    api_key_header: str = Field("x-api-key", description=HELP["api_key_header"])
    scope: str = Field("", description=HELP["scope"])
    audience: str = Field("", description=HELP["audience"])
    user_id: str = Field("", description=HELP["user_id"])
    signing_key: Path | None = Field(None, description=HELP["signing_key"])
    ca_bundle: Path | None = Field(None, description=HELP["ca_bundle"])

    @field_validator("api_endpoint")
    @classmethod
    def _without_upload(cls, url: str) -> str:
        """The address of GET /upload/, which the platform's pages name, means the API that answers there."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return url  # what is wrong with it, `_whole` says
        path = parts.path.rstrip("/").removesuffix("/upload").rstrip("/")  # one of two, where an API has that
        return urlunsplit(parts._replace(path=path))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.token_url and not (self.client_id and (self.client_secret or self.client_secret_file)):
            raise ValueError("TOKEN_URL needs CLIENT_ID and CLIENT_SECRET (or CLIENT_SECRET_FILE) beside it")
        ways = (self.token, self.token_file, self.token_url)
        if sum(map(bool, ways)) > 1:
            raise ValueError("TOKEN, TOKEN_FILE and TOKEN_URL: only one of them can be the way to a token")
        if fault := self._fault_of_api_key():
            raise ValueError(fault)
        if has_password(self.ledger):
            raise ValueError("LEDGER must not hold a password: it comes from PGPASSWORD or PGPASSFILE")
        for name, url in (("API_ENDPOINT", self.api_endpoint), ("TOKEN_URL", self.token_url)):
            if url and (objection := _objection(url, allow_http=self.allow_http)):
                raise ValueError(f"{name} {objection}")
        return self

    def _fault_of_api_key(self) -> str:
        """What is wrong with how the API key is given; empty when nothing is."""
        key = self.api_key.get_secret_value()
        if key and self.api_key_file:
            return "API_KEY and API_KEY_FILE: only one of them can hold the key"
        if not (key.isascii() and key.isprintable()):
            return "API_KEY is not one line of ASCII text"
        if not _HEADER.match(self.api_key_header) or _NOT_FOR_KEYS.match(self.api_key_header):
            return "API_KEY_HEADER is no name of a header that an API key can be sent in, such as x-api-key"
        return ""

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the secrets: two runs with the same were told the same."""
        told = self.model_dump(mode="json", exclude={"token", "client_secret", "api_key"})
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def credential(self) -> str:
        """By what name the API knows us: a client's id, digests of token and API key; never a secret."""
        token = f"client {self.client_id}" if self.token_url else _digest("token", self.token)
        names = (
            "token file" if self.token_file else token,
            "API key file" if self.api_key_file else _digest("API key", self.api_key),
        )
        return " and ".join(filter(None, names)) or "none"

    @property
    def credential_settings(self) -> str:
        """Which settings hold the credentials, in words; empty without any."""
        given = (
            ("TOKEN", self.token),
            ("TOKEN_FILE", self.token_file),
            ("TOKEN_URL", self.token_url),
            ("API_KEY", self.api_key),
            ("API_KEY_FILE", self.api_key_file),
        )
        return " and ".join(f"{PREFIX}{name}" for name, value in given if value)

    @property
    def ledger_at(self) -> Path | str:
        """The SQLite file, or the URL of another database."""
        return ledger_at(self.ledger, self.report_dir)


def _digest(name: str, secret: SecretStr) -> str:
    text = secret.get_secret_value().encode()
    return f"{name} {hashlib.sha256(text).hexdigest()[:16]}" if text else ""


def ledger_at(ledger: str, report_dir: Path) -> Path | str:
    """What `--ledger` means: a URL, a path, or nothing for the ledger in the report directory."""
    if not ledger:
        return report_dir / "ledger.sqlite"
    return ledger if "://" in ledger else Path(ledger)


def has_password(ledger: str) -> bool:
    """Whether a ledger's URL has a password in it, where other users of the machine could see it."""
    if "://" not in ledger:
        return False
    url = urlsplit(ledger)
    return url.password is not None or "password" in parse_qs(url.query, keep_blank_values=True)


def load(**given: Any) -> Settings:
    """The settings of one run; a value of None was not given. Raises UsageError that names every fault."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except SettingsError as error:
        named = re.search(r'field "(\w+)"', str(error))
        setting = f"{PREFIX}{named.group(1).upper()}" if named else f"One of the {PREFIX}* settings"
        raise UsageError(f'{setting} is not a JSON list, such as ["one", "two"]. Nothing was sent.') from None
    except ValidationError as error:
        faults = [f"  {_fault(detail)}" for detail in error.errors(include_input=False, include_url=False)]
        raise UsageError("\n".join(["The settings are wrong. Nothing was sent.", *faults])) from None


def _fault(detail: Any) -> str:
    """One fault without the value that was given: it may be a secret."""
    name = "".join(str(part) for part in detail["loc"][:1])
    option = f"--{name.replace('_', '-')} ({PREFIX}{name.upper()})"
    if detail["type"] == "missing":
        return f"{option} is not given"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{option}: {message}" if name else f"{PREFIX}{message}"


def _objection(url: str, *, allow_http: bool) -> str:
    from httpx import URL, InvalidURL

    try:
        parsed = URL(url)
    except InvalidURL:
        return "is not a URL"
    if not parsed.host:
        return "is not a URL with a host, such as https://api.example.org"
    if parsed.userinfo:
        return "must not contain a user or password"
    return why_not(parsed.scheme, parsed.host, allow_http=allow_http)
