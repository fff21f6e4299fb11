"""A file's bytes: held or streamed, hashed as they are sent, never half of one file and half of another."""

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from awscrt.checksums import crc64nvme

from tasks.core.errors import Fault, FaultKind
from tasks.core.models import Digests, Reason, Rejected, Status
from tasks.source.file_content import HELD_BYTES, MAX_PUT_BYTES, Content, Streamed, read_content
from tests.conftest import MIB, Dicom, padded


@contextmanager
def read(path: Path | str) -> Iterator[Content]:
    content = read_content(str(path))
    assert not isinstance(content, Rejected)
    with closing(content):
        yield content


def rejected(path: Path | str) -> tuple[Status, Reason]:
    content = read_content(str(path))
    assert isinstance(content, Rejected)
    return content.status, content.reason


def whole(content: Content, *, with_md5: bool = False) -> bytes:
    body = content.body(with_md5=with_md5)
    return body if isinstance(body, bytes) else b"".join(body)


def digests(body: bytes) -> Digests:
    """With an MD5."""
    crc = base64.b64encode(crc64nvme(body).to_bytes(8, "big")).decode()
    return Digests(hashlib.sha256(body).hexdigest(), hashlib.md5(body).hexdigest(), crc)


@pytest.fixture(params=["held", "streamed"])
def image(
    request: pytest.FixtureRequest, tmp_path: Path, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A file of some chunks that is held or streamed."""
    if request.param == "streamed":
        monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", MIB)
    path = tmp_path / "image"
    path.write_bytes(dicom("1.1", pixel_bytes=4 * MIB))
    return path


class TestContent:
    def test_is_the_file_as_often_as_it_is_asked_for(self, image: Path) -> None:
        """A PUT that went wrong starts from the beginning."""
        with read(image) as content:
            assert whole(content) == whole(content) == image.read_bytes()
            assert (content.size_bytes, content.mtime_ns) == (
                image.stat().st_size,
                image.stat().st_mtime_ns,
            )
            assert content.header.sop_instance_uid == padded("1.1")

    def test_has_the_digests_of_what_was_sent(self, image: Path) -> None:
        """Without another pass once a body went out."""
        with read(image) as content:
            whole(content, with_md5=True)
            assert content.compute_digests(with_md5=True) == digests(image.read_bytes())
            assert content.digests == content.compute_digests() == digests(image.read_bytes())

    def test_has_no_md5_that_nobody_asked_for(self, image: Path) -> None:
        """It takes twice as long as the other two together; it can be had later, too."""
        with read(image) as content:
            whole(content)
            assert content.digests == replace(digests(image.read_bytes()), md5="")
            assert content.compute_digests(with_md5=True) == digests(image.read_bytes())

    def test_has_the_crc_that_s3_would_show(self, tmp_path: Path, dicom: Dicom) -> None:
        """Base64 of eight bytes, the highest first: the check value of CRC-64/NVME, as every table has it."""
        assert digests(b"123456789").crc64nvme == base64.b64encode(bytes.fromhex("ae8b14860a799888")).decode()
        (tmp_path / "image").write_bytes(dicom("1.1"))
        with read(tmp_path / "image") as content:
            assert content.compute_digests().crc64nvme == digests(dicom("1.1")).crc64nvme

    def test_can_be_hashed_before_it_is_sent(self, image: Path) -> None:
        """A taken UID has to be compared first."""
        with read(image) as content:
            assert content.compute_digests(with_md5=True) == digests(image.read_bytes())
            assert whole(content) == image.read_bytes()

    def test_is_held_up_to_eight_mebibytes(self, tmp_path: Path, dicom: Dicom) -> None:
        """A byte more is streamed: its digests come with the bytes."""
        head = dicom("1.1")
        at, above = tmp_path / "at", tmp_path / "above"
        at.write_bytes(head + bytes(HELD_BYTES - len(head)))
        above.write_bytes(head + bytes(HELD_BYTES - len(head) + 1))
        with read(at) as held, read(above) as streamed:
            assert held.digests is not None
            assert streamed.digests is None


class TestStreamed:
    @pytest.fixture
    def image(self, tmp_path: Path, dicom: Dicom, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", MIB)
        path = tmp_path / "image"
        path.write_bytes(dicom("1.1", pixel_bytes=4 * MIB))
        return path

    @pytest.mark.parametrize("how", ["grows", "shrinks", "is touched", "is written in place"])
    def test_that_changes_meanwhile_ends_in_a_fault(self, image: Path, how: str) -> None:
        """Before its last chunk: so the PUT is never whole."""
        sent = 0
        with read(image) as content, pytest.raises(Fault) as raised:
            body = content.body()
            assert not isinstance(body, bytes)
            for chunk in body:
                if not sent:
                    self.change(image, how)
                sent += len(chunk)
        assert raised.value.kind is FaultKind.CHANGED
        assert sent < content.size_bytes
        assert content.digests is None

    def test_is_sent_whole_while_an_earlier_body_is_still_read(self, image: Path) -> None:
        """As after a redirect that came before the disk gave the next piece."""
        with read(image) as content:
            assert isinstance(content, Streamed)
            earlier, later = content.body(), content.body()
            sent = next(later)
            next(earlier)
            for chunk in later:
                sent += chunk
                next(earlier, None)
            assert sent == image.read_bytes()
            assert content.digests
            assert content.digests.sha256 == hashlib.sha256(sent).hexdigest()

    def change(self, path: Path, how: str) -> None:
        with path.open("r+b") as file:
            if how == "grows":
                file.seek(0, os.SEEK_END)
                file.write(b"\0\0")
            elif how == "shrinks":
                file.truncate(2 * MIB)
            elif how == "is written in place":
                file.seek(-2, os.SEEK_END)
                file.write(b"zz")
            else:
                os.utime(path)

    def test_that_changed_is_whole_the_next_time(self, image: Path) -> None:
        """It is opened anew, with its new size."""
        with image.open("ab") as file:
            file.write(bytes(100))
        with read(image) as content:
            assert whole(content) == image.read_bytes()


class TestRejected:
    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        """Gone, or a loop of links: bad data is a value."""
        (tmp_path / "loop").symlink_to("loop")
        for name in ("gone", "loop"):
            assert rejected(tmp_path / name) == (Status.UNREADABLE, Reason.IO_ERROR)

    def test_a_directory_where_a_file_was_is_unreadable(self, tmp_path: Path) -> None:
        """And leaves no descriptor open."""
        open_before = len(os.listdir("/proc/self/fd"))
        assert rejected(tmp_path) == (Status.UNREADABLE, Reason.IO_ERROR)
        assert len(os.listdir("/proc/self/fd")) == open_before

    def test_a_pipe_does_not_hold_us_up(self, tmp_path: Path) -> None:
        """Where a file was when it was listed."""
        os.mkfifo(tmp_path / "pipe")
        assert rejected(tmp_path / "pipe") == (Status.UNREADABLE, Reason.IO_ERROR)

    @pytest.mark.parametrize("over", [0, 1])
    def test_five_gibibytes_is_the_most(self, tmp_path: Path, dicom: Dicom, over: int) -> None:
        """A sparse file: nothing of it is read but its head."""
        path = tmp_path / "huge"
        path.write_bytes(dicom("1.1"))
        os.truncate(path, MAX_PUT_BYTES + over)
        content = read_content(str(path))
        assert content.size_bytes == MAX_PUT_BYTES + over
        assert (isinstance(content, Rejected) and content.status is Status.TOO_LARGE) == bool(over)
        if not isinstance(content, Rejected):
            content.close()

    def test_what_is_no_instance_says_its_size(self, tmp_path: Path) -> None:
        """The report has it for every file that was opened."""
        path = tmp_path / "notes"
        path.write_text("The patient moved.\n")
        content = read_content(str(path))
        assert isinstance(content, Rejected)
        assert (content.reason, content.size_bytes) == (Reason.TEXT, 19)

    def test_any_name_will_do(self, tmp_path: Path, dicom: Dicom) -> None:
        """Bytes that are not UTF-8."""
        path = os.fsencode(tmp_path) + b"/\xff\n"
        with open(path, "wb") as file:
            file.write(dicom("1.1"))
        with read(os.fsdecode(path)) as content:
            assert content.compute_digests(with_md5=True) == digests(dicom("1.1"))


class TestClosed:
    def test_once_more_does_no_harm(self, image: Path) -> None:
        """The descriptor may be another file's by then."""
        with read(image) as content:
            content.close()
            with image.open("rb") as other:
                content.close()
                assert other.read(1)
            assert content.held_bytes == 0

    def test_while_it_is_read_it_stays_open_until_that_ends(
        self, tmp_path: Path, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thread that was given up on reads no other file, which got the descriptor meanwhile."""
        monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", MIB)
        path = tmp_path / "image"
        path.write_bytes(dicom("1.1", pixel_bytes=3 * MIB))
        open_before = set(os.listdir("/proc/self/fd"))
        with read(path) as content:
            body = content.body()
            assert not isinstance(body, bytes)
            first = next(body)
            content.close()
            with open("/dev/zero", "rb"):
                assert first + b"".join(body) == path.read_bytes()
        assert set(os.listdir("/proc/self/fd")) == open_before
        with pytest.raises(OSError, match="closed"):
            content.compute_digests() if content.digests is None else list(content.body())

    def test_its_digests_stay(self, tmp_path: Path, dicom: Dicom) -> None:
        """They are compared with those of others of its UID when its bytes are gone."""
        path = tmp_path / "image"
        path.write_bytes(dicom("1.1"))
        with read(path) as content:
            content.compute_digests(with_md5=True)
        assert content.compute_digests(with_md5=True) == digests(dicom("1.1"))

    def test_has_no_md5_to_be_found_out(self, tmp_path: Path, dicom: Dicom) -> None:
        """That of no bytes would be another file's."""
        path = tmp_path / "image"
        path.write_bytes(dicom("1.1"))
        with read(path) as content:
            pass
        with pytest.raises(OSError, match="closed"):
            content.compute_digests(with_md5=True)
