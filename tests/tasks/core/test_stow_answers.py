"""What answers to STOW-RS mean, held against recorded ones, and the rules of each server."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.stow_answers import InstanceAnswer, instance_answers, names_any
from tasks.core.stow_profiles import OTHER, PROFILES, STANDARD, Profile, Said
from tasks.dicomweb_settings import DicomwebServer
from tests.odd_instances import ROOT

RECORDED = Path(__file__).parents[2] / "data" / "stow"
EXISTS, LATER, REJECTED, STORED, UNKNOWN = Said.EXISTS, Said.LATER, Said.REJECTED, Said.STORED, Said.UNKNOWN
CONFLICT = Said.CONFLICT
FOREIGN = f"{ROOT}.2.1.9"


def uid(number: int) -> str:
    return f"{ROOT}.1.1.{number}"


def recorded(name: str) -> tuple[int, bytes]:
    head, _, body = (RECORDED / f"{name}.http").read_bytes().partition(b"\n\n")
    return int(head.split()[1]), body


def answers(name: str, sent: list[str], server: str = "") -> list[InstanceAnswer]:
    status, body = recorded(name)
    profile = PROFILES.get(server or name.partition("-")[0], PROFILES["generic"])
    return instance_answers(profile, status, body, sent)


A, B, C = (uid(number) for number in (1, 2, 3))
U_LATER = (UNKNOWN, EXISTS, LATER)
U_REJECTED = (UNKNOWN, EXISTS, REJECTED)
IS_STORED = (STORED, STORED, STORED)


def same(said: Said) -> tuple[Said, Said, Said]:
    return said, said, said


# The answer, the instances that were sent, and of each what is said and what it becomes, there and absent.
TABLE = [
    ("orthanc-200-stored", [A, B, C], [IS_STORED] * 3),
    ("orthanc-200-stored-xml", [A, B, C], [IS_STORED] * 3),
    ("orthanc-200-other-bytes", [A], [IS_STORED]),
    ("orthanc-200-filtered", [uid(4)], [IS_STORED]),
    ("orthanc-200-not-stored", [uid(6)], [U_LATER]),
    ("orthanc-400-one-unreadable", [A, B], [IS_STORED, U_REJECTED]),
    ("orthanc-400-unreadable", [A], [U_REJECTED]),
    ("orthanc-400-truncated", [A], [U_REJECTED]),
    ("orthanc-400-one-without-series", [A, uid(5)], [IS_STORED, same(REJECTED)]),
    ("orthanc-409-one-of-another-study", [A, FOREIGN], [IS_STORED, U_REJECTED]),
    ("orthanc-409-one-of-another-study-xml", [A, FOREIGN], [IS_STORED, U_REJECTED]),
    ("orthanc-409-another-study", [FOREIGN], [U_REJECTED]),
    ("tinypacs-200-stored", [A, B, C], [IS_STORED] * 3),
    ("tinypacs-409-again", [A], [U_REJECTED]),
    ("tinypacs-202-mixed", [A, uid(4), FOREIGN], [U_REJECTED, IS_STORED, U_REJECTED]),
    ("tinypacs-409-unreadable", [A], [U_REJECTED]),
    ("tinypacs-202-one-unreadable", [uid(5), A], [IS_STORED, U_REJECTED]),
    ("azure-200-stored", [A, B], [IS_STORED] * 2),
    ("azure-202-one-already-stored", [A, B], [IS_STORED, same(EXISTS)]),
    ("azure-409-already-stored", [A, B], [same(EXISTS)] * 2),
    ("azure-409-being-created", [A], [same(LATER)]),
    ("azure-409-invalid-without-uid", [A], [same(REJECTED)]),
    ("azure-409-invalid-without-uid", [A, B], [U_REJECTED] * 2),  # which of the two it is, nobody says
    ("azure-202-warning", [A], [IS_STORED]),
    ("google-200-same-bytes", [A], [IS_STORED]),
    ("google-409-other-bytes", [A], [(UNKNOWN, CONFLICT, REJECTED)]),
    ("google-409-other-bytes-xml", [A], [(UNKNOWN, CONFLICT, REJECTED)]),
    ("google-409-invalid-without-uid-xml", [A], [(UNKNOWN, CONFLICT, REJECTED)]),
    ("dcm4chee-202-mixed", [A, B, C], [IS_STORED, same(REJECTED), U_REJECTED]),
    ("dcm4chee-409-out-of-resources", [A], [same(LATER)]),
    ("dcm4chee-409-not-authorized", [A], [same(REJECTED)]),
    ("dcm4chee-409-cannot-understand", [A], [same(REJECTED)]),
    ("healthimaging-200-stored", [A], [IS_STORED]),
    ("healthimaging-202-mixed", [A, B], [IS_STORED, U_REJECTED]),
    ("generic-202-mixed", [A, B, C], [IS_STORED, same(REJECTED), same(REJECTED)]),
    ("generic-202-empty", [A, B], [U_LATER] * 2),
    ("generic-204", [A], [U_LATER]),
    ("generic-503-retry-after", [A], [U_LATER]),
    ("generic-200-html", [A], [U_LATER]),
    ("generic-200-binary", [A], [U_LATER]),
    ("generic-200-half", [A], [U_LATER]),
    ("generic-200-error-object", [A], [U_LATER]),
    ("generic-202-reason-as-text", [A, B, C], [IS_STORED, U_REJECTED, same(LATER)]),
    ("generic-202-reason-without-value", [A, B, C], [IS_STORED, U_REJECTED, U_REJECTED]),
    ("generic-202-sequences-without-value", [A], [U_LATER]),
    ("generic-202-list-and-small-letters", [A, B], [IS_STORED, same(REJECTED)]),
    ("generic-202-other-failures", [A, B], [IS_STORED, same(REJECTED)]),
    ("generic-202-other-failures-small-letters", [A, B], [IS_STORED, same(REJECTED)]),
    ("generic-202-more-failures-than-instances", [A, B], [IS_STORED, U_LATER]),
    ("generic-202-other-failures-of-two-kinds", [A, B], [U_REJECTED] * 2),
    ("generic-200-in-both", [A], [U_LATER]),
    ("generic-200-warning", [A], [IS_STORED]),
    ("generic-500-with-stored", [A, B], [IS_STORED, U_LATER]),
]


class TestRecordedAnswers:
    @pytest.mark.parametrize(("name", "sent", "expected"), TABLE)
    def test_mean(self, name: str, sent: list[str], expected: list[tuple[Said, Said, Said]]) -> None:
        found = answers(name, sent)
        assert [each.sop_instance_uid for each in found] == sent
        assert [
            (each.said, each.settled(is_there=True), each.settled(is_there=False)) for each in found
        ] == expected

    def test_are_all_in_the_table(self) -> None:
        assert {path.stem for path in RECORDED.glob("*.http")} == {name for name, *_ in TABLE}

    def test_of_every_server_there_are_some(self) -> None:
        assert {name.partition("-")[0] for name, *_ in TABLE} >= {*DicomwebServer}

    @pytest.mark.parametrize(("name", "sent", "_expected"), TABLE)
    def test_pass_nothing_on_that_the_server_wrote(
        self, name: str, sent: list[str], _expected: object
    ) -> None:
        """UIDs and texts stay where they are: details go to logs and reports."""
        for each in answers(name, sent):
            assert re.fullmatch(r"[a-z_]*( [a-z_]+)?( http_\d{3}| [0-9A-F]{4})?", each.detail)

    @pytest.mark.parametrize(
        ("name", "detail"),
        [
            ("azure-409-already-stored", "already_stored B00E"),
            ("azure-409-being-created", "being_created B00F"),
            ("google-409-other-bytes", "processing_failure 0110"),
            ("generic-202-empty", "not_named http_202"),
            ("generic-200-in-both", "in_both_sequences http_200"),
            ("generic-200-warning", "warning coerced B000"),
            ("azure-202-warning", "warning does_not_match_sop_class B007"),
        ],
    )
    def test_are_said_in_closed_words(self, name: str, detail: str) -> None:
        assert answers(name, [A])[0].detail == detail

    def test_that_name_no_instance_are_known(self) -> None:
        """A status without a body is a fault of the request, if it is no 2xx."""
        assert not names_any(answers("generic-503-retry-after", [A]))
        assert names_any(answers("generic-500-with-stored", [A, B]))

    def test_upstreams_1_7_says_200_to_the_same_failures(self) -> None:
        _, body = recorded("orthanc-409-one-of-another-study")
        found = instance_answers(PROFILES["orthanc"], 200, body, [A, FOREIGN])
        assert [each.said for each in found] == [STORED, UNKNOWN]


ONE_FAILED = '{"00081198": {"Value": [{"00081155": {"Value": ["1.2"]}, "00081197": {"Value": [%s]}}]}}'


class TestRules:
    @pytest.mark.parametrize(
        ("code", "said"),
        [
            (0x0110, UNKNOWN),
            (0x0111, EXISTS),
            (0x0117, REJECTED),
            (0x0119, CONFLICT),
            (0x0122, REJECTED),
            (0x0124, REJECTED),
            (0x0213, LATER),
            (0xA6FF, UNKNOWN),
            (0xA700, LATER),
            (0xA7FF, LATER),
            (0xA800, UNKNOWN),
            (0xA900, REJECTED),
            (0xA9FF, REJECTED),
            (0xC000, REJECTED),
            (0xC122, REJECTED),
            (0xCFFF, REJECTED),
            (45070, UNKNOWN),  # Azure's alone
            (0, UNKNOWN),
            (70_000, UNKNOWN),
            (-1, UNKNOWN),
            ("true", UNKNOWN),
            ("272.5", UNKNOWN),
            ("[272]", UNKNOWN),
            ('{"a": 1}', UNKNOWN),
            ("null", UNKNOWN),
        ],
    )
    def test_of_the_standard(self, code: object, said: Said) -> None:
        body = (ONE_FAILED % code).encode()
        assert [each.said for each in instance_answers(PROFILES["generic"], 202, body, ["1.2"])] == [said]

    @pytest.mark.parametrize("written", ["45070", '"45070"', "45070.0", '"0xB00E"', '"B00E"', '"b00e "'])
    def test_a_code_is_read_however_it_is_written(self, written: str) -> None:
        (answer,) = instance_answers(PROFILES["azure"], 409, (ONE_FAILED % written).encode(), ["1.2"])
        assert (answer.said, answer.code) == (EXISTS, 0xB00E)

    def test_there_is_a_profile_for_each_server_of_the_settings(self) -> None:
        assert set(PROFILES) == {*DicomwebServer}

    @pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
    def test_each_has_its_clause(self, profile: Profile) -> None:
        rules = (*profile.rules, *STANDARD, OTHER)
        assert all(len(rule.clause) > 10 and rule.word and rule.first <= rule.last for rule in rules)
        assert all(getattr(profile, each.name) for each in fields(profile) if each.name.endswith("_clause"))


class TestAnyBody:
    @given(st.binary(max_size=400), st.sampled_from([200, 202, 400, 409, 503]))
    def test_has_one_answer_for_each_instance(self, body: bytes, status: int) -> None:
        found = instance_answers(PROFILES["generic"], status, body, [A, B])
        assert [each.sop_instance_uid for each in found] == [A, B]

    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 200_000,
            b'{"00081199":' * 20_000,
            b"<Item>" * 200_000,
            b"<NativeDicomModel>" + b'<DicomAttribute tag="00081199"><Item>' * 20_000,
            b'<!DOCTYPE x [<!ENTITY a "&b;&b;&b;">]><NativeDicomModel><Value>&a;</Value></NativeDicomModel>',
            b'<Value "' * 50_000,
            b"<Value number='" + b"1" * 500_000,
            b"</Item>" * 10_000 + b"<NativeDicomModel/>",
            b'{"00081199": {"Value": 7}, "00081198": {"Value": [7, [8], null]}}',
            b'{"00081199": [], "00081198": "x"}',
        ],
    )
    def test_that_is_odd_is_read_quickly_and_says_nothing(self, body: bytes) -> None:
        assert [each.said for each in instance_answers(PROFILES["generic"], 200, body, [A])] == [UNKNOWN]
