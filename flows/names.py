"""What a flow run is called in Prefect's UI: as the person who started it typed, or else so that it is found.

    [label of the manifest] [manifest 3 of 12] campaign 2026-11-26 20:00:00

The label is the manifest's where all its rows have the same; the number tells the manifests of a folder
apart. Nothing of a path.
"""

import logging
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

from coolname.data import config
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from tasks.core.models import StudyEntry
from tasks.settings import PREFIX, Options

log = logging.getLogger("dicom_ingest")

_DEFAULTS: Final = Options()
_OURS: Final = r"(manifest \d+ of \d+ )?{campaign} \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
_LONGEST_LABEL: Final = 80
_VOCABULARY: Final[dict[str, Any]] = {**config}


def run_name(number: int = 0, manifests: int = 0) -> str:
    """The name it has, unless Prefect made that up; else the manifest's number, the campaign and the time."""
    if flow_run.name and not is_made_up(flow_run.name):
        return str(flow_run.name)
    of_folder = f"manifest {number} of {manifests} " if number else ""
    return f"{of_folder}{_campaign()} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


def prefix_label(entries: Sequence[StudyEntry], campaign: str) -> None:
    """Puts the manifest's label, known once it is read, before the name that `run_name` gave."""
    label = common_label(entries)[:_LONGEST_LABEL]
    if not label or not re.fullmatch(_OURS.format(campaign=re.escape(campaign)), flow_run.name or ""):
        return
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_name(UUID(flow_run.id), f"{label} {flow_run.name}")
    except Exception as error:  # noqa: BLE001 - a name is bookkeeping
        log.info("Prefect's server did not take a run's name (%s)", type(error).__name__)


def common_label(entries: Sequence[StudyEntry]) -> str:
    """The label that all rows have; empty when there is none, or more than one."""
    labels = {entry.label for entry in entries}
    return labels.pop() if len(labels) == 1 else ""


def is_made_up(name: str) -> bool:
    """Whether Prefect named the run for want of a name: its server, or the form of one of its UIs."""
    if _OF_V2_FORM.fullmatch(name):
        return True
    adjective, _, noun = name.rpartition("-")
    return adjective in _adjectives() and noun in _nouns()


def _campaign() -> str:
    options = Options.model_validate(flow_run.parameters.get("options") or {}).model_dump(exclude_unset=True)
    return str(options.get("campaign") or os.environ.get(f"{PREFIX}CAMPAIGN", _DEFAULTS.campaign))


@cache
def _adjectives() -> frozenset[str]:
    return _words("adj_any") | frozenset(_V1_ADJECTIVES.split())


@cache
def _nouns() -> frozenset[str]:
    return _words("subj") | frozenset(_V1_NOUNS.split())


def _words(part: str) -> frozenset[str]:
    """Of the vocabulary that Prefect's server takes its names from."""
    return frozenset(word for words in _VOCABULARY[part]["lists"] for word in _VOCABULARY[words]["words"])


# The form of the UI fills in "Generic-Ocelot": one of these, and an animal of at most six letters.
_OF_V2_FORM: Final = re.compile(
    "(Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|Practical"
    "|Ergonomic|Handcrafted|Tasty|Handmade|Incredible)-[A-Z][a-z]{1,5}"
)
# The form of the earlier UI (V1) has these beside the server's own.
_V1_ADJECTIVES: Final = """
affectionate agreeable alert amicable amused boundless broad-minded coherent comfortable communicative
compassionate confident conscientious considerate courteous creative credible cultured decisive decorous
detailed diplomatic enchanting endurable entertaining excited exclusive fair-minded forceful frank good
hard-working harmonious imaginative instinctive intellectual intuitive joyous kind-hearted knowledgeable
level likeable loving painstaking patient peaceful persistent philosophical pioneering plausible
pleasant plucky pro-active productive protective punctual quick-witted receptive reflective relieved
reserved rhetorical sedate seemly selective self-assured self-confident self-disciplined sensitive shy
silly skillful straightforward thrifty trustworthy unassuming understanding unusual warmhearted willing
"""
_V1_NOUNS: Final = """
apple apricot banana blackberry blueberry cherry cranberry currant fig fish fly grape grapefruit grapes
hippopotamus kitten kumquat lemon lime melon nectarine orange peach pear persimmon pineapple plum
pomegranate prune puppy raspberry strawberry tangerine watermelon
"""
