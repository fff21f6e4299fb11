"""The certificate of a run, and its signature."""

import subprocess
from pathlib import Path

import pytest

from tasks.audit.certificate import public_key
from tasks.audit.check import audit
from tasks.core.errors import UsageError
from tests.conftest import Dicom, NearSide
from tests.tasks.audit.report_dirs import edit


class TestCertificate:
    @pytest.fixture
    def keys(self, tmp_path: Path) -> tuple[Path, Path]:
        """Made by openssl, as README says."""
        private, public = tmp_path / "key.pem", tmp_path / "public.pem"
        for command in (
            ["genpkey", "-algorithm", "ed25519", "-out", private],
            ["pkey", "-in", private, "-pubout", "-out", public],
        ):
            subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
        return private, public

    def test_is_signed_as_openssl_verifies_it(
        self, near_side: NearSide, dicom: Dicom, keys: tuple[Path, Path]
    ) -> None:
        private, public = keys
        near_side.put("study/1", dicom("1.1"))
        near_side.run(signing_key=private)
        verify = ["-verify", "-rawin", "-pubin", "-inkey", str(public)]
        files = ["-in", "certificate.json", "-sigfile", "certificate.sig"]
        subprocess.run(["openssl", "pkeyutl", *verify, *files], check=True, cwd=near_side.report_dir)
        found = audit(near_side.report_dir, public_key(public))
        assert (found.faults, found.signed) == ([], True)
        edit(near_side.report_dir / "certificate.json", lambda text: text + " ")
        assert "certificate.sig is no signature" in audit(near_side.report_dir, public_key(public)).faults[-1]

    def test_needs_a_key_that_is_one(self, near_side: NearSide, dicom: Dicom, tmp_path: Path) -> None:
        """Known before anything is sent."""
        near_side.put("study/1", dicom("1.1"))
        (tmp_path / "key.pem").write_text("no key")
        with pytest.raises(UsageError, match="DICOM_INGEST_SIGNING_KEY"):
            near_side.run(signing_key=tmp_path / "key.pem")

    def test_of_an_earlier_run_moves_with_its_report(
        self, near_side: NearSide, dicom: Dicom, keys: tuple[Path, Path]
    ) -> None:
        near_side.put("study/1", dicom("1.1"))
        near_side.run(signing_key=keys[0])
        near_side.run()
        (earlier,) = (near_side.report_dir / "runs").iterdir()
        assert {path.name for path in earlier.iterdir()} >= {"certificate.json", "certificate.sig"}
        assert not (near_side.report_dir / "certificate.sig").exists()
        found = audit(earlier, public_key(keys[1]))
        assert (found.faults, found.signed) == ([], True)

    def test_of_an_earlier_run_that_somebody_changed_is_found_by_the_next_run_and_by_audit(
        self, near_side: NearSide, dicom: Dicom, keys: tuple[Path, Path]
    ) -> None:
        """Its signature tells; without the key nobody would know."""
        near_side.put("study/1", dicom("1.1"))
        for _ in range(2):
            near_side.run(signing_key=keys[0])
        (earlier,) = (near_side.report_dir / "runs").iterdir()
        edit(earlier / "certificate.json", lambda text: text + " ")
        with pytest.raises(UsageError, match="signature is not one by DICOM_INGEST_SIGNING_KEY"):
            near_side.run(signing_key=keys[0])
        assert audit(near_side.report_dir).faults == []
        (fault,) = audit(near_side.report_dir, public_key(keys[1])).faults
        assert "has a signature that is not of this key" in fault
