"""One row of a truth table a line."""

import pytest

from tasks.core.signs import (
    InBucket,
    InRegistry,
    Retrieved,
    SafeToDelete,
    SeenObject,
    SentObject,
    Sides,
    Sign,
    StudyStanding,
    exit_code,
    judge_asked,
    judge_listed,
    may_go,
    safe_to_delete,
    sign_of,
    verdict,
)

B, R, C = InBucket, InRegistry, Retrieved
NOT_COMPARED = "not compared with the registry's copy, for the file is not any more what was sent"
MD5, OTHER_MD5 = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    ("sides", "sign", "words"),
    [
        (Sides(), "=", "confirmed, by its name alone"),
        (Sides(bucket=B.SAME), "=", "confirmed, its bytes were compared"),
        (Sides(bucket=B.THERE), "=", "confirmed, by its name alone"),
        (Sides(bucket=B.SAME, registry=R.THERE), "=", "confirmed, its bytes were compared"),
        (Sides(registry=R.THERE, retrieved=C.SAME), "=", "confirmed, its bytes were compared"),
        (Sides(registry=R.MISSING), "-", "not in the registry"),
        (Sides(bucket=B.SAME, registry=R.MISSING), "-", "not in the registry"),
        (
            Sides(bucket=B.UNKNOWN, registry=R.MISSING),
            "-",
            "not in the registry; the bucket gave no certain answer",
        ),
        (Sides(bucket=B.MISSING), "b", "not in the bucket"),
        (Sides(bucket=B.MISSING, registry=R.THERE), "b", "not in the bucket"),
        (Sides(bucket=B.MISSING, registry=R.MISSING), "b", "neither in the bucket nor in the registry"),
        (
            Sides(bucket=B.MISSING, registry=R.UNKNOWN),
            "b",
            "not in the bucket; the registry gave no certain answer",
        ),
        (Sides(bucket=B.MISSING, is_conflict=True), "b", "not in the bucket"),
        (Sides(bucket=B.DIFFERS), "*", "the bucket has other bytes"),
        (
            Sides(bucket=B.DIFFERS, registry=R.MISSING),
            "*",
            "the bucket has other bytes; not in the registry",
        ),
        (
            Sides(bucket=B.SAME, registry=R.ONE_OF_SEVERAL),
            "*",
            "stored files with other bytes have its UID, and the registry has one of them",
        ),
        (
            Sides(registry=R.THERE, retrieved=C.DIFFERS, difference="pixel data"),
            "*",
            "the registry's copy differs: pixel data",
        ),
        (Sides(retrieved=C.DIFFERS, difference="data set"), "*", "the registry's copy differs: data set"),
        (Sides(registry=R.ELSEWHERE), "*", "the registry has it in another study"),
        (Sides(is_conflict=True), "*", "the registry has other bytes, as ingest found"),
        (
            Sides(registry=R.THERE, is_conflict=True),
            "*",
            "the registry has other bytes, as ingest found",
        ),
        (Sides(bucket=B.UNKNOWN, registry=R.THERE), "!", "the bucket gave no certain answer"),
        (Sides(bucket=B.SAME, registry=R.UNKNOWN), "!", "the registry gave no certain answer"),
        (
            Sides(registry=R.THERE, retrieved=C.UNKNOWN),
            "!",
            "the registry's copy could not be retrieved",
        ),
        (
            Sides(bucket=B.SAME, registry=R.THERE, retrieved=C.NO_SOURCE),
            "=",
            f"confirmed, its bytes were compared; {NOT_COMPARED}",
        ),
        (
            Sides(is_stored=False, registry=R.THERE),
            "+",
            "in the registry, and the report does not call it stored",
        ),
        (Sides(is_stored=False, registry=R.MISSING), None, ""),
        (Sides(is_stored=False), None, ""),
    ],
)
def test_an_instance_has_one_sign_and_its_words(sides: Sides, sign: str | None, words: str) -> None:
    assert sign_of(sides) == sign
    assert verdict(sides) == words


SENT = SentObject(100, MD5, f'"{MD5}"', "crc=")
ENCRYPTED = SentObject(100, "", f'"{MD5}"', "crc=")  # an ETag that was no MD5 when it was sent
UNKNOWN_SIZE = SentObject(None, "", "", "")


