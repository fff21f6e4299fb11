"""What a run has still to do, and how much of it is done."""

import sqlalchemy as sa

from tasks.core.models import Status
from tasks.ledger.database import fetch
from tasks.ledger.schema import UNSETTLED, file, listing, study
from tasks.ledger.statements import Scope


class DueFiles:
    """As the run itself sees them."""

    def __init__(self, engine: sa.Engine, scope: Scope) -> None:
        self._engine = engine
        self._scope = scope

    def is_any(self) -> bool:
        """Whether a file is not settled, or a study directory not walked to its end."""
        of_run = self._scope.run_id
        unsettled = sa.select(listing.c.file_id).where(listing.c.run_id == of_run, UNSETTLED)
        unscanned = sa.select(study.c.study_no).where(study.c.run_id == of_run, ~study.c.scanned)
        return any(fetch(self._engine, query.limit(1)) for query in (unsettled, unscanned))

    def count_stored(self) -> int:
        """How many files this run has stored, whichever of its processes did."""
        query = sa.select(sa.func.count().label("stored")).where(
            file.c.run_id == self._scope.run_id, file.c.status == Status.UPLOADED
        )
        (found,) = fetch(self._engine, query)
        stored: int = found.stored
        return stored
