"""Reader threads: bounded memory, the plan's order, and nothing stays held when somebody is cut off."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.models import Rejected
from tasks.source.file_content import Content, read_content
from tasks.source.readers import MOST_READERS, READERS, Readers
from tests.conftest import MIB, Dicom


@pytest.fixture
def paths(tmp_path: Path, dicom: Dicom) -> list[str]:
    """Of 30 images of one size."""
    found = []
    for number in range(30):
        (tmp_path / f"{number:02}").write_bytes(dicom(f"1.{number}"))
        found.append(str(tmp_path / f"{number:02}"))
    return found


async def read(readers: Readers, path: str, begun: Callable[[], object] = lambda: None) -> Content:
    content = await readers.read(lambda: (begun() and None) or read_content(path))
    assert not isinstance(content, Rejected)
    return content


async def settled() -> None:
    for _ in range(200):
        await asyncio.sleep(0.001)


class TestMemory:
    def test_is_bounded_by_the_bytes_that_are_held(self, paths: list[str]) -> None:
        """A read begins while less is held; each release lets the next one begin."""
        size = os.path.getsize(paths[0])

        async def work() -> None:
            readers, held = Readers(0, 5 * size), list[Content]()

            async def hold(path: str) -> None:
                held.append(await read(readers, path))

            tasks = [asyncio.create_task(hold(path)) for path in paths]
            await settled()
            assert 5 <= len(held) < 5 + READERS
            most = 0
            while held:
                most = max(most, len(held))
                readers.release(held.pop())
                await asyncio.sleep(0.01)
            await asyncio.gather(*tasks)
            assert most < 5 + READERS
            readers.close()

        asyncio.run(work())

    def test_is_enough_for_each_slot_however_large_its_file(self, paths: list[str]) -> None:
        """Else large files would be sent by fewer than are permitted."""

        async def work() -> None:
            readers, held = Readers(20, 1), list[Content]()

            async def hold(path: str) -> None:
                held.append(await read(readers, path))

            tasks = [asyncio.create_task(hold(path)) for path in paths]
            await settled()
            assert len(held) == 20
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            readers.close()

        asyncio.run(work())

    def test_of_what_is_released_twice_is_given_back_once(self, paths: list[str]) -> None:
        async def work() -> None:
            readers = Readers(1, 1)
            content = await read(readers, paths[0])
            readers.release(content)
            readers.release(content)
            await read(readers, paths[1])
            waiting = asyncio.create_task(read(readers, paths[2]))
            await settled()
            assert not waiting.done()
            waiting.cancel()
            readers.close()

        asyncio.run(work())


class TestOrder:
    def test_is_that_of_who_asks(self, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Of several threads each begins when it comes to it."""
        monkeypatch.setattr("tasks.source.readers.READERS", 1)

        async def work() -> None:
            readers, begun = Readers(1, 1), list[int]()

            async def once(number: int) -> None:
                readers.release(await read(readers, paths[number], lambda: begun.append(number)))

            await asyncio.gather(*(once(number) for number in range(30)))
            assert begun == sorted(begun)
            readers.close()

        asyncio.run(work())


class TestThreads:
    def test_start_when_those_that_there_are_have_work(self, paths: list[str]) -> None:
        """Files that are read one after the other need one."""

        async def work() -> None:
            before, readers = set(threading.enumerate()), Readers(100)
            for path in paths:
                readers.release(await read(readers, path))
            assert len(set(threading.enumerate()) - before) == 1
            readers.close()

        asyncio.run(work())


