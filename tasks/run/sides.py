"""What a report is held against, opened: the bucket, and the registry in an event loop of its own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.bucket_settings import BucketAddress
from tasks.comparison.bucket_side import Bucket as AskedBucket
from tasks.comparison.bucket_side import Described
from tasks.comparison.deep_side import Retrieving
from tasks.comparison.patience import Patience
from tasks.concurrency.event_loop import EventLoop
from tasks.core.errors import Fault, FaultKind, UsageError
from tasks.remote.bucket import Bucket
from tasks.remote.bucket_faults import bucket_ending
from tasks.remote.tls import TlsPolicy
from tasks.verify_settings import VerifySettings

if TYPE_CHECKING:
    from tasks.remote.dicomweb import DicomwebClient


@dataclass(slots=True)
class PatientBucket:
    """A bucket whose listing goes on after a fault, as long as patience has it."""

    bucket: Bucket
    patience: Patience

    def pages(self) -> Iterator[list[Described]]:
        """All objects. Raises Fault when the listing can't be gone on with."""
        for page in self.bucket.listing(after_fault=self._pause_or_raise):
            self.patience.record(is_answered=True)
            yield [*page]

    def head(self, key: str) -> Described | None:
        """One object by itself."""
        return self.bucket.head(key)

    def _pause_or_raise(self, fault: Fault, seen: int) -> None:
        pause_s = self.patience.pause_s(fault, seen)
        if pause_s is None:
            self.patience.record(is_answered=False)
            raise fault
        self.patience.sleep(pause_s)


OpenBucket = Callable[[BucketAddress], Bucket]
OpenRegistry = Callable[[VerifySettings], AbstractContextManager[tuple[EventLoop, Retrieving]]]


def opened_bucket(address: BucketAddress, patience: Patience, open_bucket: OpenBucket) -> AskedBucket:
    """A bucket that answers. Raises CredentialsRefusedError, or UsageError when it can't be used at all."""
    seen = 0
    try:
        bucket = open_bucket(address)
    except Fault as fault:
        raise bucket_ending(fault) from None
    while True:
        try:
            bucket.check()
        except Fault as fault:
            seen += 1
            pause_s = patience.pause_s(fault, seen)
            if pause_s is None:
                raise bucket_ending(fault) from None
            patience.sleep(pause_s)
        else:
            return PatientBucket(bucket, patience)


@contextmanager
def opened_registry(settings: VerifySettings) -> Iterator[tuple[EventLoop, Retrieving]]:
    """A DICOMweb server and the event loop in which it is asked. UsageError for an address that is none."""
    tls = TlsPolicy(settings.ca_bundle)
    with closing(EventLoop()) as loop:
        client = loop.run(_client(settings, tls))
        try:
            try:
                loop.run(client.check())
            except Fault as fault:
                if fault.kind is FaultKind.SETTINGS:
                    raise UsageError(
                        f"The registry can't be used: {fault}. Nothing was written. Check --dicomweb-url and "
                        "the network, then run the same command again."
                    ) from None
            yield loop, client
        finally:
            loop.call(client.close)


async def _client(settings: VerifySettings, tls: TlsPolicy) -> "DicomwebClient":
    from tasks.remote.curl_engine import Engine
    from tasks.remote.dicomweb import DicomwebClient
    from tasks.remote.engine_transport import http_client

    engine = Engine(tls)
    return DicomwebClient(engine, settings, http_client(engine), allow_http=settings.allow_http)
