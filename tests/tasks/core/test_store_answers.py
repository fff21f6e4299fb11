"""What a presigned URL signs and nobody sends; codes that may be shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.store_answers import error_code, kind_of_answer, unsent_headers

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


@given(st.integers(100, 599), st.text(max_size=80), st.text(max_size=80))
def test_any_answer_means_something_or_nothing(status: int, code: str, text: str) -> None:
    """Whatever comes raises nothing."""
    assert kind_of_answer(status, error_code(f"<Code>{code}</Code>"), text) or status
