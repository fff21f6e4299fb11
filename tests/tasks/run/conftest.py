"""A bucket and a registry for each test; the store itself is started once for a module."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.dicomweb_side import DicomwebSide
from tests.object_store import ObjectStore, object_store
from tests.pipeline_side import PipelineSide

_numbers = count(1)


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def side(whole_store: ObjectStore, tmp_path: Path, only_our_settings: None) -> Iterator[PipelineSide]:
    whole = whole_store
    store = ObjectStore(whole.client, f"in-{next(_numbers)}/", whole.environment)
    with DicomwebSide() as registry:
        yield PipelineSide(store, registry, tmp_path)
