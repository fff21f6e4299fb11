"""Where Prefect keeps its database when the home directory is missing, or can't be written."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.cli.prefect_home import require_home, temporary_home
from tasks.core.errors import UsageError


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "temporary-files"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


class TestHome:
    def test_that_can_be_written_is_used(self, home: Path, temporary_files: Path) -> None:
        """As Prefect would do it itself."""
        environ = {"HOME": str(home)}
        require_home(environ)
        assert temporary_home(environ) is None
        assert environ == {"HOME": str(home)}
        assert not any(temporary_files.iterdir())

    @pytest.mark.parametrize("value", ["/gone/home", "/dev/null"])
    def test_that_is_none_is_replaced_by_a_temporary_one(self, value: str, temporary_files: Path) -> None:
        """For its owner alone; a home directory that is not there is not made."""
        environ = {"HOME": value}
        made = temporary_home(environ)
        assert made is not None
        assert made.parent == temporary_files
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        assert environ == {"HOME": value, "PREFECT_HOME": str(made)}
        assert not Path("/gone").exists()

    @pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "relative"}])
    def test_that_nobody_knows_is_the_temporary_one(
        self, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a container under a user of its own: Prefect's client looks for a home all the same."""

        def unknown(_uid: int) -> None:
            raise KeyError

        monkeypatch.setattr("pwd.getpwuid", unknown)
        environ = {**environ}
        made = temporary_home(environ)
        assert environ == {"HOME": str(made), "PREFECT_HOME": str(made)}

    def test_that_is_not_set_is_that_of_the_user_database(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pwd.getpwuid", lambda _uid: SimpleNamespace(pw_dir=str(home)))
        environ: dict[str, str] = {}
        assert temporary_home(environ) is None
        assert (home / ".prefect").is_dir()

    @pytest.mark.parametrize("value", ["", "/gone/home", "/dev/null"])
    def test_that_is_none_is_a_usage_error_where_history_is_kept(self, value: str) -> None:
        with pytest.raises(UsageError, match="Set PREFECT_HOME"):
            require_home({"HOME": value})

    def test_in_which_a_file_is_in_the_way_is_replaced(self, home: Path) -> None:
        (home / ".prefect").touch()
        assert temporary_home({"HOME": str(home)}) is not None

    @pytest.mark.processes
    def test_keeps_its_profiles(self, home: Path) -> None:
        """A server that is named there is still the one that is used."""
        (home / ".prefect").mkdir()
        (home / ".prefect" / "profiles.toml").touch()
        done = in_a_read_only(home / ".prefect", {"HOME": str(home)})
        assert done["PREFECT_PROFILES_PATH"] == str(home / ".prefect" / "profiles.toml")

    @pytest.mark.processes
    def test_that_is_read_only_is_replaced(self, home: Path) -> None:
        done = in_a_read_only(home, {"HOME": str(home)})
        assert "dicom-ingest-prefect-" in done["PREFECT_HOME"]

    @pytest.mark.processes
    def test_with_a_database_of_somebody_else_is_replaced(self, home: Path) -> None:
        (home / ".prefect").mkdir()
        (home / ".prefect" / "prefect.db").touch()
        done = in_a_read_only(home / ".prefect" / "prefect.db", {"HOME": str(home)})
        assert "dicom-ingest-prefect-" in done["PREFECT_HOME"]

    def test_that_no_temporary_one_can_replace_is_a_usage_error(
        self, temporary_files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(temporary_files / "gone"))
        with pytest.raises(UsageError, match="one for temporary files"):
            temporary_home({"HOME": ""})


class TestPrefectHome:
    def test_of_the_operator_is_used_and_made(self, home: Path) -> None:
        environ = {"HOME": "", "PREFECT_HOME": str(home / "below" / "prefect")}
        assert temporary_home(environ) is None
        assert (home / "below" / "prefect").is_dir()

    def test_of_the_operator_that_cannot_be_written_is_a_usage_error(self, home: Path) -> None:
        """It was named so that history is kept there."""
        (home / "file").touch()
        for use in (temporary_home, require_home):
            with pytest.raises(UsageError, match="PREFECT_HOME can't be written"):
                use({"HOME": str(home), "PREFECT_HOME": str(home / "file" / "prefect")})

    def test_that_is_empty_counts_as_not_set(self, home: Path) -> None:
        environ = {"HOME": str(home), "PREFECT_HOME": ""}
        assert temporary_home(environ) is None
        assert environ == {"HOME": str(home)}


def in_a_read_only(path: Path, environ: dict[str, str]) -> dict[str, str]:
    """What becomes of the environment while `path` can't be written, for root as for anybody."""
    script = """if True:
        import os, shutil
        from deployments.sandbox.privileges import drop_dac_capabilities
        from flows.cli.prefect_home import temporary_home
        assert drop_dac_capabilities()
        made = temporary_home(os.environ)
        assert made
        made.rmdir()
        for name in ("PREFECT_HOME", "PREFECT_PROFILES_PATH"):
            print(name, os.environ.get(name))
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o555)
    try:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        done = subprocess.run(
            [sys.executable, "-c", script], env=ours | environ, capture_output=True, text=True, check=True
        )
    finally:
        path.chmod(mode)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())
