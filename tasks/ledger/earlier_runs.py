"""What a ledger has of earlier runs, asked before there is a run: nothing is made."""

from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from tasks.core.escape import escape
from tasks.ledger.database import connect, fetch, has_ledger, retry_while_busy
from tasks.ledger.platforms import api_hosts
from tasks.ledger.schema import run


class Begins(StrEnum):
    """What a run makes anew, so that it knows nothing of what earlier runs stored."""

    NOTHING = ""
    CAMPAIGN = "campaign"
    LEDGER = "ledger"

    def sentence(self, campaign: str, where: str = "") -> str:
        """What that means; empty for nothing. `where` the ledger is may be said on a terminal alone."""
        if self is Begins.LEDGER:
            in_it = f" in {where}" if where else ""
            return (
                f"A new ledger begins{in_it}: what earlier runs stored with another ledger is not known to "
                "it, and is sent again."
            )
        if self is Begins.CAMPAIGN:
            return (
                f"Campaign {campaign} is new in this ledger: what other campaigns stored is not known to it, "
                "and is sent again."
            )
        return ""


def begins(url: str | Path, campaign: str) -> Begins:
    """What a run of this campaign would make anew. It makes nothing itself."""
    if not has_ledger(url):
        return Begins.LEDGER
    engine = connect(url)
    try:
        return retry_while_busy(lambda: _begins(engine, campaign))
    finally:
        engine.dispose()


def _begins(engine: sa.Engine, campaign: str) -> Begins:
    with engine.connect() as db:
        is_known = db.scalar(sa.select(sa.exists().where(run.c.campaign == campaign)))
        return Begins.NOTHING if is_known else Begins.CAMPAIGN


def ended_into(url: str | Path, campaign: str, report_dir: Path, api_host: str) -> str:
    """The run_id of the newest run into a report directory, when it came to its end; else empty.

    Also when the campaign does not have this API's host among its platform's. It makes nothing.
    """
    if api_host not in api_hosts(url, campaign):
        return ""
    query = (
        sa.select(run.c.run_id, run.c.end)
        .where(run.c.campaign == campaign, run.c.report_dir == escape(str(report_dir.absolute())))
        .order_by(run.c.serial.desc())
        .limit(1)
    )
    engine = connect(url)
    try:
        (newest,) = fetch(engine, query) or (None,)
    finally:
        engine.dispose()
    return newest.run_id if newest and newest.end and newest.end["stopped_exit_code"] is None else ""
