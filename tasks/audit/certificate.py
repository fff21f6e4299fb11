"""certificate.json: what a run reported, in digests, for the operator to sign and to keep elsewhere.

openssl genpkey -algorithm ed25519 -out key.pem            # the operator's key: DICOM_INGEST_SIGNING_KEY
openssl pkey -in key.pem -pubout -out public.pem
openssl pkeyutl -verify -rawin -pubin -inkey public.pem -in certificate.json -sigfile certificate.sig
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks.core.audit_chain import Chain
from tasks.core.errors import UsageError
from tasks.report.directory import (
    CERTIFICATE_JSON,
    CERTIFICATE_SIG,
    RUNS,
    STUDIES_CSV,
    VERIFICATION_CERTIFICATE_JSON,
    VERIFICATION_CERTIFICATE_SIG,
    Written,
    earlier_reports,
    private_file,
)
from tasks.report.registration_report import (
    REGISTRATION_CERTIFICATE,
    REGISTRATION_SIG,
    WrittenRegistration,
)
from tasks.report.regular_file import read_regular
from tasks.report.report_page import REPORT_HTML, digest_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_RUN: Final = ("run_id", "campaign", "api_host", "storage_hosts", "manifest_sha256", "root")
_SUMMED: Final = ("files", "bytes", "by_status", "studies", "complete_studies")
_TIMED: Final = ("started_at", "finished_at", "exit_code")
_LARGEST: Final = 16 << 20  # bytes
# What certificates there are over a trail, and their signatures.
_SIGNATURES: Final = {
    CERTIFICATE_JSON: CERTIFICATE_SIG,
    VERIFICATION_CERTIFICATE_JSON: VERIFICATION_CERTIFICATE_SIG,
    REGISTRATION_CERTIFICATE: REGISTRATION_SIG,
}


def write_certificate(
    report_dir: Path,
    written: Written,
    chain: Chain,
    trail_bytes: int,
    key: "Ed25519PrivateKey | None" = None,
) -> None:
    """Writes it beside the report and, with a key, its signature: Ed25519 (RFC 8032) over its bytes.

    It has the digests of what was `written`, whatever lies in the directory by now, and where the trail ends:
    its lines, the hash of the last, its size. `unvouched`: for so many files no checksum of the store's does.
    `digest`: by which the report's page names it.
    """
    facts: dict[str, Any] = {name: getattr(written.summary, name) for name in (*_RUN, *_SUMMED, *_TIMED)}
    facts["unvouched"] = written.unvouched
    facts["digest"] = digest_of(written.sha256)
    facts["sha256"] = written.sha256
    _write(report_dir, CERTIFICATE_JSON, facts, chain, trail_bytes, key)


def write_registration_certificate(
    report_dir: Path,
    written: WrittenRegistration,
    chain: Chain,
    trail_bytes: int,
    key: "Ed25519PrivateKey | None" = None,
) -> None:
    """The same of a run of `ingest`, over registration.csv and registration.json."""
    facts = asdict(written.summary)
    del facts["problems"]
    facts["sha256"] = written.sha256
    _write(report_dir, REGISTRATION_CERTIFICATE, facts, chain, trail_bytes, key)


def write_verification_certificate(
    report_dir: Path,
    facts: dict[str, Any],
    sha256: dict[str, str],
    chain: Chain,
    trail_bytes: int,
    key: "Ed25519PrivateKey | None" = None,
) -> None:
    """The same of a verification, beside the report that it is of: with the digests of what it wrote.

    It wrote studies.csv and the page anew: what the report's own certificate says of them is superseded.
    """
    report = read_certificate(report_dir)
    before = report.sha256 if report else {}
    superseded = {"supersedes": {name: before.get(name, "") for name in (STUDIES_CSV, REPORT_HTML)}}
    found = facts | superseded | {"digest": digest_of(sha256), "sha256": sha256}
    _write(report_dir, VERIFICATION_CERTIFICATE_JSON, found, chain, trail_bytes, key)


def _write(
    report_dir: Path,
    name: str,
    facts: dict[str, Any],
    chain: Chain,
    trail_bytes: int,
    key: "Ed25519PrivateKey | None",
) -> None:
    audit = {"lines": chain.lines, "head": chain.head, "bytes": trail_bytes}
    certificate = json.dumps(facts | {"audit": audit}, indent=2).encode() + b"\n"
    (report_dir / _SIGNATURES[name]).unlink(missing_ok=True)  # of an earlier one
    with private_file(report_dir, name) as file:
        file.write(certificate)
    if key is not None:
        with private_file(report_dir, _SIGNATURES[name]) as file:
            file.write(key.sign(certificate))


def signing_key(path: Path | None) -> "Ed25519PrivateKey | None":
    """The operator's key: PEM, PKCS#8, not encrypted. UsageError when it is anything else."""
    if path is None:
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            "DICOM_INGEST_SIGNING_KEY is no file with an Ed25519 key in PEM without a password. Nothing was "
            "sent. `openssl genpkey -algorithm ed25519 -out key.pem` makes one."
        )
    return key


