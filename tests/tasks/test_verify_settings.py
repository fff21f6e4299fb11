"""What verify is asked to hold a report against."""

import pytest

from tasks.core.errors import UsageError
from tasks.declaration import load_as
from tasks.verify_settings import Sample, VerifySettings


@pytest.mark.parametrize(
    ("deep", "sample"),
    [
        ("", Sample()),
        ("20", Sample(20)),
        ("5%", Sample(0, 5.0)),
        ("0.5%", Sample(0, 0.5)),
        ("100%", Sample(0, 100)),
    ],
)
def test_deep_is_a_number_of_instances_or_a_part_of_them(
    deep: str, sample: Sample, only_our_settings: None
) -> None:
    assert load_as(VerifySettings, dicomweb_url="http://127.0.0.1/", deep=deep).sample == sample


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "BUCKET or DICOMWEB_URL has to say what the report is held against"),
        ({"bucket": "s3://bucket", "deep": "5"}, "DEEP needs a DICOMWEB_URL"),
        ({"dicomweb_url": "http://127.0.0.1", "deep": "101%"}, "--deep"),
        ({"dicomweb_url": "http://127.0.0.1", "deep": "some"}, "--deep"),
        ({"dicomweb_url": "http://pacs.example.org"}, "DICOMWEB_URL"),
        ({"dicomweb_url": "https://user:secret@pacs.example.org"}, "DICOMWEB_URL must not contain a user"),
    ],
)
def test_what_is_wrong_is_said_without_the_value(
    given: dict[str, str], fault: str, only_our_settings: None
) -> None:
    with pytest.raises(UsageError, match=fault) as caught:
        load_as(VerifySettings, **given)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2
