"""An HTTP/1 answer as libcurl gives it, line by line and piece by piece.

libcurl is lenient where a client that asks for keys should not be. Refused are bare line feeds, a length
beside chunks (RFC 9112, 2.2 and 6.3), lines that are no headers, and a head without end.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol

from tasks.core.content_coding import decoded
from tasks.core.errors import Fault, FaultKind
from tasks.core.http_messages import NAME, Answer, Limits

NO_ANSWER: Final = "what came is no HTTP answer"
NO_END: Final = "the answer has no end"

_HEAD: Final = re.compile(
    rf"HTTP/1\.[01] ([1-9]\d\d)(?: [^\r\n]*)?\r\n((?:{NAME}:[^\r\n]*\r\n)*)\r\n", re.ASCII
)
_FIELD: Final = re.compile(r"([^:]+):([^\r\n]*)\r\n")


class Receiver(Protocol):
    """Who takes the body of a 2xx answer as it comes, so that nobody holds it. What is raised ends it."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """Called once, before the body."""
        ...

    def write(self, data: bytes) -> None:
        """A piece of it, coded as the headers say."""
        ...


class AnswerReader:
    """Of one answer. What reads returns what libcurl's callbacks do: None, or 0 when no more is wanted."""

    def __init__(self, limits: Limits, receiver: Receiver | None = None) -> None:
        self._limits = limits
        self._receiver = receiver
        self._received_bytes = 0
        self._head: list[bytes] = []
        self._beside_body_bytes = 0
        self._is_body_asked_for = False
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._is_cut = False  # the body was longer than the limit
        self.status = 0  # until the head is whole
        self.is_begun = False
        self.wrong = ""
        self.error: Exception | None = None  # that the receiver raised

    @property
    def got_bytes(self) -> int:
        """Of everything."""
        return self._beside_body_bytes + self._received_bytes + len(self._body)

    def read_line(self, line: bytes) -> int | None:
        """One of a head, or a trailer, which says nothing that counts."""
        self.is_begun = True
        self._beside_body_bytes += len(line)
        self._head.append(line)
        if self._beside_body_bytes > self._limits.head_bytes:
            self.wrong = NO_END
        elif line[-2:] != b"\r\n":
            self.wrong = NO_ANSWER
        elif line == b"\r\n" and not self.status:
            self._read_head(b"".join(self._head).decode("latin-1"))
            self._head.clear()
        return 0 if self.wrong or self.error else None

    def read_body(self, data: bytes) -> int | None:
        """A piece of it."""
        if self._receiver and self.status < 300:
            return self._pass_on(self._receiver, data)
        self._body += data
        if len(self._body) <= self._limits.body_bytes:
            return None
        del self._body[self._limits.body_bytes :]
        self._is_cut = True
        return 0

    def _pass_on(self, receiver: Receiver, data: bytes) -> int | None:
        self._received_bytes += len(data)
        if self._received_bytes > self._limits.body_bytes:
            self._is_cut = True
            return 0
        try:
            receiver.write(data)
        except Exception as error:  # noqa: BLE001 - libcurl's callback must not raise; `answer` does
            self.error = error
        return 0 if self.error else None

    def answer(self, address: str, received_at: float, *, is_sent_whole: bool) -> Answer:
        """What was read. Raises Fault when that is no answer, or one that can't be true.

        Raises what the receiver raised; what was passed on to it is not in the body.
        """
        if self.error:
            raise self.error
        if self.wrong:
            raise Fault(FaultKind.NETWORK, self.wrong)
        if self.status < 300 and not is_sent_whole:
            raise Fault(FaultKind.NETWORK, "the server took a part for the whole", self.status)
        most = self._limits.body_bytes
        body, coding = decoded(bytes(self._body), self._headers.get("content-encoding", ""), most + 1)
        is_cut = self._is_cut or len(body) > most
        return Answer(
            self.status, self._headers, body[:most], coding, address, is_sent_whole, is_cut, received_at
        )

    def _read_head(self, head: str) -> None:
        match = _HEAD.fullmatch(head)
        if match is None:
            self.wrong = NO_ANSWER
        elif (status := int(match[1])) >= 200:
            self.status = status
            self._read_fields(match[2])
            if self._receiver and status < 300 and not self.wrong:
                self._begin(self._receiver)
        elif status == 100 and not self._is_body_asked_for:  # RFC 9110, 15.2.1: the body comes first
            self._is_body_asked_for, self.is_begun = True, False

    def _begin(self, receiver: Receiver) -> None:
        try:
            receiver.begin(self._headers)
        except Exception as error:  # noqa: BLE001 - as above
            self.error = error

    def _read_fields(self, fields: str) -> None:
        headers = self._headers
        for written, value in _FIELD.findall(fields):
            name, value = written.lower(), value.strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if "content-length" in headers and "transfer-encoding" in headers:
            self.wrong = NO_ANSWER
