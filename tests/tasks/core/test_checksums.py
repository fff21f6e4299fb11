"""Whether a store holds what was sent: what an answer shows, what it proves, and when an MD5 is computed."""

import pytest

from tasks.core.checksums import FIRST_FILES, Doubt, Evidence, StoreChecksums
from tasks.core.models import Digests, Proof

MD5, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
CRC, OTHER_CRC = "rosUhgp5mIg=", "AAAAAAAAAAA="
SENT = Digests("ab" * 32, MD5, CRC)
KMS = {"x-amz-server-side-encryption": "aws:kms"}
S3 = {"x-amz-request-id": "4442587FB7D0A2F9"}
HOST = "storage.example.org:443"


def etag(md5: str) -> dict[str, str]:
    return {"etag": f'"{md5}"'}


def crc(value: str, kind: str = "FULL_OBJECT") -> dict[str, str]:
    return {"x-amz-checksum-crc64nvme": value, "x-amz-checksum-type": kind}


class TestEvidence:
    @pytest.mark.parametrize(
        "headers",
        [
            etag(MD5),
            etag(MD5.upper()),
            {"etag": MD5},
            etag(MD5) | {"x-amz-server-side-encryption": "AES256"},
        ],
    )
    def test_is_an_etag_that_may_be_an_md5(self, headers: dict[str, str]) -> None:
        """With S3's own keys, too; whether in quotes or not."""
        assert Evidence.of(headers) == Evidence(md5=MD5)

    @pytest.mark.parametrize(
        "headers",
        [
            etag(f"{MD5}-2"),
            etag(MD5[:-1]),
            {"etag": f'W/"{MD5}"'},
            {},
            etag(MD5) | KMS,
            etag(MD5) | {"x-amz-server-side-encryption": "aws:kms:dsse"},
            etag(MD5) | {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
            etag(MD5) | {"x-goog-encryption-kms-key-name": "projects/p/keyRings/r/cryptoKeys/k"},
            etag(MD5) | {"X-Goog-Encryption-Algorithm": "AES256"},
            etag(MD5) | {"x-ms-server-encrypted": "true"},
            etag(MD5) | {"x-oss-server-side-encryption": "KMS"},
        ],
    )
    def test_is_no_etag_of_parts_or_of_an_object_encrypted_with_other_keys(
        self, headers: dict[str, str]
    ) -> None:
        """It may have 32 hex digits all the same."""
        assert Evidence.of(headers) == Evidence()

    def test_is_the_crc_of_the_full_object(self) -> None:
        """A PUT's is; one that is said to be of parts, or is no CRC64NVME, is none."""
        assert Evidence.of(crc(f" {CRC} ")).crc64nvme == CRC
        assert Evidence.of({"x-amz-checksum-crc64nvme": CRC}).crc64nvme == CRC
        for headers in (crc(CRC, "COMPOSITE"), crc("AAAA"), crc(""), crc(f"{CRC}, {CRC}"), crc(f"{CRC}-2")):
            assert Evidence.of(headers).crc64nvme == ""

    def test_needs_an_md5_where_an_etag_is_all_there_is(self) -> None:
        """Also in an answer that comes when MD5s are not computed any more."""
        assert Evidence.of(etag(MD5)).needs_md5
        assert not Evidence.of(etag(MD5) | crc(CRC)).needs_md5
        assert not Evidence.of(etag(MD5) | KMS).needs_md5


class Judge:
    """A run's answers, one after another; each file is a number."""

    def __init__(self) -> None:
        self.rules = StoreChecksums()

    def __call__(
        self, headers: dict[str, str], file_id: int = 1, host: str = HOST, content_md5: bool = True
    ) -> Proof | Doubt:
        evidence = Evidence.of(headers)
        return self.rules.judge(file_id, host, evidence, SENT, with_content_md5=content_md5)


@pytest.fixture
def judge() -> Judge:
    return Judge()


class TestJudge:
    @pytest.mark.parametrize(
        ("headers", "found"),
        [
            (crc(CRC), Proof.CRC64NVME),
            (crc(OTHER_CRC), Doubt.DIFFERS),
            (crc(CRC) | etag(OTHER) | KMS | S3, Proof.CRC64NVME),
            (crc(OTHER_CRC) | etag(OTHER) | KMS | S3, Doubt.DIFFERS),
            (crc(CRC) | etag(OTHER), Proof.CRC64NVME),
            (crc(OTHER_CRC) | etag(MD5), Doubt.DIFFERS),
            (etag(MD5), Proof.ETAG),
            (etag(MD5) | S3, Proof.ETAG),
            (etag(OTHER), Doubt.DIFFERS),
            (etag(OTHER) | KMS | S3, Proof.CONTENT_MD5),
            (etag(OTHER) | KMS, Proof.NOTHING),
            (S3, Proof.CONTENT_MD5),
            ({}, Proof.NOTHING),
            (crc(CRC, "COMPOSITE") | S3, Proof.CONTENT_MD5),
        ],
    )
    def test_of_a_first_answer(self, judge: Judge, headers: dict[str, str], found: Proof | Doubt) -> None:
        """The table at the head of the module, with Content-MD5 sent."""
        assert judge(headers) is found

    @pytest.mark.parametrize("headers", [S3, S3 | KMS | etag(OTHER)])
    def test_without_content_md5_nothing_vouches_where_no_checksum_is(
        self, judge: Judge, headers: dict[str, str]
    ) -> None:
        """Nothing was there for S3 to check."""
        assert judge(headers, content_md5=False) is Proof.NOTHING


class TestOtherEtag:
    def test_is_a_fault_once_one_has_matched(self, judge: Judge) -> None:
        """However often it is sent, and whichever host answers."""
        judge(etag(MD5), file_id=1)
        assert {judge(etag(OTHER), file_id=2) for _ in range(9)} == {Doubt.DIFFERS}
        assert judge(etag(OTHER), file_id=3, host="another:443", content_md5=False) is Doubt.DIFFERS

    def test_of_eight_files_each_sent_twice_says_that_etags_are_none(self, judge: Judge) -> None:
        """The eighth decides; whoever waited, and all that come, have S3's check alone."""
        files = range(1, FIRST_FILES + 1)
        assert {judge(etag(OTHER), file_id) for file_id in files} == {Doubt.DIFFERS}
        found = [judge(etag(OTHER), file_id) for file_id in files]
        assert found == [*[Doubt.UNDECIDED] * (FIRST_FILES - 1), Proof.OTHER_ETAG]
        assert not judge.rules.is_undecided
        assert {judge(etag(OTHER), file_id) for file_id in range(1, 20)} == {Proof.OTHER_ETAG}
        assert judge(etag(OTHER), 20, content_md5=False) is Proof.NOTHING

    def test_of_fewer_files_says_so_when_they_are_all(self, judge: Judge) -> None:
        """Until then they wait."""
        assert [judge(etag(OTHER)), judge(etag(OTHER))] == [Doubt.DIFFERS, Doubt.UNDECIDED]
        assert judge.rules.is_undecided
        judge.rules.decide()
        assert not judge.rules.is_undecided
        assert judge(etag(OTHER)) is Proof.OTHER_ETAG

    def test_that_waits_is_a_fault_when_another_file_s_matches(self, judge: Judge) -> None:
        """Whichever of the two was first."""
        assert [judge(etag(OTHER), 1), judge(etag(OTHER), 1)] == [Doubt.DIFFERS, Doubt.UNDECIDED]
        assert judge(etag(MD5), 2) is Proof.ETAG
        judge.rules.decide()
        assert judge(etag(OTHER), 1) is Doubt.DIFFERS

    def test_without_content_md5_never_counts(self, judge: Judge) -> None:
        """Nobody vouches for such a file: it is sent again until its budget is spent."""
        found = {judge(etag(OTHER), file_id, content_md5=False) for file_id in [*range(20), *range(20)]}
        assert found == {Doubt.DIFFERS}
        assert judge.rules.is_undecided

    def test_is_a_fault_again_when_one_matches_after_all(self, judge: Judge) -> None:
        """What is said of eight files does not outweigh a proof."""
        for file_id in [*range(FIRST_FILES), *range(FIRST_FILES)]:
            judge(etag(OTHER), file_id)
        assert judge(etag(MD5), 98) is Proof.ETAG
        assert judge(etag(OTHER), 99) is Doubt.DIFFERS


class TestMd5:
    """Whether it is wanted for the next file, by the newest answer of the host."""

    def test_is_wanted_of_a_host_that_has_not_answered(self, judge: Judge) -> None:
        assert judge.rules.wants_md5(HOST)
        assert judge.rules.wants_md5()

    @pytest.mark.parametrize(
        ("headers", "wanted"),
        [
            (crc(CRC) | S3, False),
            (crc(CRC) | S3 | etag(MD5), False),
            (crc(OTHER_CRC) | S3, False),
            (etag(MD5), True),
            (etag(OTHER), True),
            (S3, True),
            (S3 | KMS | etag(OTHER), True),
            (KMS | etag(OTHER), False),
            ({}, False),
            (etag("0x8D9"), False),
        ],
    )
    def test_is_wanted_where_it_is_compared_or_checked(
        self, judge: Judge, headers: dict[str, str], wanted: bool
    ) -> None:
        judge(headers)
        assert judge.rules.wants_md5(HOST) is judge.rules.wants_md5() is wanted
        assert judge.rules.wants_md5("another:443")

    def test_is_wanted_again_when_a_host_shows_no_crc_any_more(self, judge: Judge) -> None:
        """Several servers may answer under one name."""
        judge(crc(CRC) | S3)
        judge(etag(MD5) | S3)
        assert judge.rules.wants_md5(HOST)
