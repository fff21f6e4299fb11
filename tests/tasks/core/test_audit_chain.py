"""The chain of an audit trail: whole, or broken at one line."""

import hashlib
import json
from collections.abc import Callable

import pytest

from tasks.core.audit_chain import GENESIS, Break, Chain, Event, follow

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
