"""How a report reads back, and what is said when there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.errors import UsageError
from tasks.report.reader import read_report, read_summary, read_table
from tests.tasks.report.sample_report import row, write


class TestReading:
    """A report that can't be read is told in one sentence."""

    @pytest.mark.parametrize("read", [read_summary, read_table, lambda path: list(read_report(path))])
    def test_no_report(self, tmp_path: Path, read: Callable[[Path], object]) -> None:
        """Where none was written."""
        with pytest.raises(UsageError, match="no whole report"):
            read(tmp_path)

    def test_a_summary_without_its_rows_is_no_report(self, tmp_path: Path) -> None:
        """Somebody moved report.csv away."""
        write(tmp_path, [row()])
        (tmp_path / "report.csv").unlink()
        with pytest.raises(UsageError, match="no whole report"):
            read_summary(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", '{"run_id": "1"}', "7"])
    def test_a_summary_that_is_none(self, tmp_path: Path, text: str) -> None:
        """Whatever else it is."""
        write(tmp_path, [row()])
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(UsageError, match="not as it was written"):
            read_summary(tmp_path)

    @pytest.mark.parametrize("damage", [b"one,cell,more\n", b"\xff\n"], ids=["cells", "bytes"])
    def test_rows_that_were_damaged(self, tmp_path: Path, damage: bytes) -> None:
        """An editor saved it in its own way."""
        write(tmp_path, [row()])
        with (tmp_path / "report.csv").open("ab") as file:
            file.write(damage)
        with pytest.raises(UsageError, match="not as it was written"):
            list(read_report(tmp_path))

    @pytest.mark.parametrize("read", [read_table, lambda path: list(read_report(path))])
    def test_an_empty_file_is_not_a_table(self, tmp_path: Path, read: Callable[[Path], object]) -> None:
        """Nor a report without rows, which has its header."""
        (tmp_path / "report.csv").touch()
        with pytest.raises(UsageError, match="not as it was written"):
            read(tmp_path)
