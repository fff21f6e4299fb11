"""The DICOMweb client against Orthanc: pydicom's real files, stored, found, retrieved as they were sent."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydantic import SecretStr

from tasks.comparison.instance_comparison import difference
from tasks.core.errors import CredentialsRefusedError, Fault, FaultKind
from tasks.core.models import Header
from tasks.core.stow_profiles import Said
from tasks.dicomweb_settings import DicomwebServer
from tasks.remote.dicomweb import Part
from tasks.source.dicom_header import examine
from tests.dicomweb_side import instance_of
from tests.odd_instances import instance, study
from tests.orthanc import PASSWORD, USER, Orthanc, needs_orthanc, orthanc
from tests.second_opinion import originals
from tests.tasks.remote.test_dicomweb import Client

pytestmark = [pytest.mark.processes, needs_orthanc]
MANY = study(7, study_number=5)
CONTESTED = instance(1, study_number=6)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc"), with_user=True) as started:
        yield started


@pytest.fixture
def client(server: Orthanc) -> Iterator[Client]:
    talk = client_of(server)
    yield talk
    talk.close()


def client_of(server: Orthanc, password: str = PASSWORD) -> Client:
    return Client(
        server.dicomweb_url,
        dicomweb_server=DicomwebServer.ORTHANC,
        dicomweb_user=USER,
        dicomweb_password=SecretStr(password),
    )


def real_files() -> list[tuple[Header, bytes]]:
    """What an upload would have sent of those that pydicom and pynetdicom ship."""
    found = []
    for original in originals(most_bytes=1_000_000):
        data = original.content
        header = examine(BytesIO(data), len(data), "image.dcm")
        if isinstance(header, Header) and header.study_instance_uid and header.series_instance_uid:
            found.append((header, data))
    return found


def test_real_files_come_back_as_they_were_sent(tmp_path: Path) -> None:
    """Private tags, odd lengths, each compression: the data set and each fragment of the pixels."""
    sent = real_files()
    assert len(sent) > 60
    back = 0
    with orthanc(tmp_path, OverwriteInstances=True) as started:
        talk = Client(started.dicomweb_url, dicomweb_server=DicomwebServer.ORTHANC)
        for header, data in sent:
            back += stored_and_retrieved(talk, header, data)
        talk.close()
    assert back > 0.95 * len(sent)


def stored_and_retrieved(talk: Client, header: Header, data: bytes) -> bool:
    """Whether the server takes it; then it has to be the same."""
    uids = (header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)
    part = Part(len(data), lambda: [data])
    (answer,) = talk.run(lambda each: each.store(uids[0], [part], [uids[2]]))
    if answer.said is not Said.STORED:
        return False
    file = BytesIO()
    talk.run(lambda each: each.retrieve(*uids, file))
    assert difference(BytesIO(data), file) == ""
    return True


def test_private_tags_and_pixels_are_the_same_bytes(server: Orthanc, client: Client) -> None:
    data = instance(1, study_number=4, pixels=bytes(range(128)))
    client.store(data, study_uid=instance_of(data).study)
    seen = client.run(lambda each: each.find_instance(instance_of(data).uid))
    assert seen is not None
    file = BytesIO()
    client.run(lambda each: each.retrieve(seen.study_uid, seen.series_uid, seen.sop_instance_uid, file))
    there = pydicom.dcmread(BytesIO(file.getvalue()))
    assert there[0x00091001].value == "private creator's own"
    assert there.PixelData == bytes(range(128))
    assert server.file(seen.sop_instance_uid) == data


def test_other_bytes_under_a_uid_are_said_to_be_stored_and_are_not(client: Client) -> None:
    """So the profile says that it has to be asked first, and compared."""
    seen = instance_of(CONTESTED)
    client.store(CONTESTED, study_uid=seen.study)
    (answer,) = client.store(instance(1, study_number=6, PatientName="Other^Case"), study_uid=seen.study)
    assert answer.said is Said.STORED
    assert client.client.profile.keeps_old_silently
    file = BytesIO()
    client.run(lambda each: each.retrieve(seen.study, seen.series, seen.uid, file))
    assert difference(BytesIO(CONTESTED), file) == ""
    other = BytesIO(instance(1, study_number=6, PatientName="Other^Case"))
    assert difference(other, file) == "data set (0010,0010)"


def test_a_study_is_found_page_by_page_and_what_is_deleted_is_missed(server: Orthanc, client: Client) -> None:
    uids = [instance_of(data).uid for data in MANY]
    study_uid = instance_of(MANY[0]).study
    client.store(*MANY, study_uid=study_uid)
    found = client.paging(3).run(lambda each: each.instances(study_uid))
    assert (found.uids, found.related, found.is_whole) == (frozenset(uids), 7, True)
    server.delete(uids[3])
    found = client.run(lambda each: each.instances(study_uid))
    assert (found.uids, found.related) == (frozenset(uids) - {uids[3]}, 6)
    assert not client.run(lambda each: each.has_instance(study_uid, uids[3]))
    assert client.run(lambda each: each.has_instance(study_uid, uids[4]))
    assert client.run(lambda each: each.find_instance(uids[3])) is None


def test_what_can_not_be_read_is_named_nowhere(client: Client) -> None:
    """With 400, though the other one was stored."""
    data = instance(1, study_number=7)
    seen = instance_of(data)
    parts = [Part(len(each), lambda each=each: [each]) for each in (data, b"no DICOM")]  # type: ignore[misc]
    answers = client.run(lambda each: each.store(seen.study, parts, [seen.uid, "1.2.3"]))
    assert [each.said for each in answers] == [Said.STORED, Said.UNKNOWN]
    assert answers[1].settled(is_there=False) is Said.REJECTED


def test_of_a_body_that_is_cut_off_nothing_is_stored(server: Orthanc, client: Client) -> None:
    """Also of what came whole before."""
    first, second = study(2, study_number=9)

    def pieces() -> Iterator[bytes]:
        yield second[:300]
        raise Fault(FaultKind.INTEGRITY, "other bytes than were uploaded")

    parts = [Part(len(first), lambda: [first]), Part(len(second), pieces)]
    with pytest.raises(Fault):
        client.run(lambda each: each.store(instance_of(first).study, parts, ["1", "2"]))
    assert instance_of(first).uid not in server.instances()


def test_an_instance_that_is_not_there_is_404(client: Client) -> None:
    with pytest.raises(Fault) as raised:
        client.run(lambda each: each.retrieve("1.2", "1.2", "1.2", BytesIO()))
    assert raised.value.http_status == 404


def test_metadata_has_no_pixels(client: Client) -> None:
    data = instance(1, study_number=8)
    client.store(data, study_uid=instance_of(data).study)
    (found,) = client.run(lambda each: each.metadata(instance_of(data).study))
    assert found["00080018"]["Value"] == [instance_of(data).uid]
    assert "7FE00010" not in found or "InlineBinary" not in found["7FE00010"]


def test_a_wrong_password_is_refused(server: Orthanc) -> None:
    talk = client_of(server, "wrong")
    with pytest.raises(CredentialsRefusedError, match="DICOM_INGEST_DICOMWEB_USER"):
        talk.run(lambda each: each.check())
    talk.close()


def test_what_a_filter_refuses_is_said_to_be_stored(tmp_path: Path) -> None:
    """So the profile says that QIDO-RS has to confirm it."""
    script = tmp_path / "filter.lua"
    script.write_text("function ReceivedInstanceFilter(dicom, origin, info)\n return false\nend\n")
    seen = instance_of(CONTESTED)
    with orthanc(tmp_path, LuaScripts=[str(script)]) as started:
        talk = Client(started.dicomweb_url, dicomweb_server=DicomwebServer.ORTHANC)
        (answer,) = talk.store(CONTESTED, study_uid=seen.study)
        assert not talk.run(lambda each: each.has_instance(seen.study, seen.uid))
        assert talk.client.profile.lists_refused
        talk.close()
    assert answer.said is Said.STORED


def test_a_server_that_was_killed_is_a_fault_that_may_pass(tmp_path: Path) -> None:
    with orthanc(tmp_path) as started:
        talk = Client(started.dicomweb_url)
        talk.run(lambda each: each.check())
        started.kill()
        with pytest.raises(Fault) as raised:
            talk.store(MANY[0], study_uid=instance_of(MANY[0]).study)
        talk.close()
    assert raised.value.kind is FaultKind.NETWORK
