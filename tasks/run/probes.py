"""What a run needs of the world, tried out one by one: nothing is sent, and each says what came of it.

One URL is asked for, as at a run's start. Of its host no more is asked than whether it answers.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from tasks.bucket_settings import BucketSettings, bucket_address
from tasks.concurrency.event_loop import EventLoop
from tasks.core.errors import CredentialsRefusedError, Fault, IngestError
from tasks.core.http_messages import Origin, plain_url
from tasks.core.pipeline_faults import Side, ending_at
from tasks.core.platform_host import host_and_port
from tasks.core.words import counted
from tasks.dicomweb_settings import DicomwebSettings
from tasks.ledger.database import sqlite_file
from tasks.remote.platform_client import Platform
from tasks.remote.proxies import proxy_for
from tasks.remote.upload_api import PresignedUrl
from tasks.run.edges import Edges
from tasks.run.preflight import FirstAnswer, ask
from tasks.setting_values import why_no_endpoint
from tasks.settings import Settings

_NOTHING_DONE: Final = "Nothing was sent."
_SKEW_NOTED_S: Final = 60.0
_SKEW_REFUSED_S: Final = 15 * 60.0  # by S3 (RequestTimeTooSkewed), of whoever signs by his own clock
_BYTES_PER_FILE: Final = 2300  # of ledger, trail and report: deployments/README.md, "Sizes"
_LEAST_FREE_BYTES: Final = 64 * 1024 * 1024
_MIB: Final = 1024 * 1024


class ProbeResult(StrEnum):
    """What came of a probe."""

    OK = "ok"
    NOTE = "note"  # something to know, and no reason for a run to fail
    FAILED = "failed"
    NOT_TRIED = "not_tried"


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that a run needs, by a closed name, and what came of trying it."""

    name: str
    result: ProbeResult
    says: str = ""
    exit_code: int = 0  # that a run would end with


@dataclass(slots=True)
class PlatformFacts:
    """What was found out about the platform."""

    probes: list[Probe] = field(default_factory=list)
    answer: FirstAnswer | None = None  # None: none that is good
    storage: Origin | None = None
    storage_host: str = ""  # host:port
    presign_s: float | None = None
    reach_s: float | None = None  # until the object store had answered


class _TimedPlatform(Platform):
    """Remembers the last URL, and how long it took to get it."""

    url: PresignedUrl | None = None
    took_s: float | None = None

    def presign(self) -> PresignedUrl:
        began = time.monotonic()
        self.url = super().presign()
        self.took_s = time.monotonic() - began
        return self.url


def probe_platform(settings: Settings, edges: Edges) -> PlatformFacts:
    """API, credentials, one URL, the clock, the object store, proxies."""
    facts = PlatformFacts()
    add = facts.probes.append
    try:
        with closing(_TimedPlatform(settings)) as platform:
            facts.answer = ask(platform, edges)
            facts.presign_s = platform.took_s
            add(Probe("api", ProbeResult.OK, settings.api_endpoint))
            add(_credentials(settings))
            add(_presign(facts))
            if platform.url:
                facts.storage = platform.url.origin
                facts.storage_host = host_and_port(*platform.url.origin)
                add(_clock(platform.client.clock_skew_s))
                add(_storage(platform, platform.url, facts))
    except CredentialsRefusedError as error:
        add(Probe("api", ProbeResult.OK, "It answers."))
        add(_failed("credentials", error))
    except IngestError as error:
        add(_failed("api", error))
    for name in ("credentials", "presign", "clock", "storage"):
        if name not in {each.name for each in facts.probes}:
            add(Probe(name, ProbeResult.NOT_TRIED))
    add(_proxy(settings, facts.storage))
    return facts


def _failed(name: str, error: IngestError) -> Probe:
    return Probe(name, ProbeResult.FAILED, str(error), error.exit_code)


def _credentials(settings: Settings) -> Probe:
    if names := settings.credential_settings:
        return Probe("credentials", ProbeResult.OK, f"What {names} says is accepted.")
    return Probe("credentials", ProbeResult.NOTE, "None are set, and the API lets anybody upload.")


def _presign(facts: PlatformFacts) -> Probe:
    if facts.answer and facts.answer.key:
        return Probe("presign", ProbeResult.OK, "One URL came, to which nothing is sent.")
    return Probe("presign", ProbeResult.NOTE, "The platform throttles now; a run is patient with that.")


def _clock(skew_s: float) -> Probe:
    if abs(skew_s) < _SKEW_NOTED_S:
        return Probe("clock", ProbeResult.OK, "It is the API's, to the minute.")
    which = "behind" if skew_s > 0 else "ahead of"
    says = f"This machine's clock is {counted(round(abs(skew_s)), 'second')} {which} the API's."
    if abs(skew_s) < _SKEW_REFUSED_S:
        return Probe("clock", ProbeResult.NOTE, says)
    return Probe("clock", ProbeResult.NOTE, f"{says} `ingest` and `verify` will be refused by S3: set it.")


