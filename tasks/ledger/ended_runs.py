"""What a ledger says of a run that is over, to somebody who only looks: it is neither made nor upgraded."""

from pathlib import Path

import sqlalchemy as sa

from tasks.core.escape import escape, unescape
from tasks.ledger.database import connect, fetch
from tasks.ledger.platforms import api_hosts
from tasks.ledger.schema import run, study


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
        newest = next(iter(fetch(engine, query)), None)
    finally:
        engine.dispose()
    return newest.run_id if newest and newest.end and newest.end["stopped_exit_code"] is None else ""


def study_dirs(url: str | Path, run_id: str) -> list[str]:
    """The study directories of a run that the ledger knows, in its manifest's order."""
    query = sa.select(study.c.study_dir).where(study.c.run_id == run_id).order_by(study.c.study_no)
    engine = connect(url)
    try:
        return [unescape(row.study_dir) for row in fetch(engine, query)]
    finally:
        engine.dispose()