class TestSlowDisk:
    def test_that_makes_readers_wait_gets_more_of_them(self, paths: list[str]) -> None:
        """A share that answers after a while answers many at once."""

        async def work() -> None:
            readers, now, most = Readers(100), [0], [0]

            def slow() -> Content:
                now[0] += 1
                most[0] = max(most[0], now[0])
                time.sleep(0.05)
                now[0] -= 1
                content = read_content(paths[0])
                assert not isinstance(content, Rejected)
                return content

            for content in await asyncio.gather(*(readers.read(slow) for _ in range(24))):
                assert not isinstance(content, Rejected)
                readers.release(content)
            assert most[0] == MOST_READERS
            readers.close()

        asyncio.run(work())

    def test_apart_small_files_have_one_reader_and_large_ones_two(
        self, tmp_path: Path, dicom: Dicom, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Hashing lets others compute; parsing does not."""
        monkeypatch.setattr("tasks.source.readers._SLOW_S", 1e9)

        async def at_once(pixel_bytes: int) -> int:
            path = tmp_path / "image"
            path.write_bytes(dicom("1.1", pixel_bytes=pixel_bytes))
            readers, goes_on, begun = Readers(100), threading.Event(), list[int]()
            for _ in range(30):
                readers.release(await read(readers, str(path)))

            def begin() -> None:
                begun.append(1)
                goes_on.wait(60)

            reads = [asyncio.create_task(read(readers, str(path), begin)) for _ in range(3)]
            await settled()
            count = len(begun)
            goes_on.set()
            for content in await asyncio.gather(*reads):
                readers.release(content)
            readers.close()
            return count

        assert asyncio.run(at_once(1000)) == 1
        assert asyncio.run(at_once(MIB)) == 2

    def test_that_hangs_under_some_files_leaves_the_others_room(self, paths: list[str]) -> None:
        """As soon as somebody looks."""

        async def work() -> None:
            readers, goes_on = Readers(100), threading.Event()
            hanging = [asyncio.create_task(read(readers, paths[0], goes_on.wait)) for _ in range(READERS)]
            other = asyncio.create_task(read(readers, paths[1]))
            await settled()
            assert not other.done()
            async with asyncio.timeout(60):
                while not other.done():
                    readers.look()
                    await asyncio.sleep(0.05)
            readers.release(await other)
            goes_on.set()
            for content in await asyncio.gather(*hanging):
                readers.release(content)
            readers.close()

        asyncio.run(work())


class TestCancellation:
    def test_gives_the_room_to_others_whenever_it_comes(self, paths: list[str]) -> None:
        """While it waits, is read, or is let in at that moment: the others are read all the same."""

        async def work() -> None:
            readers = Readers(1, 1)

            async def once(path: str) -> str:
                content = await read(readers, path)
                readers.release(content)
                return content.header.sop_instance_uid

            for pause in (0, 1, 2, 3, 5, 8):
                tasks = [asyncio.create_task(once(path)) for path in paths]
                for _ in range(pause):
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                async with asyncio.timeout(60):
                    done = await asyncio.gather(*tasks, return_exceptions=True)
                assert sum(isinstance(uid, str) for uid in done) >= 15
            readers.close()

        asyncio.run(work())

    def test_leaves_no_file_open(self, tmp_path: Path, dicom: Dicom, monkeypatch: pytest.MonkeyPatch) -> None:
        """One too large to hold is opened by the thread, which nobody can stop."""
        monkeypatch.setattr("tasks.source.file_content.HELD_BYTES", MIB)
        path = tmp_path / "large"
        path.write_bytes(dicom("1.1", pixel_bytes=2 * MIB))
        goes_on = threading.Event()

        async def work() -> None:
            readers = Readers(1)
            open_before = set(os.listdir("/proc/self/fd"))
            task = asyncio.create_task(read(readers, str(path), lambda: bool(goes_on.wait(60)) and None))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
            goes_on.set()
            readers.release(await read(readers, str(path)))  # by then the first one is done
            await settled()
            assert set(os.listdir("/proc/self/fd")) == open_before
            readers.close()

        asyncio.run(work())


class TestTrouble:
    @pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
    def test_of_a_reader_is_raised_and_the_next_file_is_read(
        self, paths: list[str], error: type[Exception]
    ) -> None:
        def broken() -> Content:
            raise error

        async def work() -> None:
            readers = Readers(1, 1)
            for _ in range(2 * READERS):
                with pytest.raises(error):
                    await readers.read(broken)
            readers.release(await read(readers, paths[0]))
            readers.close()

        asyncio.run(work())

    @pytest.mark.processes
    def test_that_has_no_end_keeps_no_process(self) -> None:
        """A dead share answers nobody."""
        code = (
            "import asyncio, threading\n"
            "from tasks.source.readers import Readers\n"
            "async def work():\n"
            "    begun = threading.Event()\n"
            "    def hang():\n"
            "        begun.set()\n"
            "        threading.Event().wait()\n"
            "    reading = asyncio.create_task(Readers(1).read(hang))\n"
            "    while not begun.is_set():\n"
            "        await asyncio.sleep(0.01)\n"
            "    reading.cancel()\n"
            "asyncio.run(work())\n"
            "print('ended')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr
