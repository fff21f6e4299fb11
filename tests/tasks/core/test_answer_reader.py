"""What is an HTTP answer and what is not, without a socket; test_curl_engine.py has servers that speak so."""

import gzip
import time

import pytest

from tasks.core.answer_reader import NO_ANSWER, NO_END, AnswerReader
from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import Answer, Limits

LIMITS = Limits(head_bytes=1000, body_bytes=10)
HEAD = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"


def reader_of(head: bytes, body: bytes = b"") -> AnswerReader:
    """One that has read all that it wants of this."""
    reader = AnswerReader(LIMITS)
    for line in head.splitlines(keepends=True):
        if reader.read_line(line) == 0:
            return reader
    if body:
        reader.read_body(body)
    return reader


def answer_of(head: bytes, body: bytes = b"") -> Answer:
    return reader_of(head, body).answer("192.0.2.1", 7.0, is_sent_whole=True)


class TestHead:
    def test_has_a_status_and_headers_in_small_letters(self) -> None:
        head = b'HTTP/1.0 404\r\nETag: "a"\r\nX-A:\t b \t\r\nx-a:\xe9\r\nEmpty:\r\n\r\n'
        answer = answer_of(head, b"ok")
        assert (answer.status, answer.body, answer.address, answer.received_at) == (
            404,
            b"ok",
            "192.0.2.1",
            7,
        )
        assert answer.headers == {"etag": '"a"', "x-a": "b, \xe9", "empty": ""}

    @pytest.mark.parametrize(
        "head",
        [
            b"\r\n",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 099 None\r\n\r\n",
            b"HTTP/1.1 2000\r\n\r\n",
            b"HTTP/1.1  200 OK\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n\r\n",
            HEAD.replace(b"\r\n", b"\n"),
            HEAD.replace(b"b\r\n", b"b\n"),
            HEAD.replace(b"A: b", b"A : b"),
            HEAD.replace(b"A: b", b" A: b"),
            HEAD.replace(b"A: b", b": b"),
            HEAD.replace(b"A: b", b"A"),
            HEAD.replace(b"A: b", b"A: b\r\n folded"),
            HEAD.replace(b"A: b", b"A: b\rC: d"),
            HEAD.replace(b"A: b", b"\xc4: b"),
            HEAD.replace(b"A: b", b"Content-Length: 2\r\nTransfer-Encoding: chunked"),
            HEAD + b"trailer: with a bare line feed\n",
        ],
    )
    def test_that_is_none_is_refused_at_once(self, head: bytes) -> None:
        """Nothing more of that connection is wanted: what follows may look like the next answer."""
        reader = reader_of(head)
        assert reader.wrong == NO_ANSWER
        assert reader.read_line(b"\r\n") == 0
        with pytest.raises(Fault, match=NO_ANSWER) as fault:
            reader.answer("", 0.0, is_sent_whole=True)
        assert fault.value.kind is FaultKind.NETWORK

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200,
            b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40,
            HEAD + b"A: b\r\n" * 200,
            b"HTTP/1.1 200 OK\r\nA: " + b"x" * 1000,
        ],
    )
    def test_without_end_is_refused(self, head: bytes) -> None:
        assert reader_of(head).wrong == NO_END

    def test_comes_after_those_that_are_no_final_ones(self) -> None:
        answer = answer_of(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nX: y\r\n\r\n" + HEAD)
        assert (answer.status, answer.headers) == (200, {"a": "b"})

    def test_is_followed_by_trailers_that_say_nothing(self) -> None:
        assert answer_of(HEAD + b"A: c\r\nD: e\r\n\r\n").headers == {"a": "b"}

    def test_of_spaces_takes_no_time(self) -> None:
        """A pattern that tried every end of the value would take minutes."""
        began = time.process_time()
        reader = AnswerReader(Limits())
        for line in (b"HTTP/1.1 200 OK\r\n", b"A: b" + b" \t" * 30_000 + b"c\r\n", b"\r\n"):
            reader.read_line(line)
        assert reader.status == 200
        assert time.process_time() - began < 5


class TestBeginning:
    def test_is_the_first_line_but_not_that_of_one_100_continue(self) -> None:
        """After it the request's body takes its time; a server that says it again and again is answering."""
        reader = AnswerReader(LIMITS)
        begun = []
        for line in (b"HTTP/1.1 100 Continue\r\n", b"\r\n") * 2:
            reader.read_line(line)
            begun.append(reader.is_begun)
        assert begun == [True, False, True, True]


class TestBody:
    def test_longer_than_the_bound_is_cut(self) -> None:
        reader = reader_of(HEAD)
        assert reader.read_body(b"0123456789") is None
        assert reader.read_body(b"a") == 0
        answer = reader.answer("", 0.0, is_sent_whole=True)
        assert (answer.body, answer.is_cut) == (b"0123456789", True)

    def test_that_is_compressed_is_decoded(self) -> None:
        head = HEAD.replace(b"A: b", b"Content-Encoding: gzip")
        reader = AnswerReader(Limits())
        for line in head.splitlines(keepends=True):
            reader.read_line(line)
        reader.read_body(gzip.compress(b"hello"))
        answer = reader.answer("", 0.0, is_sent_whole=True)
        assert (answer.body, answer.coding, answer.is_cut) == (b"hello", "", False)

    def test_in_another_coding_says_so(self) -> None:
        answer = answer_of(HEAD.replace(b"A: b", b"Content-Encoding: br"), b"\x0b\x02\x80")
        assert (answer.body, answer.coding) == (b"\x0b\x02\x80", "br")

    def test_counts_with_all_else_that_came(self) -> None:
        assert reader_of(HEAD, b"ok").got_bytes == len(HEAD) + 2


@pytest.mark.parametrize("status", [200, 204])
def test_praise_for_what_was_not_sent_is_a_fault(status: int) -> None:
    """Any other answer may come before the body was sent."""
    with pytest.raises(Fault, match="a part for the whole"):
        reader_of(HEAD.replace(b"200", b"%d" % status)).answer("", 0.0, is_sent_whole=False)
    assert not reader_of(HEAD.replace(b"200", b"307")).answer("", 0.0, is_sent_whole=False).is_sent_whole
