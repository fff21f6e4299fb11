"""Objects that are held whole, read by presigned URLs over the HTTP engine: for a third of what boto3 takes.

boto3 signs, without a request. What a store answers is what it is for boto3 (`bucket_faults.py`):

| the answer                                              | is                                             |
| ------------------------------------------------------- | ---------------------------------------------- |
| 200, with the ETag (or none) and length of the listing  | the object                                     |
| 2xx with others; 412                                    | AlteredError                                   |
| 404 NoSuchKey, or without a code                        | GoneError                                      |
| 429, 5xx, a code of throttling; no answer               | Fault: throttled, server, network              |
| any other; a way that TLS or a proxy does not give      | boto3 has to ask: its answer is what counts    |

When boto3 can read what a presigned URL could not, no other object is asked for so.
"""

from collections.abc import Mapping
from typing import Final

from tasks.core.circuit_breaker import TRANSIENT
from tasks.core.errors import Fault
from tasks.core.http_messages import MAX_ANSWER_BYTES, Answer, Limits, Request
from tasks.core.store_answers import error_code
from tasks.remote.bucket import Bucket
from tasks.remote.bucket_faults import AlteredError, GoneError, answered
from tasks.remote.curl_engine import Engine

_SILENT_S: Final = 60.0
_ANSWER_S: Final = 3600.0  # of one that is slow and not silent


class SignedReads:
    """Of one bucket. To be used in the engine's loop alone."""

    def __init__(self, bucket: Bucket, engine: Engine) -> None:
        self._bucket = bucket
        self._engine = engine
        self.is_of_use = bucket.signs  # False: boto3 reads

    def give_up(self) -> None:
        """This store, or the way to it, takes boto3's requests alone."""
        self.is_of_use = False

    async def read(self, url: str, etag: str, size_bytes: int) -> bytes | None:
        """The object that the URL leads to; None: boto3 has to ask. Raises what the table says."""
        headers = {"If-Match": f'"{etag}"'} if etag else {}
        limits = Limits(silence_s=_SILENT_S, answer_s=_ANSWER_S, body_bytes=max(size_bytes, MAX_ANSWER_BYTES))
        receiver = _Receiver(etag, size_bytes)
        try:
            answer = await self._engine.receive(Request("GET", url, headers), receiver, limits)
        except Fault as fault:
            if fault.kind in TRANSIENT:
                raise
            return None
        if answer.status < 300:
            return receiver.body()
        _raise_for(answer)
        return None


class _Receiver:
    """Of an object's bytes, as they are stored."""

    def __init__(self, etag: str, size_bytes: int) -> None:
        self._etag = etag
        self._size_bytes = size_bytes
        self._pieces: list[bytes] = []

    def begin(self, headers: Mapping[str, str]) -> None:
        length, etag = headers.get("content-length", ""), headers.get("etag", "").strip('"')
        is_other = self._etag and etag not in ("", self._etag)
        if is_other or length not in ("", str(self._size_bytes)):
            raise AlteredError

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    def body(self) -> bytes:
        body = b"".join(self._pieces)
        if len(body) != self._size_bytes:
            raise AlteredError
        return body


def _raise_for(answer: Answer) -> None:
    """What it is for boto3, where that is no matter of the signature, the region or the address."""
    text = answer.text()
    headers = {"retry-after": answer.headers.get("retry-after", "")}
    said = {
        "Error": {"Code": error_code(text) or str(answer.status), "Message": text},
        "ResponseMetadata": {"HTTPStatusCode": answer.status, "HTTPHeaders": headers},
    }
    why = answered(said, "reading an object", of_object=True)
    if isinstance(why, (GoneError, AlteredError)) or (isinstance(why, Fault) and why.kind in TRANSIENT):
        raise why
