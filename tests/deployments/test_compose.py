"""deployments/compose.yaml and Dockerfile: linters, and what no linter knows; without an engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings.legacy import _get_valid_setting_names
from prefect.settings.models.root import Settings as PrefectSettings

from tasks.declaration import variables
from tasks.known_settings import KINDS

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
BIN = Path(sys.executable).parent
COMPOSE_SCHEMA = (str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec")
ENVIRONMENT = {
    line.partition("=")[0]: "secret"
    for line in (DEPLOYMENTS / "example.env").read_text().splitlines()
    if line.endswith("=") and not line.startswith("#")
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
    return loaded


def checked(*command: str, **environment: str) -> None:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.processes
class TestLinters:
    def test_the_dockerfile_passes(self) -> None:
        checked(str(BIN / "hadolint"), str(DEPLOYMENTS / "Dockerfile"))

    def test_the_compose_file_passes(self) -> None:
        """The specification's schema; and the client itself, where there is one."""
        checked(*COMPOSE_SCHEMA, str(DEPLOYMENTS / "compose.yaml"))
        if shutil.which("docker") and subprocess.run(["docker", "compose", "version"]).returncode == 0:
            compose = ("docker", "compose", "--file", str(DEPLOYMENTS / "compose.yaml"))
            checked(*compose, "config", "--quiet", **ENVIRONMENT)

    def test_a_wrong_compose_file_would_not(self, tmp_path: Path) -> None:
        (tmp_path / "compose.yaml").write_text("services: {one: {imge: x}}\n")
        with pytest.raises(AssertionError, match="imge"):
            checked(*COMPOSE_SCHEMA, str(tmp_path / "compose.yaml"))


@pytest.mark.processes
class TestServices:
    def test_are_pinned_and_not_root(self, compose: dict[str, Any]) -> None:
        """Versions to the last number, in images that run here and in those that ours are built from."""
        images = [service["image"] for service in compose["services"].values()]
        images += re.findall(r"^FROM (\S+:\S+)", (DEPLOYMENTS / "Dockerfile").read_text(), re.MULTILINE)
        assert images
        assert [image for image in images if not re.search(r":\d+\.\d+(\.\d+)?(-\w+)*$", image)] == []
        for name, service in compose["services"].items():
            assert "build" in service or service["user"] not in ("root", "0"), name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
        stages = (DEPLOYMENTS / "Dockerfile").read_text().split("FROM ")
        assert [stage.split()[0] for stage in stages if "CMD" in stage and "USER 10001" not in stage] == []

    def test_have_health_checks_and_wait_for_them(self, compose: dict[str, Any]) -> None:
        """All but the one that ends."""
        services = compose["services"]
        assert [name for name in services if "healthcheck" not in services[name]] == ["deploy"]
        for service in services.values():
            for name, condition in service.get("depends_on", {}).items():
                expected = "service_completed_successfully" if name == "deploy" else "service_healthy"
                assert condition == {"condition": expected}

    def test_are_told_nothing_that_nobody_knows(self, compose: dict[str, Any]) -> None:
        """A setting with a wrong name is ignored without a word."""
        ours = {name for kind in KINDS for name in variables(kind)}
        prefect = _get_valid_setting_names(PrefectSettings)
        others = {"PGPASSWORD", "RCLONE_CONFIG", "RCLONE_AUTH_KEY"}
        others |= {"AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        told = {
            name
            for key, service in compose["services"].items()
            for name in service.get("environment", {})
            if key != "postgres"
        }
        assert told - ours - prefect - others == set()

    def test_are_one_chain(self, compose: dict[str, Any]) -> None:
        """What the gateway stores ingest reads, and where it registers the gateway's clients search."""
        worker, gateway = (compose["services"][name]["environment"] for name in ("worker", "sandbox"))
        sandbox = "DICOM_INGEST_SANDBOX_"
        assert worker["DICOM_INGEST_BUCKET"] == f"${{BUCKET:-s3://{gateway[f'{sandbox}BUCKET']}}}"
        assert gateway[f"{sandbox}S3_ENDPOINT"] in worker["AWS_ENDPOINT_URL_S3"]
        assert gateway[f"{sandbox}SECRET_ACCESS_KEY"] == worker["AWS_SECRET_ACCESS_KEY"]
        for name in ("URL", "SERVER", "USER", "PASSWORD"):
            assert gateway[f"{sandbox}DICOMWEB_{name}"] in worker[f"DICOM_INGEST_DICOMWEB_{name}"], name
        orthanc = yaml.safe_load(compose["configs"]["orthanc.json"]["content"])
        assert gateway[f"{sandbox}DICOMWEB_PASSWORD"] in orthanc["RegisteredUsers"].values()
        assert gateway[f"{sandbox}DICOMWEB_URL"].endswith(orthanc["DicomWeb"]["Root"].rstrip("/"))

    def test_have_every_secret_from_the_environment_file(self, compose: dict[str, Any]) -> None:
        text = (DEPLOYMENTS / "compose.yaml").read_text()
        assert set(re.findall(r"\$\{(\w+):\?", text)) == set(ENVIRONMENT)
        secrets = [
            value
            for service in compose["services"].values()
            for name, value in service.get("environment", {}).items()
            if re.search("PASSWORD|SECRET|AUTH_KEY", name)
        ]
        assert secrets
        assert [secret for secret in secrets if "${" not in secret] == []

    @pytest.mark.parametrize("name", ["prefect", "worker", "store"])
    def test_are_started_as_their_programs_have_it(self, compose: dict[str, Any], name: str) -> None:
        """Each option of the command is one that the program's help names."""
        command: list[str] = compose["services"][name]["command"]
        program = str(rclone() if command[0] == "rclone" else BIN / command[0])
        words = [word for word in command[1:4] if re.fullmatch(r"[a-z]\w*", word)]
        told = subprocess.run([program, *words, "--help"], capture_output=True, text=True, check=True).stdout
        for option in (word for word in command if word.startswith("--")):
            assert option in told, option

    def test_mount_only_what_the_image_has(self, compose: dict[str, Any]) -> None:
        """A volume at a path that the image lacks would belong to root."""
        dockerfile = (DEPLOYMENTS / "Dockerfile").read_text()
        for service in compose["services"].values():
            for volume in service.get("volumes", []) if "build" in service else []:
                path = volume.removesuffix(":ro").rpartition(":")[2]
                assert volume.endswith(":ro") or f" {path}" in dockerfile, volume


def rclone() -> Path:
    from deployments.sandbox.storage import rclone_binary

    return Path(rclone_binary())
