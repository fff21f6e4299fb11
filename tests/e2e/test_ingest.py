"""`dicom-ingest ingest` as a process, and real files: from an S3 store into Orthanc, and back by WADO-RS."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from itertools import count
from pathlib import Path

import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient

from tasks.comparison.instance_comparison import difference
from tasks.core.models import Header
from tasks.ingest_settings import load_ingest
from tasks.run.registration import register
from tasks.source.dicom_header import examine
from tests.object_store import ObjectStore, object_store
from tests.odd_instances import instance
from tests.orthanc import Orthanc, needs_orthanc, orthanc
from tests.processes import free_port

pytestmark = needs_orthanc
_numbers = count(1)


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def store(whole_store: ObjectStore, only_our_settings: None) -> ObjectStore:
    return ObjectStore(whole_store.client, f"in-{next(_numbers)}/", whole_store.environment)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def rows_of(report_dir: Path) -> dict[str, dict[str, str]]:
    with (report_dir / "registration.csv").open(newline="") as file:
        return {row["key"].rpartition("/")[2]: row for row in csv.DictReader(file)}


class TestCommand:
    @pytest.fixture
    def environment(self, store: ObjectStore, registry: Orthanc, tmp_path: Path) -> dict[str, str]:
        """As after `. sandbox.env`."""
        ours = {
            "DICOM_INGEST_BUCKET": store.address,
            "DICOM_INGEST_DICOMWEB_URL": registry.dicomweb_url,
            "DICOM_INGEST_DICOMWEB_SERVER": "orthanc",
        }
        return os.environ | store.environment | ours

    def run(self, environment: dict[str, str], tmp_path: Path, *options: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *options],
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        return done.returncode, done.stdout

    @pytest.mark.long
    def test_runs_without_options_and_is_safe_to_run_twice(
        self,
        environment: dict[str, str],
        store: ObjectStore,
        registry: Orthanc,
        tmp_path: Path,
        prefect_home: Path,
    ) -> None:
        environment["PREFECT_HOME"] = str(prefect_home)
        bodies = {f"k{number}": instance(number, study_number=77) for number in range(1, 6)}
        for key, body in bodies.items():
            store.put(key, body)
        store.put("bad", b"no DICOM")
        code, said = self.run(environment, tmp_path, "ingest")
        assert code == 1, said
        assert "6 objects: 5 registered, 1 quarantined" in said
        assert f"Report: {tmp_path / 'report' / 'registration.csv'}" in said
        assert not any(key in said for key in bodies), "no key is said"
        store.remove("bad")
        code, said = self.run(environment, tmp_path, "ingest", "--stow-parallel", "4", "--after", "move")
        assert code == 0, said
        assert "5 already_registered" in said
        assert store.keys() == []
        code, said = self.run(environment, tmp_path, "audit")
        assert code == 0, said

    @pytest.mark.parametrize(
        ("changes", "code", "what"),
        [
            ({"DICOM_INGEST_BUCKET": ""}, 2, "BUCKET is not given"),
            ({"DICOM_INGEST_DICOMWEB_URL": "http://127.0.0.1:1"}, 2, "The DICOMweb server can't be used"),
            ({"DICOM_INGEST_BUCKET": "s3://nobucket"}, 2, "NoSuchBucket"),
            ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 4, "The bucket refuses the credentials"),
            ({"DICOM_INGEST_STOW_PARALLEL": "9"}, 2, "--stow-parallel"),
            ({"DICOM_INGEST_AFTER": "tag"}, 2, "has no tags"),
        ],
    )
    def test_says_in_a_sentence_what_keeps_it_from_its_start(
        self,
        changes: dict[str, str],
        code: int,
        what: str,
        environment: dict[str, str],
        store: ObjectStore,
        tmp_path: Path,
    ) -> None:
        store.put("k", instance(1, study_number=78))
        found, said = self.run(environment | changes, tmp_path, "ingest")
        assert (found, what in said) == (code, True), said
        assert not (tmp_path / "report").exists()
        assert "Traceback" not in said


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of odd values
def test_real_files_come_back_as_they_are(store: ObjectStore, registry: Orthanc, tmp_path: Path) -> None:
    """With private tags, several frames and every transfer syntax that pydicom has a file of."""
    bodies: dict[str, bytes] = {}
    uids: set[str] = set()
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        body = path.read_bytes()
        found = examine(BytesIO(body), len(body), path.name)
        is_new = isinstance(found, Header) and found.sop_instance_uid not in uids
        if is_new and isinstance(found, Header) and found.study_instance_uid and found.sop_class_uid:
            uids.add(found.sop_instance_uid)
            bodies[store.put(path.name, body)] = body
    settings = load_ingest(
        bucket=store.address,
        dicomweb_url=registry.dicomweb_url,
        dicomweb_server="orthanc",
        report_dir=tmp_path / "report",
    )
    summary = register(settings)
    rows = rows_of(tmp_path / "report")
    registered = {key: row for key, row in rows.items() if row["status"] == "registered"}
    assert summary.by_status["registered"] == len(registered) > 30
    print(summary.by_status, [row for row in rows.values() if row["status"] != "registered"])
    assert set(summary.by_status) <= {"registered", "quarantined", "rejected"}
    client = DICOMwebClient(registry.dicomweb_url)
    for key, row in registered.items():
        body = bodies[store.prefix + key]
        ours = pydicom.dcmread(BytesIO(body))
        theirs = client.retrieve_instance(
            row["study_instance_uid"],
            str(ours.SeriesInstanceUID),
            row["sop_instance_uid"],
            media_types=(("application/dicom", "*"),),
        )
        assert theirs.get("PixelData") == ours.get("PixelData"), key
        private = {each.tag: each.value for each in ours if each.tag.is_private}
        assert {each.tag: each.value for each in theirs if each.tag.is_private} == private, key
        assert difference(BytesIO(body), BytesIO(registry.file(row["sop_instance_uid"]))) == "", key


def test_what_orthanc_s_filter_refuses_is_rejected(store: ObjectStore, tmp_path: Path) -> None:
    """Orthanc itself answers that all of it is stored."""
    script = tmp_path / "filter.lua"
    script.write_text(
        "function ReceivedInstanceFilter(dicom, origin, info)\n"
        "  return string.sub(dicom.SOPInstanceUID, -1) ~= '3'\nend\n"
    )
    for number in range(1, 6):
        store.put(f"filtered-{number}", instance(number, study_number=90))
    with orthanc(tmp_path, LuaScripts=[str(script)]) as registry:
        settings = load_ingest(
            bucket=store.address,
            dicomweb_url=registry.dicomweb_url,
            dicomweb_server="orthanc",
            report_dir=tmp_path / "report",
        )
        summary = register(settings)
        assert len(registry.instances()) == 4
    rows = rows_of(tmp_path / "report")
    assert summary.by_status == {"registered": 4, "rejected": 1}
    assert [row["detail"] for row in rows.values() if row["status"] == "rejected"] == ["not_kept"]


def test_a_registry_that_is_restarted_costs_no_object(store: ObjectStore, tmp_path: Path) -> None:
    """It is killed in the middle, and comes back on the same port with what it has stored."""
    for study in range(1, 13):
        for number in range(1, 6):
            store.put(f"{study:02}-{number}", instance(number, study_number=100 + study))
    home, port = tmp_path / "orthanc", free_port()
    home.mkdir()
    ours = {
        "DICOM_INGEST_BUCKET": store.address,
        "DICOM_INGEST_DICOMWEB_URL": f"http://127.0.0.1:{port}/dicom-web",
        "DICOM_INGEST_DICOMWEB_SERVER": "orthanc",
        "DICOM_INGEST_REPORT_DIR": str(tmp_path / "report"),
        "DICOM_INGEST_STOW_PARALLEL": "1",
    }
    program = "from tasks.ingest_settings import load_ingest; from tasks.run.registration import register; "
    program += "import sys; sys.exit(register(load_ingest()).exit_code)"
    with orthanc(home, port=port) as first, (tmp_path / "said").open("w") as said:
        environment = os.environ | store.environment | ours
        process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=said)
        while len(first.instances()) < 10 and process.poll() is None:
            pass
        first.kill()
    with orthanc(home, port=port) as second:
        assert process.wait(240) == 0, (tmp_path / "said").read_text()
        assert len(second.instances()) == 60
    assert {row["status"] for row in rows_of(tmp_path / "report").values()} == {"registered"}
