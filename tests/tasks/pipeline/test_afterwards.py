"""What is done with an object that has its outcome."""

import pytest

from tasks.bucket_settings import BucketAddress
from tasks.core.errors import Fault
from tasks.core.object_outcomes import After, ObjectStatus
from tasks.pipeline.afterwards import Afterwards, has_tags, moved_prefixes, without_moved
from tasks.remote.bucket import Bucket, BucketObject
from tasks.remote.bucket_faults import AlteredError, GoneError
from tests.memory_store import MemoryS3, refusal

SHA256_OF_IMAGE = "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"


@pytest.fixture
def s3() -> MemoryS3:
    s3 = MemoryS3()
    s3.put("k", b"image")
    return s3


def afterwards(s3: MemoryS3, after: After = After.MOVE) -> Afterwards:
    return Afterwards(Bucket(BucketAddress("bucket"), s3), after)


def etag(s3: MemoryS3, key: str = "k") -> str:
    return s3.objects[key].etag


class TestMove:
    def test_an_object_is_copied_compared_and_then_deleted(self, s3: MemoryS3) -> None:
        afterwards(s3).move("k", "registered/k", etag(s3), "")
        assert list(s3.objects) == ["registered/k"]
        calls = [call for call, _ in s3.calls]
        assert calls.index("copy") < len(calls) - 1 - calls[::-1].index("head") < calls.index("delete")

    def test_where_etags_say_nothing_the_copy_s_bytes_do(self) -> None:
        s3 = MemoryS3(encrypts=True)
        s3.put("k", b"image")
        afterwards(s3).move("k", "registered/k", etag(s3), SHA256_OF_IMAGE)
        assert list(s3.objects) == ["registered/k"]
        assert ("get", "registered/k") in s3.calls

    def test_a_copy_that_differs_deletes_nothing(self) -> None:
        s3 = MemoryS3(encrypts=True)
        s3.put("k", b"image")
        with pytest.raises(Fault, match="copy"):
            afterwards(s3).move("k", "registered/k", etag(s3), "of other bytes")
        assert s3.body("k") == b"image"

    @pytest.mark.parametrize("call", ["copy", "delete"])
    def test_one_that_is_cut_short_is_finished_by_the_next(self, s3: MemoryS3, call: str) -> None:
        """Wherever that was."""

        def before(now: str, _key: str) -> None:
            if now == call:
                raise refusal("SlowDown", 503)

        s3.before = before
        with pytest.raises(Fault):
            afterwards(s3).move("k", "registered/k", etag(s3), "")
        assert s3.body("k") == b"image"
        s3.before = lambda _call, _key: None
        afterwards(s3).move("k", "registered/k", etag(s3), "")
        assert list(s3.objects) == ["registered/k"]
        afterwards(s3).move("k", "registered/k", "", "")  # which the ledger may not know yet

    def test_an_object_that_was_replaced_meanwhile_stays(self, s3: MemoryS3) -> None:
        read = etag(s3)
        s3.put("k", b"another")
        with pytest.raises(AlteredError):
            afterwards(s3).move("k", "registered/k", read, "")

        def replace(call: str, key: str) -> None:
            if (call, key) == ("copy", "k"):
                s3.before = lambda _call, _key: None
                s3.before = replaced

        def replaced(call: str, key: str) -> None:
            if (call, key) == ("head", "k"):
                s3.put("k", b"a third one")

        s3.before = replace
        with pytest.raises((AlteredError, Fault)):
            afterwards(s3).move("k", "registered/k", etag(s3), "")
        assert s3.body("k") == b"a third one"

    def test_what_is_in_neither_place_is_gone(self, s3: MemoryS3) -> None:
        with pytest.raises(GoneError):
            afterwards(s3).move("nowhere", "registered/nowhere", "", "")

    def test_a_key_that_is_taken_is_left_alone(self, s3: MemoryS3) -> None:
        s3.put("registered/k", b"another")
        target = afterwards(s3).target("k", ObjectStatus.REGISTERED, 5, etag(s3))
        assert target == "registered/k.2"
        s3.put("registered/k", b"image")
        assert afterwards(s3).target("k", ObjectStatus.REGISTERED, 5, etag(s3)) == "registered/k"

    def test_only_what_is_settled_for_good_is_moved(self, s3: MemoryS3) -> None:
        moved = {status for status in ObjectStatus if afterwards(s3).is_moved(status)}
        assert moved == {
            ObjectStatus.REGISTERED,
            ObjectStatus.ALREADY_REGISTERED,
            ObjectStatus.QUARANTINED,
        }
        assert not any(afterwards(s3, After.LEAVE).is_moved(status) for status in ObjectStatus)


class TestTag:
    def test_one_tag_is_set_beside_those_that_there_are(self, s3: MemoryS3) -> None:
        s3.objects["k"].tags = {"project": "p"}
        afterwards(s3, After.TAG).tag("k", ObjectStatus.QUARANTINED)
        assert s3.objects["k"].tags == {"project": "p", "dicom-ingest": "quarantined"}

    def test_a_store_with_tags_is_known_by_its_answer(self, s3: MemoryS3) -> None:
        assert has_tags(Bucket(BucketAddress("bucket"), s3))
        assert has_tags(Bucket(BucketAddress("bucket"), MemoryS3())), "an empty one: nobody knows better"

    def test_the_smallest_object_is_asked_about(self, s3: MemoryS3) -> None:
        """A store without tags sends all of it."""
        s3.put("large", b"x" * 1000)
        has_tags(Bucket(BucketAddress("bucket"), s3))
        assert [key for call, key in s3.calls if call == "tags"] == ["k"]

    def test_credentials_that_may_not_ask_are_refused(self, s3: MemoryS3) -> None:
        def before(call: str, _key: str) -> None:
            if call == "tags":
                raise refusal("AccessDenied", 403)

        s3.before = before
        with pytest.raises(Fault, match="403"):
            has_tags(Bucket(BucketAddress("bucket"), s3))


@pytest.mark.parametrize(
    ("prefix", "wanted"),
    [
        ("", ["in/a"]),
        ("in/", ["in/a"]),
        ("registered/", ["in/a", "registered/b"]),
        ("quarantine/in", ["in/a", "quarantine/c"]),
    ],
)
def test_what_was_moved_is_no_new_object_unless_it_is_asked_for(prefix: str, wanted: list[str]) -> None:
    page = [BucketObject(key, 1, "e", 0) for key in ("in/a", "registered/b", "quarantine/c")]
    assert [each.key for found in without_moved([page], prefix) for each in found] == wanted
    assert set(moved_prefixes(prefix)) <= {"registered/", "quarantine/"}
