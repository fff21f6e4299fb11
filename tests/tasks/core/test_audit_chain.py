"""The chain of an audit trail: whole, or broken at one line."""

import hashlib
import json
from collections.abc import Callable

import pytest

from tasks.core.audit_chain import GENESIS, Break, Chain, Course, Event, follow, follow_links

AT = "2026-01-31T12:00:00.000000Z"
Lines = list[bytes]


def trail(count: int = 5) -> Lines:
    chain = Chain()
    return [chain.append(AT, Event.STORED, {"key": f"key {number} \n\udce9"}) for number in range(count)]


class TestChain:
    def test_names_the_hash_of_the_line_before(self) -> None:
        """So anybody can follow it with a few lines of any language."""
        lines = trail()
        before = [GENESIS, *(hashlib.sha256(line.rstrip(b"\n")).hexdigest() for line in lines)]
        assert [json.loads(line)["prev"] for line in lines] == before[:-1]
        assert [json.loads(line)["no"] for line in lines] == [1, 2, 3, 4, 5]

    def test_is_followed_to_its_end(self) -> None:
        chain = Chain()
        for number in range(3):
            chain.append(AT, Event.KEY_ISSUED, {"key": str(number)})
        *_, (last, facts) = follow(trail(3))
        assert (last.lines, facts["event"]) == (3, "stored")
        assert list(follow([])) == []

    @pytest.mark.parametrize(
        ("tamper", "line"),
        [
            (lambda lines: [*lines[:1], lines[1].replace(b"key 1", b"key 9"), *lines[2:]], 3),
            (lambda lines: [*lines[:1], *lines[2:]], 2),
            (lambda lines: lines[1:], 1),
            (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
            (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
            (lambda lines: [*lines[:4], lines[4][:-9]], 5),
            (lambda lines: [*lines[:2], b"[]\n", *lines[3:]], 3),
            (lambda lines: [*lines[:2], b"[" * 100_000 + b"\n", *lines[3:]], 3),
            (lambda lines: [*lines[:2], b"\xff\n", *lines[3:]], 3),
        ],
        ids=[
            "changed",
            "removed",
            "first removed",
            "swapped",
            "twice",
            "torn",
            "no object",
            "deep",
            "no text",
        ],
    )
    def test_breaks_where_it_was_tampered_with(self, tamper: Callable[[Lines], Lines], line: int) -> None:
        with pytest.raises(Break) as broken:
            list(follow(tamper(trail())))
        assert broken.value.line == line
        with pytest.raises(Break) as broken:
            list(follow_links(tamper(trail()), Chain()))
        assert broken.value.line == line

    def test_is_followed_by_its_links_from_any_line_on(self) -> None:
        """Whose facts are not read."""
        first, *rest = trail(3)
        after = Chain(1, hashlib.sha256(first[:-1]).hexdigest())
        assert [(chain.lines, event) for chain, event, _ in follow_links(rest, after)] == [
            (2, "stored"),
            (3, "stored"),
        ]


class TestCourse:
    """Whose a line is."""

    def test_is_of_one_run_after_another(self) -> None:
        course = Course(frozenset({"one", "two"}))
        for event, run_id in (
            (Event.LINE_CUT, ""),
            (Event.RUN_STARTED, "one"),
            (Event.STORED, ""),
            (Event.RUN_STARTED, "two"),
            (Event.KEY_ISSUED, ""),
            (Event.RUN_ENDED, "two"),
            (Event.REPORT_WRITTEN, "two"),
        ):
            assert course.follow(event, {"run_id": run_id, "at": AT}) == ""
        assert (course.open, course.open_since_end) == ({"one": AT}, {})

    @pytest.mark.parametrize("event", [Event.STORED, Event.KEY_ISSUED, Event.BATCH_STARTED, "another"])
    def test_has_no_line_between_runs(self, event: str) -> None:
        course = Course(None)
        for before in (Event.RUN_STARTED, Event.RUN_ENDED):
            course.follow(before, {"run_id": "one"})
        assert course.follow(event, {}).startswith("follows the end of a run")

    @pytest.mark.parametrize("event", [Event.RUN_STARTED, Event.RUN_ENDED, Event.REPORT_WRITTEN])
    def test_has_no_run_that_nobody_knows(self, event: Event) -> None:
        assert "neither a certificate nor" in Course(frozenset({"one"})).follow(event, {"run_id": "two"})
