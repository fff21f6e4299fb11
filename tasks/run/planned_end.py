"""A run's bounds: what may start, and what a run that they end ends with."""

from tasks.core.errors import IngestError, PlannedEndError
from tasks.ledger.due_files import DueFiles
from tasks.run.edges import Edges
from tasks.settings import Settings
from tasks.upload.starts import Starts


def starts_of(settings: Settings, due: DueFiles, edges: Edges, *, is_shard: bool) -> Starts:
    """What may start. A shard goes on with its part of --max-files where another process left it."""
    is_counted = is_shard and settings.max_files is not None
    return Starts(
        settings.max_files,
        settings.max_duration_s,
        settings.windows,
        edges.elapsed,
        edges.clock_ns,
        begun=due.count_stored() if is_counted else 0,
    )


def why_ended(why: IngestError | None, stopped_by: IngestError | None, due: DueFiles) -> IngestError | None:
    """What ended the run: after a planned end what stopped it while the last files were finished, if any did.

    None, too, where all was done by then: nothing is to be continued.
    """
    if not isinstance(why, PlannedEndError):
        return why
    if not isinstance(stopped_by, PlannedEndError):
        return stopped_by
    return why if due.is_any() else None
