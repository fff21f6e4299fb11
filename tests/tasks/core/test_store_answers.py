"""What a presigned URL signs and nobody sends; codes that may be shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import FaultKind
from tasks.core.store_answers import (
    ADVICE,
    KIND_ADVICE,
    KMS_ADVICE,
    NO_ADVICE,
    advice,
    error_code,
    kind_of_answer,
    unsent_headers,
)

SENT = {"host", "content-type"}


@pytest.mark.parametrize(
    ("parameters", "missing"),
    [
        ([], ()),
        ([("X-Amz-SignedHeaders", "host")], ()),
        ([("X-Amz-SignedHeaders", "content-type;host")], ()),
        ([("X-Amz-SignedHeaders", "host;x-amz-acl;x-amz-acl")], ("x-amz-acl",)),
        ([("x-amz-signedheaders", "Host; X-Amz-Acl")], ("x-amz-acl",)),
        ([("X-Goog-SignedHeaders", "host;x-goog-meta-a")], ("x-goog-meta-a",)),
        ([("X-Amz-SignedHeaders", "host;Doe^Jane;x y;/archive;é;" + "a" * 65)], ()),
        ([("X-Amz-SignedHeaders", ";".join(f"h{n}" for n in range(99)))], tuple(f"h{n}" for n in range(10))),
        ([("Signature", "x-amz-acl")], ()),
    ],
)
def test_signed_headers_that_are_not_sent_are_named(
    parameters: list[tuple[str, str]], missing: tuple[str, ...]
) -> None:
    """A few, and nothing that is no header's name."""
    assert unsent_headers(parameters, SENT) == missing


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("KMS.ThrottlingException", "KMS.ThrottlingException"),
        ("\n SlowDown\t", "SlowDown"),
        ("AWS.Simple.NonExistent", "AWS.Simple.NonExistent"),
        ("KMS.", ""),
        (".Throttling", ""),
        ("KMS..Throttling", ""),
        ("1.2.840.10008", ""),
        ("A." * 40 + "B", ""),
    ],
)
def test_a_code_may_have_dots(written: str, code: str) -> None:
    assert error_code(f"<Error><Code>{written}</Code></Error>") == code


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("NoSuchBucket", FaultKind.REJECTED, ADVICE["NoSuchBucket"]),
        ("XMinioStorageFull", FaultKind.SERVER, ADVICE["QuotaExceeded"]),
        ("InternalError", FaultKind.SERVER, KIND_ADVICE[FaultKind.SERVER]),
        ("KMS.ThrottlingException", FaultKind.THROTTLED, KIND_ADVICE[FaultKind.THROTTLED]),
        ("KMS.DisabledException", FaultKind.REJECTED, KMS_ADVICE),
        ("AccessDenied", FaultKind.EXPIRED, KIND_ADVICE[FaultKind.EXPIRED]),
        ("", FaultKind.INTEGRITY, ADVICE["BadDigest"]),
        ("", FaultKind.REJECTED, NO_ADVICE),
        ("Unheard", FaultKind.REFUSED, NO_ADVICE),
    ],
)
def test_what_to_do_goes_by_the_code_and_else_by_the_kind(code: str, kind: FaultKind, said: str) -> None:
    assert advice(code, kind) == said


@given(st.integers(100, 599), st.text(max_size=80), st.text(max_size=80))
def test_any_answer_means_something_or_nothing(status: int, code: str, text: str) -> None:
    """Whatever comes raises nothing."""
    assert kind_of_answer(status, error_code(f"<Code>{code}</Code>"), text) or status
