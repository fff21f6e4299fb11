"""When a study has arrived: what is expected of it is registered, or nothing more came for a while. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of one study in one registry."""

    registered: int  # distinct SOP Instance UIDs of it that are registered
    announced: int = 0  # by its last completion; 0: there was none
    expected: int | None = None  # instances, by the manifest; None: it does not say
    stored: int = 0  # instances that the upload's ledger has of it
    stored_registered: int = 0  # how many of these are registered
    is_upload_at_work: bool = False  # a run that may store more of it
    quiet_s: float = 0.0  # since its last instance was registered


def is_complete(study: Arrival, quiet_after_s: float) -> bool:
    """Whether a completion is to be announced now: each is, once, and what grows after it arrives again.

    Registered since the last completion, that is.

    | registered since | the manifest expects | the upload's ledger     | is complete when               |
    | ---------------- | -------------------- | ----------------------- | ------------------------------ |
    | none             | any                  | any                     | never                          |
    | some             | n instances          | any                     | n are registered               |
    | some             | nothing              | some; no run is at work | all these are registered       |
    | some             | nothing              | some; a run is at work  | all these are, and it is quiet |
    | some             | nothing              | none                    | it is quiet                    |
    """
    if study.registered <= study.announced:
        return False
    is_quiet = study.quiet_s >= quiet_after_s
    if study.expected is not None:
        return study.registered >= study.expected
    if study.stored:
        is_all_there = study.stored_registered >= study.stored
        return is_all_there and (is_quiet or not study.is_upload_at_work)
    return is_quiet
