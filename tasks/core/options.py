"""What each option means, said once: for the command line, the settings and the flow's form."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from tasks.core.escape import escape
from tasks.core.retry import BUDGETS

_BUDGETS: Final = ", ".join(f"{kind}={count}" for kind, count in BUDGETS.items())
# In words, of options that have one and whose meaning does not say it; tasks/settings.py has the values.
DEFAULTS: Final = {
    "report_dir": "report",
    "campaign": "default",
    "parallel": "20",
    "processes": "0",
    "on_conflict": "report",
    "min_age": "0",
    "dead_after": "45",
    "max_outage": "3600",
}
HELP: Final = {
    "api_endpoint": "The upload API, with or without the /upload/ at which it is asked for each file's URL.",
    "report_dir": "Where the report is written, and the ledger unless --ledger names it.",
    "ledger": "SQLite path, or SQLAlchemy URL without a password. Default: ledger.sqlite by the report.",
    "campaign": "The name under which files and UIDs are known to the ledger, from run to run.",
    "parallel": "Uploads at the same time. The platform asks for no more than 20.",
    "processes": "Processes that send. 0: one, and more when it is short of CPU and there are cores.",
    "root": "A directory that every study directory, and every link in one, has to stay in.",
    "rehash": "Read also files whose size and time say that they are stored.",
    "on_conflict": "A SOP Instance UID that is stored with other bytes: report it, or upload it too.",
    "min_age": "Leave files alone that changed less than this many seconds ago.",
    "dead_after": "Take over what another run has claimed when it gave no sign of life for so many seconds.",
    "max_outage": "Give up when the far side has been down for this many seconds.",
    "retries": f"How many faults of a kind a file survives; repeatable. Kinds and defaults: {_BUDGETS}.",
    "allow_storage_host": "Shell pattern of a host that presigned URLs may lead to; repeatable. None: any.",
    "allow_http": "Accept plain http to other machines than this one.",
    "token": "A static bearer token for the API.",
    "token_file": "A file that holds the token; read for every request, so it may be renewed meanwhile.",
    "token_url": "The OAuth2 token endpoint (client credentials grant).",
    "client_id": "The OAuth2 client.",
    "client_secret": "The OAuth2 client's secret.",
    "client_secret_file": "A file that holds the OAuth2 client's secret.",
    "api_key": "A key for the API, beside a token or in place of one.",
    "api_key_file": "A file that holds the API key; read for every request, so it may be renewed meanwhile.",
    "api_key_header": "The header that the API key is sent in, to the API's host alone.",
    "audience": "The audience to ask a token for, where the token endpoint wants one.",
    "scope": "The OAuth2 scope to ask for.",
    "ca_bundle": "PEM certificates of a private certificate authority, beside the system's.",
    "user_id": "Who is accountable for the run, in the audit trail.",
    "signing_key": "An Ed25519 key in PEM that signs the certificate of completion.",
    "debug": "Show where an error came from.",
}

PREFIX: Final = "DICOM_INGEST_"
# Variables that are no setting of a run: of the sandbox, of deployments/prefect.yaml, between our processes.
_SANDBOX: Final = (
    "client_id",
    "client_secret",
    "scope",
    "token_lifetime_s",
    "url_lifetime_s",
    "key_prefix",
    "bucket",
    "s3_endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "data_dir",
    "host",
    "port",
)
_OTHERS: Final = ("home",)
VARIABLES: Final = frozenset(
    PREFIX + name.upper() for name in (*HELP, *_OTHERS, *(f"sandbox_{each}" for each in _SANDBOX))
)


def unknown_variables(names: Iterable[str]) -> list[str]:
    """A sentence for each name of an environment variable that looks like a setting and is none."""
    ours = sorted(name for name in names if name.upper().startswith(PREFIX))
    return [_unknown(name) for name in ours if name.upper() not in VARIABLES]


def _unknown(name: str) -> str:
    by_rest = {each.removeprefix(PREFIX): each for each in VARIABLES}
    (nearest,) = get_close_matches(name.upper().removeprefix(PREFIX), sorted(by_rest), 1, cutoff=0.0)
    return f"{escape(name)} is no setting and changes nothing; the nearest one is {by_rest[nearest]}."
