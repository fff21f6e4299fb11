"""What is checked before a run of `ingest` begins: bucket and registry answer, and take the credentials.

No directory and no ledger is made before that.
"""

import logging
from collections.abc import Callable
from typing import Final

from tasks.core.errors import Fault, FaultKind, IngestError, UsageError
from tasks.core.pipeline_faults import Side, ending_at
from tasks.core.retry import backoff_s
from tasks.ingest_settings import IngestSettings
from tasks.remote.bucket import Bucket, open_bucket
from tasks.remote.bucket_faults import raise_faults
from tasks.run.edges import Edges
from tasks.setting_values import why_no_endpoint

log = logging.getLogger("dicom_ingest")

_TRIES: Final = 5
_LAST_TRY_AFTER_S: Final = 20.0
_FINAL: Final = frozenset({FaultKind.UNAUTHORIZED, FaultKind.FORBIDDEN, FaultKind.SETTINGS})


def bucket_of(settings: IngestSettings) -> Bucket:
    """The bucket. UsageError when boto3's environment says something that can't be, or plain http."""
    try:
        bucket = open_bucket(settings.address)
    except Fault as fault:
        raise ending_at(Side.BUCKET, fault, is_start=True) from None
    objection = why_no_endpoint(bucket.endpoint, allow_http=settings.allow_http)
    if bucket.endpoint and objection:
        raise UsageError(f"The bucket's endpoint (AWS_ENDPOINT_URL_S3) {objection}. Nothing was registered.")
    return bucket


def require_answer(side: Side, ask: Callable[[], object], edges: Edges) -> None:
    """Asks a few times. UsageError, or CredentialsRefusedError, when there is no good answer.

    A side that throttles is up: the run has its own patience.
    """
    began, tries = edges.clock(), 0
    while True:
        tries += 1
        try:
            with raise_faults("the first request"):
                ask()
        except Fault as fault:
            pause_s = min(edges.longest_pause_s, backoff_s(fault, tries + 1, 1.0))
            is_late = tries >= _TRIES or edges.clock() - began + pause_s >= _LAST_TRY_AFTER_S
            if fault.kind is FaultKind.THROTTLED and is_late:
                return
            if fault.kind in _FINAL or is_late:
                raise ending_at(side, fault, is_start=True) from None
            edges.sleep(pause_s)
        except IngestError as error:
            raise type(error)(f"{error} Nothing was registered.") from None
        else:
            return
