"""Which objects go into one STOW-RS request."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.core.store_batches import StoreBatch, StoreBatches, halves

Batch = StoreBatch[int]


def test_a_study_s_objects_share_a_request_up_to_so_many() -> None:
    batches: StoreBatches[int] = StoreBatches(3, 100)
    assert [batches.add("1.2", number, 1) for number in (1, 2)] == [[], []]
    (whole,) = batches.add("1.2", 3, 1)
    assert (whole.study_instance_uid, whole.items, whole.size_bytes) == ("1.2", [1, 2, 3], 3)
    assert len(batches) == 0


def test_what_would_make_a_request_too_large_begins_another() -> None:
    batches: StoreBatches[int] = StoreBatches(10, 100)
    batches.add("1.2", 1, 60)
    (whole,) = batches.add("1.2", 2, 60)
    assert whole.items == [1]
    first, second = batches.add("1.2", 3, 200)
    assert (first.items, second.items) == ([2], [3]), "one that is larger than a request is alone"


def test_studies_are_apart_and_the_oldest_goes_first() -> None:
    batches: StoreBatches[int] = StoreBatches(10, 100)
    for number, study in enumerate(("a", "b", "a")):
        batches.add(study, number, 1)
    first = batches.close_first(but_of="a")
    assert first is not None
    assert first.items == [1]
    assert batches.close_first(but_of="a") is None
    assert [each.items for each in batches.close_all()] == [[0, 2]]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 120)), max_size=60))
def test_every_object_is_in_one_request_within_the_limits(objects: list[tuple[str, int]]) -> None:
    batches: StoreBatches[int] = StoreBatches(5, 100)
    done: list[Batch] = []
    for number, (study, size) in enumerate(objects):
        done += batches.add(study, number, size)
    done += batches.close_all()
    assert sorted(item for batch in done for item in batch.items) == list(range(len(objects)))
    for batch in done:
        assert {objects[item][0] for item in batch.items} == {batch.study_instance_uid}
        assert len(batch.items) <= 5
        assert batch.size_bytes <= 100 or len(batch.items) == 1


def test_halves() -> None:
    assert halves([1, 2, 3]) == ([1, 2], [3])
