"""What a ledger has of earlier runs, asked before there is a run: nothing is made."""

from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from tasks.ledger.database import connect, has_ledger, retry_while_busy
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
