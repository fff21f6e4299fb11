"""Whether what `ingest` wrote beside a report is as its certificate says."""

import os
from pathlib import Path

from tasks.audit.certificate import read_certificate
from tasks.audit.findings import Findings
from tasks.report.registration_report import REGISTRATION_CERTIFICATE, REGISTRATION_FILES
from tasks.report.regular_file import sha256_of


def check_registration(directory: Path, found: Findings) -> None:
    """Adds what is not; nothing where `ingest` has not written."""
    if not any(os.path.lexists(directory / name) for name in (*REGISTRATION_FILES, REGISTRATION_CERTIFICATE)):
        return
    certificate = read_certificate(directory, REGISTRATION_CERTIFICATE)
    if certificate is None:
        found.add_fault(
            f"There is no {REGISTRATION_CERTIFICATE} that can be read: the last ingest did not end, or it "
            "was removed. Run ingest again."
        )
        return
    for name in REGISTRATION_FILES:
        try:
            sha256 = sha256_of(directory / name)
        except OSError as error:
            found.add_fault(f"{name} can't be read: {os.strerror(error.errno or 0)}.")
            continue
        if certificate.sha256.get(name) != sha256:
            found.add_fault(f"{name} is not as it was when its certificate was written.")
