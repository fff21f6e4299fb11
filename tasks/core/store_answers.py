"""What the error codes of an object store mean, whoever made it and whatever the HTTP status. Pure.

Sources: the error references of S3 and KMS; the retry tables of the AWS SDKs (botocore's `_retry.json`);
MinIO's api-errors.go; Ceph's rgw_common.cc; Google Cloud Storage's XML API; Azure Blob Storage's error codes.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

from tasks.core.errors import FaultKind

_CODE: Final = re.compile(r"<Code>\s*([A-Z][A-Za-z0-9]*(?:\.[A-Z][A-Za-z0-9]*)*)\s*</Code>")
_ANY_CODE: Final = re.compile(r"<Code>\s*([\w.-]{1,64})\s*</Code>")  # to be understood, not to be shown
_LONGEST_CODE: Final = 64
_THROTTLING: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RateLimitExceeded",
        "RequestLimitExceeded",
        "ServerBusy",  # Azure
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",  # MinIO
        "SlowDownWrite",  # MinIO
        "SnapshotOperationRateExceeded",  # Azure
        "TooManyRequests",
        "TooManyRequestsException",
        "TransactionInProgressException",
        "UserRateLimitExceeded",
    }
)
# Throttling, RequestThrottledException, SLOW_DOWN, rateLimitExceeded, ResourceBusy, ...
_ANY_THROTTLING: Final = re.compile(r"throttl|slow_?down|rate_?limit|too_?many_?requests|busy", re.IGNORECASE)
_REDUCE: Final = re.compile(r"reduce your (request|upload|write)?\s*rate", re.IGNORECASE)
_SAYS_AGAIN: Final = re.compile(r"\b(again|retry|later)\b", re.IGNORECASE)
_KINDS: Final = {
    "ClientDisconnected": FaultKind.NETWORK,  # MinIO
    "RequestTimeout": FaultKind.NETWORK,
    "RequestTimeoutException": FaultKind.NETWORK,
    "IncompleteBody": FaultKind.NETWORK,
    "BadDigest": FaultKind.INTEGRITY,
    "Crc64Mismatch": FaultKind.INTEGRITY,  # Azure
    "Md5Mismatch": FaultKind.INTEGRITY,  # Azure
    "XAmzContentChecksumMismatch": FaultKind.INTEGRITY,
    "ExpiredToken": FaultKind.EXPIRED,
    "ExpiredTokenException": FaultKind.EXPIRED,
    "RequestExpired": FaultKind.EXPIRED,
    "AccountBeingCreated": FaultKind.SERVER,  # Azure
    "ConcurrentModification": FaultKind.SERVER,
    "ConditionalRequestConflict": FaultKind.SERVER,
    "ContainerBeingDeleted": FaultKind.SERVER,  # Azure
    "DependencyTimeoutException": FaultKind.SERVER,  # KMS
    "InternalError": FaultKind.SERVER,
    "InternalException": FaultKind.SERVER,  # KMS
    "InternalFailure": FaultKind.SERVER,
    "KMSInternalException": FaultKind.SERVER,
    "KeyUnavailableException": FaultKind.SERVER,  # KMS
    "OperationAborted": FaultKind.SERVER,
    "OperationTimedOut": FaultKind.SERVER,  # Azure
    "PendingCopyOperation": FaultKind.SERVER,  # Azure
    "XMinioServerNotInitialized": FaultKind.SERVER,
}

# What a person does about it; in the table of deployments/README.md, too.
ADVICE: Final = {
    "AccessDenied": "The API's own role may not write there, or a clock is wrong: ask the platform.",
    "AllAccessDisabled": "The bucket is closed: ask the platform.",
    "AuthenticationFailed": "The store does not accept the signature of the URLs: ask the platform.",
    "BadDigest": "Something on the way rewrites bodies: look for a proxy or firewall that does.",
    "EntityTooLarge": "The store, or a proxy before it, takes no file of this size: ask the platform.",
    "InvalidAccessKeyId": "The store does not know who signs the URLs: ask the platform to renew that key.",
    "MissingRequiredHeader": (
        "That is Azure Blob Storage, no S3, and wants a header x-ms-blob-type: ask the platform for S3 URLs."
    ),
    "NoSuchBucket": "There is no such bucket: ask the platform which one it means.",
    "PermanentRedirect": (
        "The bucket is in another region than the URLs say: ask the platform to sign for its own."
    ),
    "QuotaExceeded": "The bucket is full: ask the platform for room.",
    "RequestTimeTooSkewed": "A clock is wrong: set this machine's, or ask the platform to set the API's.",
    "SignatureDoesNotMatch": (
        "Something on the way changes requests, or the API signs what is not sent: let the proxy pass PUTs "
        "unchanged, ask the platform which headers it signs."
    ),
}
KMS_ADVICE: Final = "The bucket's KMS key can't be used: ask the platform."
EXPIRED_ADVICE: Final = "Set this machine's clock; ask the platform for URLs that live longer."
NO_ADVICE: Final = "Ask the platform what its object store wants."
# Of what was tried until the file's budget was spent.
KIND_ADVICE: Final = {
    FaultKind.THROTTLED: "Run it again, with --parallel lower or --retries throttled=30.",
    FaultKind.NETWORK: "Run it again; if it is always a large file, a proxy or firewall cuts long requests.",
    FaultKind.SERVER: "Run it again; then ask the platform.",
    FaultKind.EXPIRED: EXPIRED_ADVICE,
}
_SAME_ADVICE: Final = {
    "AccountIsDisabled": "AllAccessDisabled",
    "AccountProblem": "AllAccessDisabled",
    "AuthorizationFailure": "AuthenticationFailed",
    "AuthorizationHeaderMalformed": "PermanentRedirect",
    "BucketQuotaExceeded": "QuotaExceeded",
    "ContainerNotFound": "NoSuchBucket",
    "Crc64Mismatch": "BadDigest",
    "InvalidBucketName": "NoSuchBucket",
    "Md5Mismatch": "BadDigest",
    "RequestBodyTooLarge": "EntityTooLarge",
    "TemporaryRedirect": "PermanentRedirect",
    "UserSuspended": "AllAccessDisabled",
    "XAmzContentChecksumMismatch": "BadDigest",
    "XMinioAdminBucketQuotaExceeded": "QuotaExceeded",
    "XMinioStorageFull": "QuotaExceeded",
}

# What a store says where a signature can't match; some say nothing.
_SIGNATURE_CODES: Final = frozenset(
    {
        "",
        "AccessDenied",
        "AuthenticationFailed",
        "AuthorizationQueryParametersError",
        "InvalidRequest",
        "InvalidSignature",
        "MissingSecurityHeader",
        "SignatureDoesNotMatch",
    }
)
_SIGNED_HEADERS: Final = frozenset({"x-amz-signedheaders", "x-goog-signedheaders"})
_HEADER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_MOST_HEADERS: Final = 10


def error_code(text: str) -> str:
    """The error code of an S3 answer, found by pattern: no XML parser meets bytes from outside.

    Letters, digits and dots between them, as all of these codes are; else empty: nothing else that a server
    writes there is passed on.
    """
    found = _CODE.search(text)
    return found.group(1) if found and len(found.group(1)) <= _LONGEST_CODE else ""


def kind_of_answer(status: int, code: str, text: str) -> FaultKind | None:
    """What an answer to a PUT means by its status, its code and its text; None when these do not decide.

    | the answer                                                      | kind      |
    | --------------------------------------------------------------- | --------- |
    | 429, 503, a code of throttling, "reduce your request rate"      | throttled |
    | a code that stands in `_KINDS`, also as a part between dots     | that      |
    | 408, 423, 425, 499, 5xx, a 409 that says "again", "retry" or    |           |
    | "later"; 501 and 505 are no trouble that passes                 | server    |
    | 400, 401, 403 that says "expired"                               | expired   |
    """
    parts = code.split(".")
    said = _ANY_CODE.search(text)
    is_throttling = not _THROTTLING.isdisjoint(parts) or _ANY_THROTTLING.search(said[1] if said else code)
    if status in (429, 503) or is_throttling or _REDUCE.search(text):
        return FaultKind.THROTTLED
    if known := next((_KINDS[part] for part in parts if part in _KINDS), None):
        return known
    if _is_passing(status) or (status == 409 and _SAYS_AGAIN.search(text)):
        return FaultKind.SERVER
    if status in (400, 401, 403) and "expired" in text.lower():
        return FaultKind.EXPIRED
    return None


def _is_passing(status: int) -> bool:
    """Whether a store that answers so may answer otherwise in a while."""
    return status in (408, 423, 425, 499) or (500 <= status < 600 and status not in (501, 505))


def advice(code: str, kind: FaultKind | None = None, unsent_headers: Collection[str] = ()) -> str:
    """What to do about a PUT that did not work, in a sentence. `unsent_headers`: see there."""
    if unsent_headers and code in _SIGNATURE_CODES:
        return (
            f"The presigned URLs sign headers that are not sent ({', '.join(unsent_headers)}): "
            "ask the platform to sign host alone."
        )
    if kind is FaultKind.INTEGRITY:
        code = "BadDigest"
    known = ADVICE.get(_SAME_ADVICE.get(code, code), "")
    if kind in KIND_ADVICE and (kind is FaultKind.EXPIRED or not known):
        return KIND_ADVICE[kind]
    return known or (KMS_ADVICE if code.startswith("KMS.") else NO_ADVICE)


def unsent_headers(parameters: Iterable[tuple[str, str]], sent: Collection[str]) -> tuple[str, ...]:
    """The headers that a presigned URL's signature covers and that are not `sent` (names in small letters).

    `parameters`: of its query. Without one of these headers the signature can't match. What is no header's
    name is left out, and of many the rest.
    """
    signed = [
        name for key, value in parameters if key.lower() in _SIGNED_HEADERS for name in value.split(";")
    ]
    names = [name.strip().lower() for name in signed]
    missing = dict.fromkeys(name for name in names if _HEADER_NAME.fullmatch(name) and name not in sent)
    return tuple(missing)[:_MOST_HEADERS]
