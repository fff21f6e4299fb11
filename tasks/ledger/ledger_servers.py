"""The database server that a ledger's URL leads to: who names it, and how it may ask for a password."""

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

PSYCOPG: Final = "postgresql+psycopg"
_PORT: Final = "5432"
# What libpq takes a password from, beside ~/.pgpass, and what does so in a URL.
_PASSWORD_VARIABLES: Final = ("PGPASSWORD", "PGPASSFILE", "PGSERVICE")
_PASSWORD_PARAMETERS: Final = frozenset({"service", "passfile"})
_SINCE_LIBPQ: Final = 160_000  # has require_auth


class LedgerServer(NamedTuple):
    """A database server, as a URL has it; two that are equal are reached in the same way."""

    driver: str
    host: str
    port: str
    parameters: Mapping[str, Any]  # of libpq: what follows the `?`

    def is_of_environment(self, environ: Mapping[str, str]) -> bool:
        """Whether libpq's own variables name it, or the URL leaves it to them, and how it is reached, too."""
        host, port = environ.get("PGHOST", "").lower(), environ.get("PGPORT") or _PORT
        is_safe = self.parameters in ({}, {"sslmode": "verify-full"})
        return self.host in ("", host) and self.port == port and is_safe

    def gets_password(self, environ: Mapping[str, str]) -> bool:
        """Whether libpq finds anything from which it could send this server a password."""
        named = any(environ.get(name) for name in _PASSWORD_VARIABLES)
        return named or _has_password_file(environ) or bool(_PASSWORD_PARAMETERS & self.parameters.keys())


def server_of(ledger: str, environ: Mapping[str, str]) -> LedgerServer | None:
    """Of a ledger's URL; None for a file, and for a URL that is none."""
    try:
        url = with_driver(sa.make_url(ledger)) if "://" in ledger else None
    except (SQLAlchemyError, ValueError):
        return None
    if url is None or url.get_backend_name() == "sqlite":
        return None
    port = str(url.port or environ.get("PGPORT") or _PORT)
    return LedgerServer(url.drivername, (url.host or "").lower(), port, dict(url.query))


def with_driver(url: sa.URL) -> sa.URL:
    """The same, by our driver where it names none: asyncpg, which Prefect brings, has no threads."""
    return url.set(drivername=PSYCOPG) if url.drivername in ("postgresql", "postgres") else url


def without_plain_passwords(url: sa.URL, environ: Mapping[str, str]) -> sa.URL:
    """The same, by which libpq refuses a server that asks for the password itself, and not for a proof of it.

    Who can answer in the server's place would get it. URL and environment may say otherwise; and a server
    that is verified by certificate and name may ask.
    """
    mode = url.query.get("sslmode") or environ.get("PGSSLMODE")
    is_said = "require_auth" in url.query or environ.get("PGREQUIREAUTH")
    if url.drivername != PSYCOPG or is_said or mode == "verify-full" or not _has_require_auth():
        return url
    return url.update_query_dict({"require_auth": "!password"})


def _has_require_auth() -> bool:
    from psycopg.pq import version

    return version() >= _SINCE_LIBPQ


def _has_password_file(environ: Mapping[str, str]) -> bool:
    return os.path.exists(f"{environ.get('HOME', '')}/.pgpass")  # noqa: PTH110 - Path may raise
