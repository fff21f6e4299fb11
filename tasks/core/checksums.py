"""Whether a store holds what was sent: what its answers show, and what that proves. Pure.

| the answer shows                                | judged by                    | a difference is       |
| ----------------------------------------------- | ---------------------------- | --------------------- |
| x-amz-checksum-crc64nvme of the full object     | that                         | an integrity fault    |
| else an ETag that may be an MD5                 | that                         | see `StoreChecksums`  |
| else x-amz-request-id, and Content-MD5 was sent | S3, before it stored the PUT | its answer, BadDigest |
| else                                            | nothing                      |                       |

An ETag may be an MD5 when it has 32 hex digits and no header says that the object is encrypted so that it is
none: with keys of KMS or of the customer's own, or by another cloud.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Self

from tasks.core.models import Digests, Proof

FIRST_FILES: Final = 8  # so many have to differ before a store's ETags count as no MD5
_PUTS: Final = 2  # and each of them so often

_HEX_MD5: Final = re.compile(r"[0-9a-f]{32}\Z")
_BASE64_CRC64: Final = re.compile(r"[A-Za-z0-9+/]{11}=\Z")
_ENCRYPTION: Final = "x-amz-server-side-encryption"
_CUSTOMER_KEY: Final = f"{_ENCRYPTION}-customer-algorithm"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an answer to a PUT shows of the object that it stored."""

    crc64nvme: str = ""  # base64; of the full object
    md5: str = ""  # lower-case hex: the ETag, where it may be an MD5
    is_s3: bool = False  # it has S3's name for a request: Content-MD5 is checked there

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """By an answer's headers, whose names are in lower case or found in any."""
        crc64nvme = headers.get("x-amz-checksum-crc64nvme", "").strip()
        full_object = headers.get("x-amz-checksum-type", "FULL_OBJECT").strip().upper() == "FULL_OBJECT"
        etag = headers.get("etag", "").strip().strip('"').lower()
        return cls(
            crc64nvme if full_object and _BASE64_CRC64.match(crc64nvme) else "",
            etag if _HEX_MD5.match(etag) and not _is_encrypted(headers) else "",
            is_s3=bool(headers.get("x-amz-request-id", "").strip()),
        )

    @property
    def needs_md5(self) -> bool:
        """Whether an MD5 is what this has to be compared with."""
        return bool(self.md5 and not self.crc64nvme)


class Doubt(Enum):
    """Why an answer proves nothing yet."""

    DIFFERS = auto()  # the file is to be sent again
    UNDECIDED = auto()  # whether ETags are MD5s here, other files' answers have to show first


class StoreChecksums:
    """What a run learns from the answers to its PUTs. To be used by one thread at a time.

    As long as one ETag of the run has matched, one that differs is an integrity fault. As long as none has:

    | an ETag differs from the MD5                                   | then                                |
    | -------------------------------------------------------------- | ----------------------------------- |
    | without Content-MD5, or the first time with it                 | DIFFERS: it is sent again           |
    | the second time, of fewer than eight such files                | UNDECIDED: it waits for the others  |
    | the second time, of the eighth file                            | ETags are no MD5 here               |
    | fewer than eight, and nothing else is under way: `decide`      | ETags are no MD5 here               |

    Where they are none, S3's check of Content-MD5 is all there is.
    """

    def __init__(self) -> None:
        self._md5_wanted: dict[str, bool] = {}  # by host, as its newest answer says
        self._newest = True
        self._matched = False  # an ETag of the run
        self._no_md5 = False  # ETags look like MD5s, and are none
        self._differing: Counter[int] = Counter()  # PUTs with Content-MD5, by file, while that is undecided
        self._unchecked: Counter[int] = Counter()  # the same of those without

    def wants_md5(self, host: str = "") -> bool:
        """Whether an MD5 of what is sent to this host is worth taking; without one: of a file to come."""
        return self._md5_wanted.get(host, True) if host else self._newest

    @property
    def is_undecided(self) -> bool:
        """Whether an UNDECIDED file has to wait."""
        return not self._matched and not self._no_md5

    def is_certain(self, file_id: int) -> bool:
        """Whether what DIFFERS for this file can't turn out to be no fault."""
        return not self.is_undecided or self._unchecked[file_id] >= _PUTS

    def decide(self) -> None:
        """No file is under way but those that wait: they are all that there are."""
        self._no_md5 = self._no_md5 or self.is_undecided

    def judge(
        self, file_id: int, host: str, evidence: Evidence, digests: Digests, *, with_content_md5: bool
    ) -> Proof | Doubt:
        """What a 2xx answer proves of a file; `digests` have an MD5 where `evidence.needs_md5`.

        `with_content_md5`: it was sent, and so not refused. A file that was UNDECIDED is judged again, with
        the same, once that is decided.
        """
        self._learn(host, evidence)
        has_matched = bool(evidence.md5) and evidence.md5 == digests.md5
        self._matched = self._matched or has_matched
        if evidence.crc64nvme:
            return Proof.CRC64NVME if evidence.crc64nvme == digests.crc64nvme else Doubt.DIFFERS
        if has_matched:
            return Proof.ETAG
        if evidence.md5:
            return self._judge_other_etag(file_id, with_content_md5=with_content_md5)
        return Proof.CONTENT_MD5 if with_content_md5 and evidence.is_s3 else Proof.NOTHING

    def _learn(self, host: str, evidence: Evidence) -> None:
        self._newest = not evidence.crc64nvme and (bool(evidence.md5) or evidence.is_s3)
        self._md5_wanted[host] = self._newest

    def _judge_other_etag(self, file_id: int, *, with_content_md5: bool) -> Proof | Doubt:
        if self.is_undecided:
            if not with_content_md5:  # again and again, as to SigV2 URLs: nothing will decide that
                self._unchecked[file_id] += 1
                return Doubt.DIFFERS
            self._differing[file_id] += 1
            if self._differing[file_id] < _PUTS:
                return Doubt.DIFFERS
            self._no_md5 = sum(count >= _PUTS for count in self._differing.values()) >= FIRST_FILES
            if self.is_undecided:
                return Doubt.UNDECIDED
        self._differing.clear()
        self._unchecked.clear()
        if self._matched:
            return Doubt.DIFFERS
        return Proof.OTHER_ETAG if with_content_md5 else Proof.NOTHING


def _is_encrypted(headers: Mapping[str, str]) -> bool:
    """So that an ETag is no MD5. S3's own keys (AES256) leave it one."""
    if headers.get(_ENCRYPTION, "").strip().lower().startswith("aws:kms") or headers.get(_CUSTOMER_KEY):
        return True
    names = (name.lower() for name in headers)
    return any("encrypt" in name and not name.startswith("x-amz-") for name in names)
