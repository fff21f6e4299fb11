"""A campaign belongs to one platform: what is stored there would pass for stored elsewhere."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from tasks.core.errors import UsageError
from tasks.core.models import Target
from tasks.ledger.database import connect, prepare
from tasks.ledger.ledger import Ledger
from tasks.ledger.platforms import api_hosts, require_same_platform
from tasks.ledger.schema import revision
from tests.tasks.ledger.sample_rows import ENTRIES, Where, enrolled, facts, listed, upgrade

A, B, C = (f"{name}.example.org:443" for name in "abc")
Begin = Callable[..., Ledger]


@pytest.fixture
def begin(where: Where, tmp_path: Path) -> Iterator[Begin]:
    """Begins a run, into the platform of this name."""
    opened: list[Ledger] = []

    def begin(run_id: str, host: str, campaign: str = "default", *, same: bool = False) -> Ledger:
        ledger = Ledger(where, campaign, run_id)
        opened.append(ledger)
        target = Target(host, same_platform=same)
        require_same_platform(where, campaign, target)
        ledger.begin(time.time_ns(), tmp_path / "report", ENTRIES, {}, target)
        return ledger

    yield begin
    for ledger in opened:
        ledger.close()


@pytest.fixture
def divided(where: Where, tmp_path: Path) -> Iterator[Ledger]:
    """A migration into platform A, `m`, in two shards."""
    with closing(Ledger(where, "default", "m")) as ledger:
        parts = [ENTRIES[:1], ENTRIES[1:]]
        ledger.begin_divided(time.time_ns(), tmp_path / "report", ENTRIES, {}, {}, parts, Target(A))
        yield ledger


def send(ledger: Ledger) -> None:
    """A file is given a key."""
    (todo,) = enrolled(ledger, listed(1))
    ledger.issue(todo, "1.2", "k1", 1)


def end(ledger: Ledger) -> None:
    ledger.end(facts(ledger.run_id))


class TestCampaign:
    def test_belongs_to_the_platform_that_its_files_went_to(self, begin: Begin, where: Where) -> None:
        """By host and port; another campaign of the ledger may have another."""
        first = begin("r1", A)
        send(first)
        end(first)
        end(begin("r2", A))
        with pytest.raises(
            UsageError, match=f"belongs to the platform at {A}.* is at {B}: .*Nothing was sent"
        ):
            begin("r3", B)
        begin("r4", B, "other")
        assert (api_hosts(where, "default"), api_hosts(where, "other")) == ([A], [B])

    def test_has_another_name_for_it_once_somebody_said_so(self, begin: Begin) -> None:
        """And from then on, by every name."""
        first = begin("r1", A)
        send(first)
        end(first)
        for run_id, host, same in (("r2", B, True), ("r3", B, False), ("r4", A, False)):
            end(begin(run_id, host, same=same))
        with pytest.raises(UsageError, match=f"belongs to the platform at {A} or {B}"):
            begin("r5", C)

    def test_can_still_be_another_ones_while_none_was_sent(self, begin: Begin) -> None:
        """A wrong address that answers costs a new campaign only once a file was given a key there."""
        end(begin("r1", A))
        second = begin("r2", B)
        with pytest.raises(UsageError, match=f"belongs to the platform at {B}"):
            begin("r3", A)  # the second is at work, and may send at any moment
        send(second)
        end(second)
        with pytest.raises(UsageError, match=f"belongs to the platform at {B}"):
            begin("r4", A)

    def test_of_an_earlier_version_takes_the_first_that_comes(
        self, where: Where, begin: Begin, tmp_path: Path
    ) -> None:
        """Its files went to somewhere that nobody knows any more."""
        engine = connect(where)
        with engine.execution_options(writes=True).begin() as db:
            revision.create(db)
            upgrade(db, "0005")
            db.exec_driver_sql(
                "INSERT INTO run (run_id, campaign, started_ns, heartbeat_s, report_dir)"
                " VALUES ('r0', 'default', 1, 0, '')"
            )
            db.exec_driver_sql(
                "INSERT INTO issued_key (campaign, key, file_id, run_id, issued_ns, sop_instance_uid)"
                " VALUES ('default', 'k0', 1, 'r0', 1, '1.2')"
            )
        require_same_platform(where, "default", Target(A))
        with engine.execution_options(writes=True).begin() as db:
            assert db.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "0005"
        prepare(engine)
        engine.dispose()
        end(begin("r1", A))
        with pytest.raises(UsageError, match=f"belongs to the platform at {A}"):
            begin("r2", B)

    def test_is_not_made_by_asking(self, tmp_path: Path) -> None:
        require_same_platform(tmp_path / "ledger.sqlite", "default", Target(A))
        assert api_hosts(tmp_path / "ledger.sqlite", "default") == []
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("turn", range(3))
    def test_that_two_begin_at_once_is_of_one_of_them(self, where: Where, tmp_path: Path, turn: int) -> None:
        """Both were told that it is nobody's yet; the other is refused before it sends anything."""
        engine = connect(where)
        prepare(engine)
        engine.dispose()
        barrier = Barrier(4)

        def start(number: int) -> str:
            with closing(Ledger(where, "default", f"r{number}")) as ledger:
                host = (A, B)[number % 2]
                barrier.wait(60)
                try:
                    ledger.begin(time.time_ns(), tmp_path / str(number), ENTRIES, {}, Target(host))
                except UsageError:
                    return ""
                return host

        with ThreadPoolExecutor(4) as pool:
            began = list(pool.map(start, range(4)))
        (winner,) = set(began) - {""}
        assert began.count(winner) == 2
        assert api_hosts(where, "default") == [winner]

    def test_gets_every_name_that_is_said_at_once(self, where: Where, begin: Begin, tmp_path: Path) -> None:
        """Four more, each by a run of its own: none is lost."""
        send(begin("r0", A))
        barrier = Barrier(4)

        def start(number: int) -> None:
            with closing(Ledger(where, "default", f"r{number + 1}")) as ledger:
                barrier.wait(60)
                target = Target(f"{number}:443", same_platform=True)
                ledger.begin(time.time_ns(), tmp_path / str(number), ENTRIES, {}, target)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(start, range(4)))
        assert sorted(api_hosts(where, "default")) == sorted([A, *(f"{number}:443" for number in range(4))])

    @pytest.mark.usefixtures("divided")
    def test_is_asked_when_a_shard_is_taken_up(self, where: Where, tmp_path: Path) -> None:
        """A worker whose settings lead elsewhere sends nothing."""
        with closing(Ledger(where, "default", "m-0001")) as shard:
            with pytest.raises(UsageError, match="belongs to the platform"):
                shard.take_up(time.time_ns(), tmp_path / "1", Target(B))
            assert shard.take_up(time.time_ns(), tmp_path / "1", Target(A))


