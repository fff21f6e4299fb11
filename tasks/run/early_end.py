"""How work that must end in a report is ended early, and which errors may be shown to a person."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tasks.core.errors import IngestError, InternalError, InterruptedRunError


class Stoppable(Protocol):
    """Work, as far as its end is concerned."""

    def stop(self, why: IngestError) -> None:
        """Begins nothing any more."""
        ...


@dataclass(slots=True)
class EarlyEnd:
    """Why work ended before its end; None when it did not."""

    why: IngestError | None = None


@contextmanager
def early_end(work: Stoppable) -> Iterator[EarlyEnd]:
    """Lets no exception of the block pass: one stops the work, and is kept as an error safe to show."""
    end = EarlyEnd()
    try:
        yield end
    except IngestError as error:
        end.why = error
    except Exception as error:  # noqa: BLE001 - the report is due whatever happened
        end.why = InternalError.hiding(error)
    except BaseException:  # noqa: BLE001 - Ctrl-C, and the signals that Prefect raises
        end.why = InterruptedRunError(
            "Interrupted. Run the same command again to go on: nothing is sent twice."
        )
    if end.why:
        work.stop(end.why)


@contextmanager
def safe_errors() -> Iterator[None]:
    """Lets errors of ours pass, and hides what others say: their text may name a patient."""
    try:
        yield
    except IngestError:
        raise
    except Exception as error:  # noqa: BLE001
        raise InternalError.hiding(error) from None
