"""How a ledger's PostgreSQL server may ask for the password."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tasks.core.errors import StoppedError
from tasks.ledger.database import connect, fetch
from tests.databases import PostgreSQL

PASSWORD = "a-password-of-the-ledger"


def user_on(url: str, postgresql: PostgreSQL, method: str) -> str:
    """The URL of a user whom the server asks in this way."""
    engine = connect(url)
    name = f"{url.rpartition('/')[2]}_user"
    with engine.begin() as db:
        db.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    engine.dispose()
    postgresql.demand(method, url)
    return url.replace("tester@", f"{name}@")


def answer(url: str) -> int:
    """A connection's, made as the ledger's are."""
    engine = connect(url)
    try:
        return int(fetch(engine, sa.text("SELECT 1"))[0][0])
    finally:
        engine.dispose()


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("PGREQUIREAUTH", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    yield monkeypatch


class TestPassword:
    def test_is_proved_and_never_sent(self, postgresql: PostgreSQL, password: pytest.MonkeyPatch) -> None:
        """Who answers in the server's place gets none."""
        assert answer(user_on(postgresql.new_database(), postgresql, "scram-sha-256")) == 1
        url = user_on(postgresql.new_database(), postgresql, "password")
        with pytest.raises(StoppedError, match="server requested a cleartext password") as raised:
            answer(url)
        assert PASSWORD not in str(raised.value)
        assert answer(f"{url}?require_auth=password") == 1
        password.setenv("PGREQUIREAUTH", "password")
        assert answer(url) == 1

    def test_is_sent_to_a_server_whose_certificate_says_who_it_is(self, password: pytest.MonkeyPatch) -> None:
        """Then libpq's default counts, which permits it."""
        url = "postgresql://user@127.0.0.1/x"
        assert connect(url).url.query == {"require_auth": "!password"}
        assert "require_auth" not in connect(f"{url}?sslmode=verify-full").url.query
        assert "require_auth" in connect(f"{url}?sslmode=verify-ca").url.query
        password.setenv("PGSSLMODE", "verify-full")
        assert "require_auth" not in connect(url).url.query
        assert "require_auth" in connect(f"{url}?sslmode=require").url.query