class TestRun:
    def test_knows_where_it_sent_which_files(self, where: Where, tmp_path: Path) -> None:
        """Also when it was killed: each host is in the ledger before the first file goes there."""
        with closing(Ledger(where, "default", "r1")) as ledger:
            ledger.begin(1, tmp_path, ENTRIES, {}, Target(A, "ab12", "/archive"))
            for host in ("s3:443", "s2:443", "s3:443"):
                ledger.reach(host)
        with closing(Ledger(where, "default", "r1")) as killed:
            found = killed.with_target(killed.facts())
        assert (found.api_host, found.manifest_sha256, found.root) == (A, "ab12", "/archive")
        assert found.storage_hosts == ["s2:443", "s3:443"]

    def test_that_was_cut_has_the_hosts_of_its_shards(
        self, where: Where, divided: Ledger, tmp_path: Path
    ) -> None:
        """Once each; and a shard that is taken up again those that it had."""
        for number, hosts in ((1, ["s1:443"]), (2, ["s1:443", "s2:443"])):
            with closing(Ledger(where, "default", f"m-000{number}", dead_after_s=2)) as shard:
                assert shard.take_up(number, tmp_path / str(number), Target(A))
                for host in hosts:
                    shard.reach(host)
                assert shard.take_up(number, tmp_path / str(number), Target(A))
        assert divided.with_target(divided.facts()).storage_hosts == ["s1:443", "s2:443"]
