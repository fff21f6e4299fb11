"""An object's bytes, held or passing: what they say, and that the last of them wait for the verdict."""

import hashlib
import threading

import pytest

from tasks.bucket_settings import BucketAddress
from tasks.core.object_outcomes import Expected, ObjectReason, ObjectTodo
from tasks.core.object_rules import ObjectRule
from tasks.pipeline import stream_window
from tasks.pipeline.object_reader import HELD_BYTES, UnfitError, read_object
from tasks.pipeline.stream_window import LetGoError, StreamWindow
from tasks.remote.bucket import Bucket
from tasks.remote.bucket_faults import AlteredError, GoneError
from tests.conftest import instance
from tests.memory_store import MemoryS3

LARGE = instance("1.2.1", pixel_bytes=20 * 1024 * 1024)
SMALL = instance("1.2.2")


@pytest.fixture
def s3() -> MemoryS3:
    s3 = MemoryS3()
    s3.put("large", LARGE)
    s3.put("small", SMALL)
    return s3


def bucket(s3: MemoryS3) -> Bucket:
    return Bucket(BucketAddress("bucket"), s3)


def todo(s3: MemoryS3, key: str, **more: Expected) -> ObjectTodo:
    return ObjectTodo(1, key, s3.objects[key].size_bytes, s3.objects[key].etag, **more)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestHeld:
    def test_a_small_object_is_read_once(self, s3: MemoryS3) -> None:
        read = read_object(bucket(s3), todo(s3, "small"))
        assert (read.sha256, read.unfit, read.size_bytes) == (sha256(SMALL), None, len(SMALL))
        assert b"".join(read.pieces()) == b"".join(read.pieces()) == SMALL
        assert s3.calls == [("get", "small")]

    def test_one_of_which_only_the_key_is_known_is_asked_about_first(self, s3: MemoryS3) -> None:
        read = read_object(bucket(s3), ObjectTodo(1, "small"))
        assert (read.sha256, read.etag) == (sha256(SMALL), s3.objects["small"].etag)
        with pytest.raises(GoneError):
            read_object(bucket(s3), ObjectTodo(1, "nowhere"))


class TestStreamed:
    def test_a_large_object_passes_in_pieces_and_is_hashed(self, s3: MemoryS3) -> None:
        assert len(LARGE) > HELD_BYTES
        read = read_object(bucket(s3), todo(s3, "large"))
        assert (read.unfit, read.sha256, read.held_bytes < HELD_BYTES) == (None, "", True)
        assert read.header.study_instance_uid == "1.2.3"
        pieces = list(read.pieces())
        assert b"".join(pieces) == LARGE
        assert read.sha256 == sha256(LARGE)

    def test_of_one_that_ends_too_early_the_last_piece_does_not_leave(self, s3: MemoryS3) -> None:
        s3.put("cut", LARGE[:-40])
        read = read_object(bucket(s3), todo(s3, "cut"))
        passed = bytearray()
        with pytest.raises(UnfitError) as caught:
            for piece in read.pieces():
                passed += piece
        assert caught.value.unfit.reason is ObjectReason.TRUNCATED
        assert 0 < len(passed) < len(LARGE) - 40
        again = read_object(bucket(s3), todo(s3, "cut"), {ObjectRule.PART10})
        assert b"".join(again.pieces()) == LARGE[:-40]

    def test_of_other_bytes_than_were_uploaded_the_last_piece_does_not_leave(self, s3: MemoryS3) -> None:
        expected = Expected("", sha256(b"others"))
        read = read_object(bucket(s3), todo(s3, "large", expected=expected))
        with pytest.raises(UnfitError) as caught:
            list(read.pieces())
        assert caught.value.unfit.reason is ObjectReason.OTHER_CONTENT

    def test_another_s_instance_is_known_by_its_beginning(self, s3: MemoryS3) -> None:
        read = read_object(bucket(s3), todo(s3, "large", expected=Expected("1.9")))
        assert read.unfit is not None
        assert read.unfit.reason is ObjectReason.OTHER_INSTANCE

    def test_one_that_is_no_dicom_is_not_read_to_its_end(self, s3: MemoryS3) -> None:
        s3.put("text", b"words " * 4_000_000)
        read = read_object(bucket(s3), todo(s3, "text"))
        assert read.unfit is not None
        assert read.unfit.reason is ObjectReason.NOT_DICOM

    def test_one_that_is_replaced_meanwhile_is_not_mixed(self, s3: MemoryS3) -> None:
        read = read_object(bucket(s3), todo(s3, "large"))
        s3.put("large", instance("1.2.1", "other", pixel_bytes=20 * 1024 * 1024))
        with pytest.raises(AlteredError):
            list(read.pieces())

    def test_one_that_is_let_go_halfway_leaves_no_thread(self, s3: MemoryS3) -> None:
        before = threading.active_count()
        pieces = iter(read_object(bucket(s3), todo(s3, "large")).pieces())
        next(pieces)
        del pieces
        for thread in threading.enumerate():
            if thread.name == "examine":
                thread.join(30)
        assert threading.active_count() <= before


class TestWindow:
    def test_what_comes_is_read_when_it_has_come(self) -> None:
        window = StreamWindow(10)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(window.read(7)))
        reader.start()
        for piece in (b"0123", b"4567", b"89"):
            window.feed(piece)
        reader.join(30)
        assert found == [b"0123456"]
        assert window.read(10) == b"789"
        assert window.read(1) == b""

    def test_a_reader_may_go_back_as_far_as_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream_window, "_KEPT_BYTES", 4)
        monkeypatch.setattr(stream_window, "HEAD_BYTES", 3)
        window = StreamWindow(12)
        window.seek(12)
        for piece in (b"0123", b"4567", b"89ab"):
            window.feed(piece)
        assert (window.seek(0), window.read(3)) == (0, b"012")
        assert (window.seek(8), window.read(4)) == (8, b"89ab")
        window.seek(3)
        with pytest.raises(LetGoError):
            window.read(2)

    def test_nobody_waits_for_a_stream_that_has_ended(self) -> None:
        window = StreamWindow(10)
        window.feed(b"0123")
        window.close()
        with pytest.raises(LetGoError):
            window.read(7)
