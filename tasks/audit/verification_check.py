"""Whether what a verification wrote beside a report is as the trail, and its certificate, say."""

import os
from collections.abc import Mapping

from tasks.audit.audited import Audited
from tasks.audit.certificate import read_certificate
from tasks.report.directory import (
    REPAIRS,
    STUDIES_CSV,
    VERIFICATION,
    VERIFICATION_CERTIFICATE_JSON,
    VERIFICATION_CERTIFICATE_SIG,
)
from tasks.report.regular_file import sha256_of
from tasks.report.report_page import REPORT_HTML


def check_verification(audited: Audited, verified: Mapping[str, str]) -> None:
    """`verified`: by name, what the trail says of the last verification of this report; empty without one.

    The repairs may have been moved to where they are carried out.
    """
    directory, found = audited.report_dir, audited.found
    own = (VERIFICATION_CERTIFICATE_JSON, VERIFICATION_CERTIFICATE_SIG)
    there = [name for name in (*VERIFICATION, *REPAIRS) if os.path.lexists(directory / name)]
    if not verified:
        if any(name in VERIFICATION for name in there):
            found.add_fault("The trail does not know the verification that lies beside the report.")
        return
    certificate = read_certificate(directory, VERIFICATION_CERTIFICATE_JSON)
    if certificate is None:
        found.add_fault(
            f"There is no {VERIFICATION_CERTIFICATE_JSON} that can be read: the last verification did not "
            "end, or it was removed. Verify the report again."
        )
    elif certificate.sha256 != verified:
        found.add_fault(
            f"{VERIFICATION_CERTIFICATE_JSON} is of an earlier verification: the last one did not end. "
            "Verify the report again."
        )
    for name in sorted({*verified, *there} - {*own, STUDIES_CSV, REPORT_HTML}):
        try:
            sha256 = sha256_of(directory / name)
        except OSError as error:
            if name not in REPAIRS or os.path.lexists(directory / name):
                found.add_fault(f"{name} can't be read: {os.strerror(error.errno or 0)}.")
            continue
        if sha256 != verified.get(name):
            found.add_fault(f"{name} is not as it was when the report was verified.")