def public_key(path: Path) -> "Ed25519PublicKey":
    """The public half of a signing key, in PEM. UsageError when it is anything else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError("--public-key is no file with an Ed25519 public key in PEM.")
    return key


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as it was read. A signature is over `content`."""

    content: bytes
    run_id: str
    sha256: dict[str, str]
    lines: int
    head: str
    trail_bytes: int  # where the trail's line ends; 0: an earlier version did not say
    digest: str = ""  # by which the report's page names it; empty: an earlier version wrote no page


def read_certificate(report_dir: Path, name: str = CERTIFICATE_JSON) -> Certificate | None:
    """The certificate of a report; None when there is none that can be read."""
    try:
        content = read_regular(report_dir / name, _LARGEST)
        facts = json.loads(content)
        audit, sha256 = facts["audit"], dict(facts["sha256"])
        certificate = Certificate(
            content,
            facts["run_id"],
            sha256,
            int(audit["lines"]),
            audit["head"],
            int(audit.get("bytes", 0)),
            str(facts.get("digest", "")),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    texts = (certificate.run_id, certificate.head, *sha256.values())
    is_sound = all(isinstance(text, str) for text in texts) and certificate.lines > 0
    return certificate if is_sound and certificate.trail_bytes >= 0 else None


def certificates_of(report_dir: Path) -> Iterator[tuple[str, Certificate | None]]:
    """Every certificate over the trail of a directory, by its path there: of its reports and verifications.

    None: it is there, and can't be read. Raises OSError when it can't be known which there are.
    """
    homes = [report_dir, *earlier_reports(report_dir)]
    for home, name in ((home, name) for home in homes for name in _SIGNATURES):
        if os.path.lexists(home / name):
            place = name if home == report_dir else f"{RUNS}/{home.name}/{name}"
            yield place, read_certificate(home, name)


def is_of_verification(place: str) -> bool:
    """Whether the certificate at this path is one."""
    return place.rpartition("/")[2] == VERIFICATION_CERTIFICATE_JSON


def is_of_registration(place: str) -> bool:
    """Whether the certificate at this path is of a run of `ingest`."""
    return place.rpartition("/")[2] == REGISTRATION_CERTIFICATE


def has_signature(certificate_json: Path) -> bool:
    """Whether one lies beside a certificate."""
    return os.path.lexists(certificate_json.with_name(_SIGNATURES[certificate_json.name]))


def is_signed(certificate: Certificate, certificate_json: Path, key: "Ed25519PublicKey") -> bool:
    """Whether what lies beside it is this key's signature over the certificate."""
    from cryptography.exceptions import InvalidSignature

    try:
        signature = certificate_json.with_name(_SIGNATURES[certificate_json.name])
        key.verify(read_regular(signature, _LARGEST), certificate.content)
    except (OSError, InvalidSignature):
        return False
    return True