def _storage(platform: Platform, url: PresignedUrl, facts: PlatformFacts) -> Probe:
    began = time.monotonic()
    try:
        status = platform.loop.run(platform.client.try_host(url))
    except Fault as fault:
        says = (
            f"The object store can't be reached: {fault}. Check the network, the proxy and "
            "DICOM_INGEST_CA_BUNDLE; nothing was sent."
        )
        return Probe("storage", ProbeResult.FAILED, says, 1)
    facts.reach_s = time.monotonic() - began
    if status >= 500 and status != 501:  # 501: it has no HEAD
        says = f"{facts.storage_host} is in trouble, or a proxy before it: it answered {status}."
        return Probe("storage", ProbeResult.NOTE, says)
    return Probe("storage", ProbeResult.OK, f"{facts.storage_host} answers.")


def _proxy(settings: Settings, storage: Origin | None) -> Probe:
    """Which one is between, without the user and the password that its URL may have."""
    ways = []
    try:
        _, api = plain_url(settings.api_endpoint)
        origins = [("the API", api)]
        if storage:
            origins.append(("the object store", storage))
        for name, origin in origins:
            if proxy := proxy_for(origin):
                ways.append(f"{name} by {proxy.rpartition('@')[2].rpartition('/')[2]}")
    except Fault as fault:
        return Probe("proxy", ProbeResult.FAILED, f"{fault}. {_NOTHING_DONE}", 2)
    return Probe("proxy", ProbeResult.OK, f"In use: {', '.join(ways)}." if ways else "None is in use.")


def probe_bucket(settings: BucketSettings, *, allow_http: bool) -> Probe | None:
    """Whether the bucket can be listed; None when none was given."""
    if not settings.bucket:
        return None
    from tasks.remote.bucket import open_bucket

    try:
        bucket = open_bucket(bucket_address(settings.bucket))
        if bucket.endpoint and (objection := why_no_endpoint(bucket.endpoint, allow_http=allow_http)):
            says = f"The bucket's endpoint (AWS_ENDPOINT_URL_S3) {objection}."
            return Probe("bucket", ProbeResult.FAILED, says, 1)
        bucket.check()
    except Fault as fault:
        return _of_side("bucket", Side.BUCKET, fault)
    return Probe("bucket", ProbeResult.OK, "It can be listed.")


def probe_dicomweb(settings: DicomwebSettings, ca_bundle: Path | None, *, allow_http: bool) -> Probe | None:
    """Whether a DICOMweb server answers; None when none was given."""
    if not settings.dicomweb_url:
        return None
    if objection := why_no_endpoint(settings.dicomweb_url, allow_http=allow_http):
        return Probe("dicomweb", ProbeResult.FAILED, f"DICOM_INGEST_DICOMWEB_URL {objection}.", 1)
    try:
        with closing(EventLoop()) as loop:
            loop.run(_asked(settings, ca_bundle, allow_http))
    except Fault as fault:
        return _of_side("dicomweb", Side.REGISTRY, fault)
    except IngestError as error:
        return Probe("dicomweb", ProbeResult.FAILED, str(error), 1)
    return Probe("dicomweb", ProbeResult.OK, "It answers to QIDO-RS.")


async def _asked(settings: DicomwebSettings, ca_bundle: Path | None, allow_http: bool) -> None:
    from tasks.remote.curl_engine import Engine
    from tasks.remote.dicomweb import DicomwebClient
    from tasks.remote.engine_transport import http_client
    from tasks.remote.tls import TlsPolicy

    engine = Engine(TlsPolicy(ca_bundle))
    client = DicomwebClient(engine, settings, http_client(engine), allow_http=allow_http)
    try:
        await client.check()
    finally:
        client.close()


def _of_side(name: str, side: Side, fault: Fault) -> Probe:
    """By `run` neither is needed: what is wrong there is a reason for exit code 1, not for another."""
    error = ending_at(side, fault, is_start=True, nothing_done=_NOTHING_DONE)
    return Probe(name, ProbeResult.FAILED, str(error), 1)


@dataclass(frozen=True, slots=True)
class Room:
    """The disk for report and ledger."""

    free_bytes: int
    needed_bytes: int

    @property
    def probe(self) -> Probe:
        """Whether it is enough."""
        says = (
            f"{self.free_bytes // _MIB:,} MiB are free, about {self.needed_bytes // _MIB:,} MiB are needed."
        )
        if self.free_bytes >= self.needed_bytes:
            return Probe("disk", ProbeResult.OK, says)
        return Probe("disk", ProbeResult.FAILED, f"{says} Free space on the report directory's disk.", 1)


def room_for(
    files: int, report_dir: Path, ledger_at: Path | str, free: Callable[[Path], int] | None = None
) -> Room:
    """Where the report goes, and a ledger in SQLite: the fuller of the two disks."""
    places = [report_dir, *filter(None, [sqlite_file(ledger_at)])]
    needed = _BYTES_PER_FILE * files + _LEAST_FREE_BYTES
    return Room(min((free or _free_bytes)(place) for place in places), needed)


def _free_bytes(place: Path) -> int:
    """On the disk of the nearest directory that is there."""
    for directory in _upwards(place.absolute()):
        try:
            found = os.statvfs(directory)
        except OSError:
            continue
        return found.f_bavail * found.f_frsize
    return 0


def _upwards(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parents
