"""What the tests of commands share."""

from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that what a command makes is made in it or not at all."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
