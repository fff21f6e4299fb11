"""certificate.json: what a run reported, in digests, for the operator to sign and to keep elsewhere.

openssl genpkey -algorithm ed25519 -out key.pem            # the operator's key: DICOM_INGEST_SIGNING_KEY
openssl pkey -in key.pem -pubout -out public.pem
openssl pkeyutl -verify -rawin -pubin -inkey public.pem -in certificate.json -sigfile certificate.sig
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks.core.audit_chain import Chain
from tasks.core.errors import UsageError
from tasks.core.models import Summary
from tasks.ledger.private_files import opened, read_private
from tasks.report.directory import CERTIFICATE_JSON, CERTIFICATE_SIG, FILES, private_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_SUMMED: Final = ("run_id", "campaign", "files", "bytes", "by_status", "studies", "complete_studies")
_TIMED: Final = ("started_at", "finished_at", "exit_code")


def write_certificate(
    report_dir: Path, summary: Summary, chain: Chain, key: "Ed25519PrivateKey | None" = None
) -> None:
    """Writes it beside the report and, with a key, its signature: Ed25519 (RFC 8032) over its bytes."""
    facts: dict[str, Any] = {name: getattr(summary, name) for name in (*_SUMMED, *_TIMED)}
    facts["sha256"] = {name: sha256_of(report_dir / name) for name in FILES}
    facts["audit"] = {"lines": chain.lines, "head": chain.head}
    certificate = json.dumps(facts, indent=2).encode() + b"\n"
    with private_file(report_dir, CERTIFICATE_JSON) as file:
        file.write(certificate)
    if key is not None:
        with private_file(report_dir, CERTIFICATE_SIG) as file:
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


def read_certificate(report_dir: Path) -> Certificate | None:
    """The certificate of a report; None when there is none that can be read."""
    try:
        content = read_private(report_dir / CERTIFICATE_JSON)
        facts = json.loads(content)
        audit = facts["audit"]
        return Certificate(
            content, facts["run_id"], dict(facts["sha256"]), int(audit["lines"]), audit["head"]
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_signed(certificate: Certificate, report_dir: Path, key: "Ed25519PublicKey") -> bool:
    """Whether certificate.sig is this key's signature over the certificate."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(read_private(report_dir / CERTIFICATE_SIG), certificate.content)
    except (OSError, InvalidSignature):
        return False
    return True


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hex; empty when it can't be read."""
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