@pytest.mark.parametrize(
    ("sent", "seen", "listed", "asked"),
    [
        (SENT, SeenObject(100, f'"{MD5}"'), B.SAME, B.SAME),
        (SENT, SeenObject(100, MD5.upper()), B.SAME, B.SAME),
        (SENT, SeenObject(99, f'"{MD5}"'), B.DIFFERS, B.DIFFERS),
        (SENT, SeenObject(100, f'"{OTHER_MD5}"', "crc="), None, B.SAME),
        (SENT, SeenObject(100, f'"{OTHER_MD5}"', "other="), None, B.DIFFERS),
        (SENT, SeenObject(100, f'"{OTHER_MD5}"'), None, B.DIFFERS),
        (SENT, SeenObject(100, f'"{OTHER_MD5}-2"'), None, B.THERE),
        (SENT, SeenObject(100, ""), None, B.THERE),
        (ENCRYPTED, SeenObject(100, f'"{MD5}"'), None, B.THERE),
        (ENCRYPTED, SeenObject(100, f'"{OTHER_MD5}"'), None, B.THERE),
        (ENCRYPTED, SeenObject(100, f'"{OTHER_MD5}"', "crc="), None, B.SAME),
        (ENCRYPTED, SeenObject(100, f'"{OTHER_MD5}"', "other="), None, B.DIFFERS),
        (UNKNOWN_SIZE, SeenObject(100, f'"{MD5}"', "crc="), None, B.THERE),
    ],
)
def test_an_object_is_judged_by_what_vouches_for_its_bytes(
    sent: SentObject, seen: SeenObject, listed: InBucket | None, asked: InBucket
) -> None:
    assert judge_listed(sent, seen) == listed
    assert judge_asked(sent, seen) == asked


@pytest.mark.parametrize(
    ("status", "reason", "goes"),
    [
        ("uploaded", "", True),
        ("uploaded", "truncated", True),
        ("already_uploaded", "", True),
        ("duplicate", "", True),
        ("not_dicom", "dicomdir", True),
        ("not_dicom", "empty", True),
        ("not_dicom", "text", True),
        ("not_dicom", "system_file", True),
        ("not_dicom", "archive", False),
        ("not_dicom", "other", False),
        ("conflict", "", False),
        ("invalid", "truncated", False),
        ("missing", "not_found", False),
    ],
)
def test_a_row_lets_its_directory_go(status: str, reason: str, goes: bool) -> None:
    assert may_go(status, reason) is goes


def standing(**other: int) -> StudyStanding:
    """Three instances of which all is proved, but for what a row says."""
    counts = {"instances": 3, "registered": 3, "in_bucket": 3, "confirmed": 3, "compared": 3}
    said = {"is_complete": True, "rows_may_go": True, "bucket_asked": True}
    return StudyStanding(**{**said, **counts, **other})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("study", "is_unchanged", "safe"),
    [
        (standing(), True, "yes"),
        (standing(in_bucket=0, bucket_asked=False), True, "yes"),  # each retrieved and compared
        (standing(compared=2), True, "unknown"),
        (standing(in_bucket=0, bucket_asked=False, compared=0), True, "unknown"),
        (standing(), False, "no"),
        (standing(compared=2), False, "no"),
        (standing(is_complete=False), True, "no"),
        (standing(rows_may_go=False), True, "no"),
        (standing(registered=2), True, "no"),
        (standing(in_bucket=2), True, "no"),
        (standing(confirmed=2), True, "no"),
        (standing(instances=0, registered=0, in_bucket=0, confirmed=0, compared=0), True, "no"),
    ],
)
def test_a_directory_may_go_when_every_clause_holds(
    study: StudyStanding, is_unchanged: bool, safe: str
) -> None:
    assert safe_to_delete(study, is_unchanged=is_unchanged) == SafeToDelete(safe)


@pytest.mark.parametrize(
    ("by_sign", "unknown", "stopped", "code"),
    [
        ({Sign.EVERYWHERE: 3}, 0, None, 0),
        ({Sign.EVERYWHERE: 3, Sign.REGISTRY_ALONE: 2}, 0, None, 0),
        ({Sign.NOT_REGISTERED: 1}, 0, None, 1),
        ({Sign.NOT_IN_BUCKET: 1}, 0, None, 1),
        ({Sign.DIFFERS: 1}, 0, None, 1),
        ({Sign.UNKNOWN: 1}, 1, None, 3),
        ({Sign.NOT_IN_BUCKET: 1}, 1, None, 3),  # what the registry says of it is not known
        ({}, 0, None, 0),
        ({Sign.UNKNOWN: 5}, 5, 4, 4),
    ],
)
def test_a_verification_ends_with(
    by_sign: dict[str, int], unknown: int, stopped: int | None, code: int
) -> None:
    assert exit_code(by_sign, unknown, stopped) == code
