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

from flows.orchestration.parameters import Options
from tasks.core.models import StudyEntry
from tasks.declaration import PREFIX

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
    adjective, _, noun = name.rpartition("-")
    if adjective in _V2_ADJECTIVES.split():
        return noun in _V2_ANIMALS.split()
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


# The form of the UI (V2) fills in "Generic-Ocelot".
_V2_ADJECTIVES: Final = """
Awesome Ergonomic Fantastic Generic Gorgeous Handcrafted Handmade Incredible Intelligent Licensed Practical
Refined Rustic Sleek Small Tasty Unbranded
"""
_V2_ANIMALS: Final = """
Addax Aidi Ainu Akbash Akita Alabai Alpaca Alusky Ant Ape Asp Avocet Baboon Badger Baiji Barb Barbet Bass
Bat Baya Beagle Beago Bear Beaski Beaver Bee Beetle Bichir Bilby Bird Birman Bison Boas Bobcat Boggle
Boiga Bombay Bongo Bonobo Booby Borkie Bowfin Boxsky Briard Brug Caiman Camel Cantil Carp Cat Chipit
Chipoo Chiton Chusky Cicada Coati Cobras Cockle Collie Conure Coral Corkie Cougar Cow Coyote Crab Crane
Crow Cuckoo Cuscus Daniff Danios Daug Deer Dhole Dingo Discus Dodo Dog Donkey Dorgi Dorkie Douc Doxle
Drever Duck Dugong Dunker Eagle Earwig Eel Egret Eider Eland Elk Emu Ermine Eryops Falcon Feist Ferret
Fish Flea Fly Fossa Fox Frog Frug Gar Gecko Genet Gerbil Gibbon Gnat Goat Gollie Goose Gopher Grebe
Grouse Guppy Hare Hawk Heron Hoopoe Horgi Hornet Horse Human Husky Hyena Ibex Ibis Iguana Impala Indri
Insect Jabiru Jacana Jackal Jaguar Jerboa Kagu Kakapo Kea Keagle Kishu Kiwi Koala Kodkod Koolie Kowari
Krait Krill Kudu Kuvasz Leech Lemur Liger Limpet Linnet Lion Lizard Llama Loach Locust Loris Lynx Macaw
Maggot Magpie Malchi Mamba Marmot Mauzer Mayfly Meagle Miki Mink Mole Molly Monkey Moose Morkie Moth
Mouse Mudi Mule Muskox Newt Nilgai Numbat Nutria Nyala Ocelot Okapi Olingo Olm Onager Opah Oribi Osprey
Otter Owl Ox Oyster Parrot Peagle Pig Pigeon Pika Pitsky Pomchi Pomsky Poodle Poogle Possum Potoo Prawn
Puffin Pug Puggle Puli Puma Pumi Python Quagga Quail Quokka Quoll Rabbit Raggle Rat Rhea Robin Sable
Saiga Salmon Saluki Sambar Saola Seal Serval Shark Sheep Shichi Shrew Shrimp Skua Skunk Sloth Slug Snail
Snake Somali Sphynx Spider Sponge Squid Stoat Stork Swan Taipan Takin Tang Tapir Tarpon Tetra Thrush Tick
Tiger Torkie Tosa Toucan Towhee Trout Tuna Turaco Turkey Uakari Uguisu Unau Urial Vicuña Viper Vizsla
Vole Walrus Wasp Weasel Wolf Wombat Worm Wrasse Xeme Xerus Yak Yarara Zebra Zebu Zokor Zonkey Zorse
Zuchon
"""
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
