"""One token bucket for all bodies: exact on average, fair, and no reason to take a server for silent."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import pycurl
import pytest

from tasks.core.errors import Fault
from tasks.core.http_messages import Request
from tasks.remote.curl_handle import waits_for_us
from tasks.remote.send_rate import PacedBody, SendRate
from tasks.remote.streamed import HeldBody
from tests import virtual_time
from tests.raw_server import OK, head_of
from tests.tasks.remote.test_curl_engine import EARLY, LIMITS, Talk, talking

MIB: Final = 1024 * 1024
AT_ONCE: Final = 256 * 1024  # what libcurl asks for


class Sent:
    """Bodies on their way, read as libcurl reads them."""

    def __init__(self, rate: int | None) -> None:
        self.rate = SendRate(rate)
        self.count = 0

    async def one(self, size_bytes: int) -> int:
        """A whole body; how many bytes it had."""
        body = PacedBody(HeldBody([bytes(size_bytes)], size_bytes), self.rate)
        may_go_on = asyncio.Event()
        body.on_piece = may_go_on.set
        sent = 0
        try:
            while sent < size_bytes:
                data = body.read(AT_ONCE)
                if data == pycurl.READFUNC_PAUSE:
                    await may_go_on.wait()
                    may_go_on.clear()
                    continue
                assert isinstance(data, bytes)
                sent += len(data)
                self.count += len(data)
            return sent
        finally:
            body.close()

    async def forever(self, size_bytes: int, answer_s: float = 0.02) -> None:
        while True:
            await self.one(size_bytes)
            await asyncio.sleep(answer_s)

    async def during(self, seconds: float) -> float:
        """Bytes a second."""
        before = self.count
        await asyncio.sleep(seconds)
        return (self.count - before) / seconds


def sending(rate: int | None, size_bytes: int, slots: int, work: Callable[[Sent], object]) -> None:
    async def send() -> None:
        sent = Sent(rate)
        tasks = [asyncio.create_task(sent.forever(size_bytes)) for _ in range(slots)]
        await asyncio.sleep(1)
        await work(sent)  # type: ignore[misc]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    virtual_time.run(send())


class TestTheRate:
    @pytest.mark.parametrize(
        ("rate", "size_bytes"),
        [
            (100_000, 33_000),
            (100_000, 516_000),
            (2 * MIB, 33_000),
            (2 * MIB, 516_000),
            (2 * MIB, 100_000_000),
            (20 * MIB, 33_000),
            (200 * MIB, 516_000),
        ],
    )
    def test_is_kept_over_ten_seconds_by_twenty_slots(self, rate: int, size_bytes: int) -> None:
        async def measure(sent: Sent) -> None:

            assert await sent.during(10) == pytest.approx(rate, rel=0.02)

        sending(rate, size_bytes, 20, measure)

    def test_is_never_exceeded_by_more_than_a_late_timer_may_make_up_for(self) -> None:
        async def measure(sent: Sent) -> None:
            for _ in range(50):
                assert await sent.during(0.5) <= MIB * 1.3

        sending(MIB, 33_000, 20, measure)

    def test_of_one_byte_a_second_sends_one_byte_a_second(self) -> None:
        async def measure(sent: Sent) -> None:
            assert await sent.during(100) == pytest.approx(1, abs=0.03)

        sending(1, 33_000, 2, measure)

    def test_may_change_while_bodies_are_under_way(self) -> None:
        async def measure(sent: Sent) -> None:
            sent.rate.set(10 * MIB)
            assert await sent.during(5) == pytest.approx(10 * MIB, rel=0.03)
            sent.rate.set(10)
            await asyncio.sleep(1)
            assert await sent.during(100) == pytest.approx(10, rel=0.05)
            sent.rate.set(None)  # all who wait go on at once
            assert await sent.during(0.01) > 10_000 * MIB

        sending(1, 10_000_000, 20, measure)

    def test_is_for_all_alike(self) -> None:
        """None waits for another's end."""

        async def send() -> None:
            sent = Sent(MIB)
            ended = [asyncio.create_task(sent.one(MIB)) for _ in range(4)]
            done, _ = await asyncio.wait(ended, timeout=3.5)
            assert not done
            await asyncio.wait(ended, timeout=0.7)
            assert all(each.done() for each in ended)

        virtual_time.run(send())

    def test_is_not_spent_by_who_was_cut_off(self) -> None:
        async def send() -> None:
            sent = Sent(MIB)
            cut_off = [asyncio.create_task(sent.one(100 * MIB)) for _ in range(20)]
            await asyncio.sleep(1)
            for task in cut_off:
                task.cancel()
            await asyncio.gather(*cut_off, return_exceptions=True)
            async with asyncio.timeout(1.2):
                await sent.one(MIB)

        virtual_time.run(send())


