"""A campaign belongs to one platform, known by its API's host and port.

What is stored there would pass for stored elsewhere: a file known as `already_uploaded` may be on the test
platform alone. A name becomes the campaign's when its first run begins; another name for the same platform is
added once somebody says that it is one.
"""

from pathlib import Path

import sqlalchemy as sa

from tasks.core.errors import UsageError
from tasks.core.escape import escape
from tasks.core.models import Target
from tasks.ledger.database import connect, has_ledger, retry_while_busy
from tasks.ledger.schema import issued_key, platform, run
from tasks.ledger.statements import NO_FILE, Scope


def require_same_platform(url: str | Path, campaign: str, target: Target) -> None:
    """Raises UsageError when a run with this target would be refused. It makes nothing."""
    if not has_ledger(url):
        return
    engine = connect(url)
    scope = Scope(engine.dialect.name, campaign, run_id="", dead_after_s=0)
    try:
        retry_while_busy(lambda: _require(engine, scope, target))
    finally:
        engine.dispose()


def api_hosts(url: str | Path, campaign: str) -> list[str]:
    """The names of the campaign's platform; none of a campaign that has none yet. It makes nothing."""
    if not has_ledger(url):
        return []
    engine = connect(url)
    try:
        return retry_while_busy(lambda: _known(engine, campaign))
    finally:
        engine.dispose()


def bind(db: sa.Connection, scope: Scope, target: Target) -> None:
    """The campaign is of this run's platform from here on. Raises UsageError when it is another's.

    Of two runs that begin a campaign at once, the second waits for the first one's commit, and then sees it.
    """
    if not target.api_host:
        return
    mine = platform.c.campaign == scope.campaign
    db.execute(scope.insert(platform).values(campaign=scope.campaign, api_hosts=[target.api_host]))
    hosts = db.scalars(sa.select(platform.c.api_hosts).where(mine).with_for_update()).one()
    allowed = _allowed(db, scope, target, hosts)
    if allowed != hosts:
        db.execute(sa.update(platform).where(mine).values(api_hosts=allowed))


def _require(engine: sa.Engine, scope: Scope, target: Target) -> None:
    hosts = _known(engine, scope.campaign)
    with engine.connect() as db:
        _allowed(db, scope, target, hosts or [target.api_host])


def _known(engine: sa.Engine, campaign: str) -> list[str]:
    with engine.connect() as db:
        if not sa.inspect(db).has_table(platform.name):  # of an earlier version
            return []
        hosts = db.scalar(sa.select(platform.c.api_hosts).where(platform.c.campaign == campaign))
        return list(hosts or [])


def _allowed(db: sa.Connection, scope: Scope, target: Target, hosts: list[str]) -> list[str]:
    """The campaign's names with this run. UsageError when it has others, which files may have gone to."""
    if target.api_host in hosts:
        return hosts
    if target.same_platform:
        return [*hosts, target.api_host]
    if not _is_in_use(db, scope):
        return [target.api_host]
    raise UsageError(
        f"Campaign {scope.campaign} belongs to the platform at {escape(' or '.join(hosts))}, and "
        f"--api-endpoint is at {target.api_host}: what is stored there is not stored here. Nothing was sent. "
        "If it is the same platform by another name, say so once: --same-platform. Else name another "
        "--campaign, or another ledger (by --ledger, or a --report-dir that has its own)."
    )


def _is_in_use(db: sa.Connection, scope: Scope) -> bool:
    """Whether a file of the campaign was given a key, or may be: by a run without an end."""
    issued = sa.exists().where(issued_key.c.campaign == scope.campaign, issued_key.c.file_id != NO_FILE)
    others = (run.c.campaign == scope.campaign, run.c.run_id != scope.run_id)
    return bool(db.scalar(sa.select(issued | sa.exists().where(*others, run.c.end.is_(None)))))
