"""What was said to be durable is, whatever happens to process, server and disk."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.core.errors import StoppedError
from tasks.ledger.ledger import Ledger
from tests.databases import PostgreSQL
from tests.tasks.ledger.sample_rows import ENTRIES, Where, enrolled, listed, report, store


class TestTrouble:
    @pytest.mark.processes
    def test_a_killed_process_loses_nothing_it_was_told_is_durable(
        self, where: Where, tmp_path: Path
    ) -> None:
        """kill -9 in the middle of settling: every file that was said to be settled is settled."""
        script = (
            "import sys, time; from pathlib import Path; from tests.tasks.ledger import sample_rows as t\n"
            f"where = {str(where)!r}\n"
            "where = where if '://' in where else Path(where)\n"
            "ledger = t.Ledger(where, 'default', 'r1')\n"
            f"ledger.begin(1, Path({str(tmp_path)!r}), t.ENTRIES, {{}})\n"
            "for todo in t.enrolled(ledger, *(t.listed(n) for n in range(1, 5000))):\n"
            "    t.store(ledger, todo, f'1.{todo.file_no}', f'k{todo.file_no}')\n"
            "    print(todo.file_no, flush=True)\n"
        )
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(60)]
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout.read().split()]
        child.wait()
        child.stdout.close()
        ledger = Ledger(where, "default", "r1")
        settled = {row["file_no"] for row in report(ledger) if row["status"] == "uploaded"}
        ledger.close()
        assert set(told) <= settled

    def test_a_restarted_server_is_waited_for(self, postgresql: PostgreSQL, tmp_path: Path) -> None:
        """PostgreSQL goes and comes back: what waited is written, once."""
        ledger = Ledger(postgresql.new_database(), "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        todos = enrolled(ledger, *(listed(n) for n in range(1, 200)))
        for todo in todos[:50]:
            store(ledger, todo, f"1.{todo.file_no}", f"k{todo.file_no}")
        restart = threading.Thread(
            target=lambda: (postgresql.stop("immediate"), time.sleep(1), postgresql.start())
        )
        restart.start()
        for todo in todos[50:]:
            store(ledger, todo, f"1.{todo.file_no}", f"k{todo.file_no}")
        restart.join()
        assert {row["status"] for row in report(ledger)} == {"uploaded"}
        ledger.close()

    def test_a_locked_database_is_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another process holds SQLite's lock for a while: the write goes through afterwards."""
        path = tmp_path / "ledger.sqlite"
        ledger = Ledger(path, "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        other = sa.create_engine(f"sqlite:///{path}").connect()
        other.exec_driver_sql("BEGIN IMMEDIATE")
        release = threading.Timer(1.0, other.rollback)
        release.start()
        (todo,) = enrolled(ledger, listed(1))
        release.join()
        other.close()
        other.engine.dispose()
        assert todo.file_no == 1
        ledger.close()

    def test_a_full_disk_stops_the_run_with_a_sentence(self, tmp_path: Path) -> None:
        """SQLite can't grow: StoppedError, and what was written before is there."""
        ledger = Ledger(tmp_path / "ledger.sqlite", "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        enrolled(ledger, listed(1))

        def fill_disk(db: sa.Connection) -> None:
            (pages,) = db.connection.driver_connection.execute("PRAGMA page_count").fetchone()
            db.connection.driver_connection.execute(f"PRAGMA max_page_count={pages}")

        sa.event.listen(sa.Engine, "begin", fill_disk)
        try:
            with pytest.raises(StoppedError, match="disk is full"):
                ledger.enrol(2, [listed(n) for n in range(2, 5000)], [])
        finally:
            sa.event.remove(sa.Engine, "begin", fill_disk)
        assert len(report(ledger)) == 1
        ledger.close()