def taking(size_bytes: int, took: list[float]) -> Callable[[socket.socket], None]:
    """A script: one body of this size, and how long its bytes took."""

    def play(connection: socket.socket) -> None:
        head_of(connection)
        began, left = time.monotonic(), size_bytes
        while left:
            data = connection.recv(min(left, AT_ONCE))
            if not data:
                return
            left -= len(data)
        took.append(time.monotonic() - began)
        connection.sendall(OK)

    return play


def put(talk: Talk, body: bytes, silence_s: float = 5.0) -> int:
    request = Request("PUT", talk.server.url, {}, body)
    limits = replace(LIMITS, silence_s=silence_s)
    return talk.runner.run(talk.engine.send(request, limits, is_paced=True)).status


def limit(talk: Talk, rate: int | None) -> None:
    async def set_rate() -> None:
        talk.engine.send_rate.set(rate)

    talk.runner.run(set_rate())


class TestABodyOnTheWire:
    def test_takes_as_long_as_the_rate_says_and_arrives_whole(self) -> None:
        took: list[float] = []
        with talking(taking(300_000, took)) as talk:
            limit(talk, 300_000)
            assert put(talk, bytes(300_000)) == 200
        assert took[0] >= 0.8

    def test_is_sent_as_ever_without_a_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By no callback of ours."""
        with talking(taking(300_000, [])) as talk:
            talk.engine.send_rate.take = None  # type: ignore[assignment, method-assign]
            assert put(talk, bytes(300_000)) == 200

    def test_that_counts_for_nothing_is_not_held_up(self) -> None:
        with talking(taking(300_000, [])) as talk:
            limit(talk, 1)
            assert talk.ask(bytes(300_000)).status == 200

    def test_may_be_slower_than_a_server_may_be_silent(self) -> None:
        with talking(taking(40, [])) as talk:
            limit(talk, 20)
            assert put(talk, bytes(40), silence_s=0.6) == 200

    def test_does_not_excuse_a_server_that_takes_nothing(self) -> None:
        is_over = threading.Event()

        def play(connection: socket.socket) -> None:
            head_of(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            is_over.wait(8)  # our kernel would take the body for longer

        with talking(play) as talk:
            limit(talk, 200_000)
            with pytest.raises(Fault, match="silent"):
                put(talk, bytes(60_000_000), silence_s=0.5)
            is_over.set()

    def test_is_waited_for_by_a_server_that_has_taken_all_of_it(self) -> None:
        """As long as the kernel still has bytes of ours, it is the server that is silent."""

        async def look() -> None:
            body = PacedBody(HeldBody([bytes(100)], 100), SendRate(1))
            assert not waits_for_us(body, 0)
            assert body.read(AT_ONCE) == bytes(1)
            assert body.read(AT_ONCE) == pycurl.READFUNC_PAUSE
            assert waits_for_us(body, 0)
            assert not waits_for_us(body, 1)

        virtual_time.run(look())

    def test_may_be_refused_before_it_was_sent(self) -> None:
        def play(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(EARLY)

        with talking(play) as talk:
            limit(talk, 1000)
            began = time.monotonic()
            assert put(talk, bytes(1_000_000)) == 403
            assert time.monotonic() - began < 60  # and not a thousand seconds

    def test_goes_on_when_the_limit_is_lifted(self) -> None:
        with talking(taking(1_000_000, [])) as talk:
            limit(talk, 1)

            async def send() -> int:
                request = Request("PUT", talk.server.url, {}, bytes(1_000_000))
                sent = asyncio.create_task(talk.engine.send(request, LIMITS, is_paced=True))
                await asyncio.sleep(0.2)
                assert not sent.done()
                talk.engine.send_rate.set(None)
                return (await sent).status

            assert talk.runner.run(send()) == 200

    def test_that_is_streamed_is_held_up_too_also_when_it_began_without_a_limit(self) -> None:
        def pieces() -> Iterator[bytes]:
            for _ in range(10):
                time.sleep(0.02)
                yield bytes(100_000)

        with talking(taking(1_000_000, [])) as talk:

            async def send() -> bool:
                request = Request("PUT", talk.server.url)
                paced = {"is_paced": True, "asks_first": False}
                sent = asyncio.create_task(
                    talk.engine.send_streamed(request, pieces(), 1_000_000, LIMITS, **paced)
                )
                await asyncio.sleep(0.05)
                talk.engine.send_rate.set(1000)
                await asyncio.sleep(0.5)
                was_done = sent.done()
                talk.engine.send_rate.set(None)
                assert (await sent).status == 200
                return was_done

            assert not talk.runner.run(send())
