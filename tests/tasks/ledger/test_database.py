"""The ledger's database: its schema through the versions, what is refused, and who may read it."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import OperationalError

from tasks.core.errors import StoppedError, UsageError
from tasks.core.escape import escape
from tasks.core.models import Digests, Header, Outcome, Reason, Status
from tasks.ledger.database import BusyError, connect, plain_errors, prepare
from tasks.ledger.ledger import Ledger
from tasks.ledger.schema import HEAD, metadata, revision
from tasks.ledger.statements import Scope, known_select
from tests.source_tree import ROOT
from tests.tasks.ledger.sample_rows import (
    ENTRIES,
    Where,
    enrolled,
    listed,
    report,
    store,
    upgrade,
)

OTHER_INDICES = ("file_left", "study_by_dir")
PARTIAL = ("file_by_uid", "listing_to_do", "instance_unstored", "other_content_unstored")
PARTIAL += ("bucket_object_open", "registered_unstored")


def _is_compared(name: str | None, kind: str, _parents: object) -> bool:
    """Alembic compares no index that is another on each kind of database: the next test does."""
    return not (kind == "index" and name in OTHER_INDICES)


def index_definitions(where: Where, names: tuple[str, ...]) -> list[str]:
    engine = connect(where)
    query = {
        "sqlite": f"SELECT sql FROM sqlite_master WHERE name IN {names} ORDER BY 1",
        "postgresql": f"SELECT indexdef FROM pg_indexes WHERE indexname IN {names} ORDER BY 1",
    }[engine.dialect.name]
    with engine.connect() as db:
        found = [str(row[0]) for row in db.exec_driver_sql(query)]
    engine.dispose()
    return found


def _is_made_here(db: sa.Connection) -> Callable[..., bool]:
    """Whether a part of the schema is made in this database: alembic compares those of all."""

    def is_made_here(item: sa.schema.SchemaItem, *_: object) -> bool:
        condition = getattr(item, "_ddl_if", None)
        return condition is None or condition.dialect == db.dialect.name

    return is_made_here


class TestDatabase:
    def test_a_newer_schema_is_refused(self, where: Where) -> None:
        """Neither read nor written."""
        Ledger(where, "default", "r1").close()
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        engine.dispose()
        with pytest.raises(UsageError, match="newer version"):
            Ledger(where, "default", "r1")

    @pytest.mark.filterwarnings("ignore:autogenerate skipping")  # in SQLite, of an index of PostgreSQL's
    @pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
    def test_revisions_lead_to_the_very_schema_that_new_ledgers_have(self, where: Where) -> None:
        """An upgraded ledger and a new one are the same, and `HEAD` is the newest revision."""
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            revision.create(db)  # as it is before the first revision
        prepare(engine)
        with engine.connect() as db:
            opts = {"include_object": _is_made_here(db), "include_name": _is_compared}
            context = MigrationContext.configure(db, opts=opts)
            assert context.get_current_revision() == HEAD
            assert compare_metadata(context, metadata) == []
        engine.dispose()

    @pytest.mark.processes
    def test_alembic_is_imported_when_the_schema_has_to_change(self, tmp_path: Path) -> None:
        """Neither by a new ledger nor by one that is up to date."""
        code = """if True:
            import sys
            from pathlib import Path
            from tasks.ledger.database import connect
            from tasks.ledger.ledger import Ledger
            from tasks.ledger.schema import revision
            for _ in range(2):
                Ledger(Path(sys.argv[1]), "default", "r1").close()
                print("alembic" in sys.modules)
            engine = connect(Path(sys.argv[2]))
            with engine.execution_options(writes=True).begin() as db:
                revision.create(db)
            engine.dispose()
            Ledger(Path(sys.argv[2]), "default", "r1").close()
            print("alembic" in sys.modules)
        """
        command = [sys.executable, "-c", code, str(tmp_path / "new"), str(tmp_path / "older")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", "False", "True"]

    def test_revisions_lead_to_the_indices_of_new_ledgers(
        self, where: Where, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        """Of what alembic does not compare."""
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            revision.create(db)
        prepare(engine)
        engine.dispose()
        is_file = isinstance(where, Path)
        new = tmp_path / "new" if is_file else request.getfixturevalue("postgresql").new_database()
        Ledger(new, "default", "r1").close()
        for names in (OTHER_INDICES, PARTIAL):
            made = index_definitions(new, names)
            assert index_definitions(where, names) == made
            assert len(made) == len(names)
        assert all(" WHERE " in definition for definition in made)

    def test_of_an_earlier_version_has_neither_modality_nor_ctime_of_what_it_stored(
        self, where: Where, tmp_path: Path
    ) -> None:
        """Nothing else of its rows changes, and what is looked at from now on has one."""
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            revision.create(db)
            upgrade(db, "0002")
            names = "campaign, path, size_bytes, mtime_ns, status, key, sop_instance_uid"
            values = "'default', '/archive/one/1.dcm', 10, 1, 'uploaded', 'k1', '1.9'"
            db.exec_driver_sql(f"INSERT INTO file ({names}) VALUES ({values})")
        engine.dispose()
        ledger = Ledger(where, "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        (todo,) = enrolled(ledger, replace(listed(1), ctime_ns=5), listed(2))
        store(ledger, todo, "1.8", "k2")
        assert [(r["status"], r["key"], r["modality"]) for r in report(ledger)] == [
            ("already_uploaded", "k1", ""),
            ("uploaded", "k2", "CT"),
        ]
        for run_id, ctime_ns, touched in (("r2", 5, 0), ("r3", 6, 1)):  # that of the first look is taken down
            later = Ledger(where, "default", run_id)
            later.begin(1, tmp_path, ENTRIES, {})
            assert later.enrol(1, [replace(listed(1), ctime_ns=ctime_ns)], []).touched == touched
            later.close()
        ledger.close()

    def test_of_an_earlier_version_goes_on_with_a_failed_file_and_has_a_detail_from_now_on(
        self, where: Where, tmp_path: Path
    ) -> None:
        """What that version gave up has none; its run can still be reported, and gone on with."""
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            revision.create(db)
            upgrade(db, "0004")
            report_dir = escape(str((tmp_path / "report").absolute()))
            for statement in (
                (
                    "INSERT INTO file (file_id, campaign, path, size_bytes, mtime_ns, status, reason, run_id)"
                    " VALUES (1, 'default', '/archive/one/1.dcm', 10, 1, 'failed', 'refused', 'r0')"
                ),
                (
                    "INSERT INTO run (run_id, campaign, started_ns, heartbeat_s, report_dir)"
                    f" VALUES ('r0', 'default', 1, 0, '{report_dir}')"
                ),
                (
                    "INSERT INTO study (run_id, study_no, study_dir, study_instance_uid, priority, label,"
                    " extra, scanned) VALUES ('r0', 1, '/archive/one', '', 0, '', '[]', true)"
                ),
                (
                    "INSERT INTO listing (run_id, study_no, file_no, file_id, batch_no, settled)"
                    " VALUES ('r0', 1, 1, 1, 1, true)"
                ),
            ):
                db.exec_driver_sql(statement)
        engine.dispose()
        last = Ledger.of_last_run(where, "default", tmp_path / "report")
        assert [(r["status"], r["reason"], r["detail"]) for r in report(last)] == [("failed", "refused", "")]
        last.close()
        ledger = Ledger(where, "default", "r1")
        ledger.begin(2, tmp_path / "report", ENTRIES, {})
        (todo,) = enrolled(ledger, listed(1))
        ledger.settle(todo, Outcome(Status.FAILED, Reason.REFUSED, detail="NoSuchBucket"))
        assert [(r["status"], r["detail"]) for r in report(ledger)] == [("failed", "NoSuchBucket")]
        ledger.close()

    def test_finds_paths_by_an_index(self, where: Where, tmp_path: Path) -> None:
        """In PostgreSQL over their digests, for an index takes no path longer than 2.7 kB."""
        ledger = Ledger(where, "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        enrolled(ledger, *(listed(number) for number in range(1, 500)))
        ledger.close()
        engine = connect(where)
        scope = Scope(engine.dialect.name, "default", "r1", 45)
        explain = "EXPLAIN " if scope.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
        with engine.connect() as db:
            if scope.dialect == "postgresql":
                db.exec_driver_sql("SET enable_seqscan = off")
            query = known_select(scope).compile(engine)
            bound = scope.named(["/archive/one/1.dcm", "/archive/one/2.dcm"])
            assert len(db.execute(known_select(scope), bound).all()) == 2
            expanded = query.construct_expanded_state(bound)
            plan = str(db.exec_driver_sql(explain + expanded.statement, expanded.parameters).all())
        engine.dispose()
        assert ("file_by_path" if scope.dialect == "postgresql" else "USING INDEX") in plan
        assert "Seq Scan" not in plan and "SCAN file" not in plan

    def test_of_an_earlier_version_knows_what_is_stored_of_a_path_that_failed_since(
        self, where: Where, tmp_path: Path
    ) -> None:
        """That version overwrote its row: what its newest instance says is what is stored."""
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            revision.create(db)
            upgrade(db, "0005")
            columns = "file_id, campaign, path, status, sop_instance_uid, study_instance_uid"
            for file_id, path, uid in ((1, "1.dcm", "1.9"), (2, "2.dcm", "1.7"), (3, "3.dcm", "")):
                values = f"{file_id}, 'default', '/archive/one/{path}', 'failed', '{uid}', '1.2'"
                db.exec_driver_sql(f"INSERT INTO file ({columns}) VALUES ({values})")
            columns = "campaign, sop_instance_uid, file_id, run_id, sha256, key, finished_ns"
            for uid, file_id, key, at in (("1.8", 1, "k0", 1), ("1.9", 1, "k1", 2), ("1.6", 2, "k2", 3)):
                values = f"'default', '{uid}', {file_id}, 'r0', '{'ab' * 32}', '{key}', {at}"
                db.exec_driver_sql(f"INSERT INTO instance ({columns}) VALUES ({values})")
        engine.dispose()
        ledger = Ledger(where, "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        todos = enrolled(ledger, *map(listed, (1, 2, 3)))
        assert [bool(todo.stored) for todo in todos] == [True, True, False]
        for todo in todos:
            ledger.settle(todo, Outcome(Status.CHANGED, Reason.DAMAGED))
        names = ("key", "sop_instance_uid", "study_instance_uid")
        assert [tuple(row[name] for name in names) for row in report(ledger)] == [
            ("k1", "1.9", "1.2"),
            ("k2", "1.6", ""),
            ("", "", ""),
        ]
        ledger.close()

    def test_of_an_earlier_version_has_no_crc_of_what_it_stored_until_that_is_looked_at(
        self, where: Where, tmp_path: Path
    ) -> None:
        """Nor can it say what vouched for that. A look computes no MD5: the one that is known stays."""
        engine = connect(where)
        md5, sha256 = "cd" * 16, "ab" * 32
        with engine.execution_options(writes=True).begin() as db:
            revision.create(db)
            upgrade(db, "0011")
            columns = "campaign, path, status, size_bytes, sop_instance_uid, key, sha256, md5, run_id"
            values = (
                f"'default', '/archive/one/1.dcm', 'uploaded', 10, '1.9', 'k1', '{sha256}', '{md5}', 'r0'"
            )
            db.exec_driver_sql(f"INSERT INTO file ({columns}) VALUES ({values})")
            columns = "campaign, sop_instance_uid, file_id, run_id, sha256, key"
            db.exec_driver_sql(
                f"INSERT INTO instance ({columns}) VALUES ('default', '1.9', 1, 'r0', '{sha256}', 'k1')"
            )
        engine.dispose()
        names = ("status", "key", "md5", "crc64nvme", "proof")
        ledger = Ledger(where, "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        todo, other = enrolled(ledger, listed(1), listed(2))
        assert [report(ledger)[0][name] for name in names[2:5]] == [md5, "", ""]
        kept = Outcome(Status.ALREADY_UPLOADED, header=Header("1.9"), digests=Digests(sha256, "", "crc"))
        ledger.settle(todo, kept)
        ledger.settle(other, replace(kept, status=Status.DUPLICATE))
        assert [tuple(row[name] for name in names) for row in report(ledger)] == [
            ("already_uploaded", "k1", md5, "crc", ""),
            ("duplicate", "k1", "", "crc", ""),
        ]
        ledger.close()

    @pytest.mark.parametrize("text", ["", "PRIVATE^PATIENT"])
    def test_what_is_no_database_is_said_to_be_none(self, tmp_path: Path, text: str) -> None:
        """A file with other content is refused, and not quoted; an empty one becomes a ledger."""
        path = tmp_path / "ledger.sqlite"
        path.write_text(text * 100)
        if not text:
            Ledger(path, "default", "r1").close()
            return
        with pytest.raises(StoppedError, match="not a database") as raised:
            Ledger(path, "default", "r1")
        assert "PRIVATE" not in str(raised.value)

    def test_a_password_in_the_url_is_refused(self) -> None:
        """It would be visible to other users of the machine."""
        with pytest.raises(UsageError, match="PGPASSFILE"):
            Ledger("postgresql://user:secret@127.0.0.1/x", "default", "r1")

    def test_the_ledger_is_private(self, tmp_path: Path) -> None:
        """0600 from the first byte, and so are SQLite's own files beside it."""
        ledger = Ledger(tmp_path / "sub" / "ledger.sqlite", "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "sub").iterdir()}
        assert modes == {"0o600"}
        assert oct((tmp_path / "sub").stat().st_mode & 0o777) == "0o700"
        ledger.close()
        assert os.path.exists(tmp_path / "sub" / "ledger.sqlite")

    @pytest.mark.processes
    def test_that_is_opened_a_second_time_in_one_process_stays_locked(self, tmp_path: Path) -> None:
        """Another process that opens and closes it does not remove the log: it is not the last to do so."""
        path = tmp_path / "ledger.sqlite"
        ledger = Ledger(path, "default", "r1")
        ledger.begin(1, tmp_path, ENTRIES, {})
        Ledger(path, "default", "r2").close()
        log = path.with_name("ledger.sqlite-wal")
        before = log.stat().st_ino
        looks = (
            "import sqlite3, sys\n"
            "db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM run'); db.close()"
        )
        subprocess.run([sys.executable, "-c", looks, str(path)], check=True)
        assert log.stat().st_ino == before
        ledger.close()


@pytest.mark.parametrize("does", ["starting up", "shutting down", "not yet accepting connections"])
def test_a_server_that_is_not_ready_is_named_and_waited_for(does: str) -> None:
    refusal = OperationalError("", {}, Exception(f"FATAL:  the database system is {does}"))
    said = r"used: the database system is starting or stopping\. Mend that"
    with pytest.raises(BusyError, match=said), plain_errors():
        raise refusal
