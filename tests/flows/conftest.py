"""What the tests of the shells share."""

import pytest

from tests.conftest import Objects as Objects
from tests.conftest import Plant as Plant
from tests.conftest import cut as cut


@pytest.fixture(autouse=True)
def nobody_elses_settings(only_our_settings: None) -> None:
    """No setting of whoever runs the tests has a say in any of them."""
