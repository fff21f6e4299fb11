"""What boto3 raises, as faults of ours: its own texts hold keys, URLs and account numbers.

| raised                                                        | is                                    |
| ------------------------------------------------------------- | ------------------------------------- |
| NoSuchKey, 404 of an object                                   | GoneError                             |
| PreconditionFailed, 412 of an object                          | AlteredError                          |
| no connection, time-out, a body that breaks off               | Fault network                         |
| SlowDown and its like, 429, 503                               | Fault throttled                       |
| 5xx, 408, a 409 that says "again"                             | Fault server                          |
| no credentials; 401; a key, token or signature that is wrong  | Fault unauthorized                    |
| 403 of any other kind                                         | Fault forbidden                       |
| any other answer about an object                              | Fault rejected                        |
| any other answer, a region, endpoint or CA that is wrong      | Fault settings                        |

`detail` of a Fault is S3's error code, or the kind of trouble that botocore saw.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from tasks.core.errors import Fault, FaultKind, IngestError
from tasks.core.pipeline_faults import Side, ending_at
from tasks.core.store_answers import kind_of_answer

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.]{0,63}")
_WRONG_CREDENTIALS: Final = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_NO_CREDENTIALS: Final = ("Credential", "SSOToken", "TokenRetrieval", "Unauthorized", "Login")
_NETWORK: Final = ("Connect", "Connection", "Timeout", "IncompleteRead", "ResponseStreaming", "HTTPClient")
_STATUS: Final = re.compile(r"[1-5][0-9][0-9]\Z")


class GoneError(Exception):
    """There is no such object any more: what becomes of it is data, not the end of a run."""


class AlteredError(Exception):
    """The object is another by now."""


@contextmanager
def raise_faults(doing: str, *, of_object: bool = False) -> Iterator[None]:
    """Raises what the table says, `from None`. `doing`: a clause for the log, such as "reading an object"."""
    try:
        yield
    except (Fault, GoneError, AlteredError, IngestError, GeneratorExit):
        raise
    except Exception as error:  # noqa: BLE001 - of many kinds, and of several libraries
        raise _as_ours(error, doing, of_object=of_object) from None


def bucket_ending(fault: Fault) -> IngestError:
    """The error that keeps a run from its start when the bucket can't be used."""
    return ending_at(Side.BUCKET, fault, is_start=True, nothing_done="")


def _as_ours(error: Exception, doing: str, *, of_object: bool) -> Exception:
    answer: Any = getattr(error, "response", None)
    if isinstance(answer, dict):
        return answered(answer, doing, of_object=of_object)
    name = type(error).__name__
    what = f"{doing} did not work ({name})"
    if any(each in name for each in _NO_CREDENTIALS):
        return Fault(FaultKind.UNAUTHORIZED, f"boto3 has no credentials for it ({name})", detail=name)
    if "SSL" in name or "Proxy" in name:
        return Fault(FaultKind.SETTINGS if "SSL" in name else FaultKind.NETWORK, what, detail=name)
    if isinstance(error, OSError) or any(each in name for each in _NETWORK):
        return Fault(FaultKind.NETWORK, what, detail=name)
    if type(error).__module__.partition(".")[0] in ("urllib3", "http"):
        return Fault(FaultKind.NETWORK, what, detail=name)
    if type(error).__module__.partition(".")[0] in ("botocore", "boto3") or isinstance(error, ValueError):
        kind = FaultKind.REJECTED if of_object else FaultKind.SETTINGS
        return Fault(kind, what, detail=name)
    return error


def answered(answer: Mapping[str, Any], doing: str, *, of_object: bool) -> Exception:
    """What an answer is, in the form in which botocore parses it."""
    said = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    # Of an answer without a body botocore gives the status in place of a code.
    code = said if _CODE.fullmatch(said) else ""
    status = int(said) if not status and _STATUS.match(said) else status
    if of_object and (code == "NoSuchKey" or (status == 404 and code in ("", "NotFound"))):
        return GoneError()
    if of_object and status == 412:
        return AlteredError()
    text = str(answer.get("Error", {}).get("Message", ""))
    kind = _kind(status, code, text, of_object=of_object)
    what = " ".join(filter(None, [f"{doing} was answered HTTP {status or '-'}", code]))
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return Fault(kind, what, status or None, _seconds(headers.get("retry-after")), code or str(status))


def _kind(status: int, code: str, text: str, *, of_object: bool) -> FaultKind:
    if code in _WRONG_CREDENTIALS or status == 401:
        return FaultKind.UNAUTHORIZED
    if code == "InvalidObjectState":  # it lies in an archive, and has to be restored first
        return FaultKind.REJECTED
    if status != 403:
        known = kind_of_answer(status, code, text)
        if known and known is not FaultKind.EXPIRED:
            return known
    if status == 403:
        return FaultKind.FORBIDDEN
    is_of_bucket = not of_object or code == "NoSuchBucket" or 300 <= status < 400
    return FaultKind.SETTINGS if is_of_bucket else FaultKind.REJECTED


def _seconds(retry_after: object) -> float:
    return float(retry_after) if isinstance(retry_after, str) and retry_after.isdigit() else 0.0
