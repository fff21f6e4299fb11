"""What is to be done about an object that a listing brings."""

import pytest

from tasks.core.object_outcomes import DONE, OBJECTS_EXIT_ONE, After, ObjectStatus, keys_before_move
from tasks.core.object_standing import KnownObject, ObjectStanding, object_standing


def known(status: str = "", *, is_open: bool = False, seen: int = 4, **more: str) -> KnownObject:
    its = {"etag": "e", "moved_to": "", "tagged": ""} | more
    return KnownObject(1, its["etag"], 10, status, is_open, seen, its["moved_to"], its["tagged"])


REGISTERED, TAGGED = known("registered"), known("already_registered", tagged="registered")


@pytest.mark.parametrize(
    ("its", "after", "found"),
    [
        (REGISTERED, After.LEAVE, ObjectStanding.SETTLED),
        (REGISTERED, After.MOVE, ObjectStanding.AFTERWARDS),
        (REGISTERED, After.TAG, ObjectStanding.AFTERWARDS),
        (TAGGED, After.TAG, ObjectStanding.SETTLED),
        (known("registered", moved_to="registered/k"), After.LEAVE, ObjectStanding.AFTERWARDS),
        (known("registered", etag="another"), After.LEAVE, ObjectStanding.REOPEN),
        *((known(each), After.LEAVE, ObjectStanding.REOPEN) for each in ("failed", "conflict", "missing")),
        (known("quarantined", seen=5), After.LEAVE, ObjectStanding.SETTLED),
        (known("quarantined", seen=5, etag="another"), After.LEAVE, ObjectStanding.REOPEN),
        (known(is_open=True, seen=5), After.LEAVE, ObjectStanding.REOPEN),
    ],
)
def test_table(its: KnownObject, after: After, found: ObjectStanding) -> None:
    """Its lines, for a listing that the fifth run began."""
    assert object_standing(its, "e", 10, 5, after) is found


def test_another_size_is_another_object() -> None:
    assert object_standing(REGISTERED, "e", 11, 5, After.LEAVE) is ObjectStanding.REOPEN


def test_the_statuses_are_those_of_the_contract() -> None:
    done = {"registered", "already_registered"}
    others = {"conflict", "rejected", "quarantined", "missing", "failed", "not_attempted"}
    assert set(ObjectStatus) == done | others
    assert done == DONE
    assert others == OBJECTS_EXIT_ONE


@pytest.mark.parametrize(
    ("key", "before"),
    [
        ("in/k", []),
        ("registered/in/k", ["in/k"]),
        ("quarantine/in/k.2", ["in/k.2", "in/k"]),
        ("registered/1.2.3", ["1.2.3", "1.2"]),
    ],
)
def test_what_was_moved_is_known_by_the_key_that_it_came_under(key: str, before: list[str]) -> None:
    assert keys_before_move(key) == before
