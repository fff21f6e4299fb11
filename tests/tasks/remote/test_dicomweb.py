"""The DICOMweb client against a server with a script: what it sends, what it makes of each answer."""

import asyncio
import base64
import gzip
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from pydantic import SecretStr
from pydicom.data import get_testdata_file

from tasks.core.errors import CredentialsRefusedError, Fault, FaultKind, TooLargeFault, UsageError
from tasks.core.http_messages import Limits
from tasks.core.qido_rows import SeenInstance
from tasks.core.stow_answers import InstanceAnswer
from tasks.core.stow_profiles import Said
from tasks.dicomweb_settings import DicomwebServer, DicomwebSettings
from tasks.remote import dicomweb
from tasks.remote.curl_engine import Engine
from tasks.remote.dicomweb import QUERY_LIMITS, DicomwebClient, Part
from tasks.remote.engine_transport import http_client
from tasks.remote.tls import TlsPolicy
from tests.dicomweb_side import (
    CLIENT_ID,
    CLIENT_SECRET,
    RUBBISH,
    Deviation,
    DicomwebSide,
    Failed,
    Half,
    Reply,
    Request,
    Reset,
    Rows,
    Slow,
    Step,
    Unnamed,
    always,
    files_of,
    instance_of,
    scripted,
    status,
)
from tests.odd_instances import instance, study
from tests.raw_server import RawServer, Script, head_of
from tests.tasks.remote.test_curl_engine import directly

T = TypeVar("T")
CT = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
UID = instance_of(CT).uid
STUDY, SERIES = instance_of(CT).study, instance_of(CT).series
JSON = {"Content-Type": "application/dicom+json"}


class Client:
    """A DicomwebClient with its engine, for who is no coroutine."""

    def __init__(self, url: str, *, limits: Limits | None = None, **settings: Any) -> None:
        self._runner = asyncio.Runner()
        self._settings = DicomwebSettings(dicomweb_url=url, **settings)
        try:
            self.client = self._opened(**({"store_limits": limits} if limits else {}))
        except BaseException:
            self._runner.close()
            raise

    def _opened(self, **more: Any) -> DicomwebClient:
        async def opened() -> DicomwebClient:
            engine = Engine(TlsPolicy(), directly)
            return DicomwebClient(engine, self._settings, http_client(engine), **more)

        return self._runner.run(opened())

    def paging(self, rows: int, limits: Limits = QUERY_LIMITS) -> Self:
        """The same, with pages of so many rows, and answers of at most so many bytes."""
        self._close()
        self.client = self._opened(page_rows=rows, query_limits=limits)
        return self

    def run(self, ask: Callable[[DicomwebClient], Coroutine[Any, Any, T]]) -> T:
        return self._runner.run(ask(self.client))

    def store(self, *files: bytes, study_uid: str = STUDY) -> list[InstanceAnswer]:
        parts = [Part(len(data), lambda data=data: [data]) for data in files]  # type: ignore[misc]
        uids = [instance_of(data).uid for data in files]
        return self.run(lambda client: client.store(study_uid, parts, uids))

    def retrieved(self, uid: str = UID) -> bytes:
        file = BytesIO()
        self.run(lambda client: client.retrieve(STUDY, SERIES, uid, file))
        return file.getvalue()

    def close(self) -> None:
        self._close()
        self._runner.close()

    def _close(self) -> None:
        async def close() -> None:
            self.client.close()

        self._runner.run(close())


@pytest.fixture
def side() -> Iterator[DicomwebSide]:
    with DicomwebSide() as running:
        yield running


@pytest.fixture
def client(side: DicomwebSide) -> Iterator[Client]:
    talk = Client(side.url)
    yield talk
    talk.close()


def fault_of(ask: Callable[[], object]) -> Fault:
    with pytest.raises(Fault) as raised:
        ask()
    return raised.value


class TestStore:
    def test_instances_arrive_byte_for_byte_in_one_request_of_a_known_size(
        self, side: DicomwebSide, client: Client
    ) -> None:
        files = study(3)
        uids = [instance_of(data).uid for data in files]
        answers = client.store(*files, study_uid=instance_of(files[0]).study)
        assert [(each.sop_instance_uid, each.said) for each in answers] == [
            (uid, Said.STORED) for uid in uids
        ]
        assert side.bodies == dict(zip(uids, files, strict=True))
        (request,) = side.asked(Step.STORE)
        assert request.path == f"/dicom-web/studies/{instance_of(files[0]).study}"
        assert request.headers["Content-Length"] == str(len(request.body))
        assert not {"Transfer-Encoding", "Expect"} & {*request.headers}  # Orthanc lets who expects wait
        assert request.headers["Content-Type"].startswith(
            'multipart/related; type="application/dicom"; boundary='
        )
        assert request.headers["Accept"] == "application/dicom+json"

    def test_the_boundary_differs_from_request_to_request(self, side: DicomwebSide, client: Client) -> None:
        client.store(CT)
        client.store(CT)
        one, other = (request.headers["Content-Type"] for request in side.asked(Step.STORE))
        assert one != other

    def test_a_boundary_that_is_in_the_data_is_not_used(
        self, side: DicomwebSide, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who knows the boundary could end a part within an instance; also where two pieces meet."""
        tokens = iter(["ab" * 16, "cd" * 16])
        monkeypatch.setattr(dicomweb.secrets, "token_hex", lambda _bytes: next(tokens))
        data = CT + b"\0\r\n--dicom-ingest-" + b"ab" * 16 + b"--"
        pieces = [data[:-10], data[-10:]]
        client.run(lambda each: each.store(STUDY, [Part(len(data), lambda: pieces)], [UID]))
        assert side.bodies == {UID: data}
        assert "cdcd" in side.asked(Step.STORE)[0].headers["Content-Type"]

    def test_a_part_comes_in_pieces_that_are_asked_for_again_with_a_fresh_token(
        self, side: DicomwebSide
    ) -> None:
        """The bytes are sent whole both times."""
        asked = []

        def pieces() -> Iterator[bytes]:
            asked.append(1)
            yield CT[:1000]
            yield b""
            yield CT[1000:]

        talk = oauth_client(side)
        talk.store(CT)
        side.authorizations = {"Bearer none"}  # what was granted before is refused
        (answer,) = talk.run(lambda each: each.store(STUDY, [Part(len(CT), pieces)], [UID]))
        talk.close()
        assert answer.said is Said.STORED
        assert len(asked) >= 2
        assert files_of(*sent(side.asked(Step.STORE)[-1])) == [CT]

    @pytest.mark.parametrize("said_bytes", [len(CT) - 5000, len(CT) - 1, len(CT) + 1])
    def test_a_part_of_another_size_than_was_said_is_not_sent_whole(
        self, side: DicomwebSide, client: Client, said_bytes: int
    ) -> None:
        part = Part(said_bytes, lambda: [CT])
        fault = fault_of(lambda: client.run(lambda each: each.store(STUDY, [part], [UID])))
        assert fault.kind is FaultKind.CHANGED
        assert side.bodies == {}

    def test_two_parts_whose_sizes_are_wrong_by_as_much_are_not_stored_either(
        self, side: DicomwebSide, client: Client
    ) -> None:
        """The request is as long as it says then, and the boundary in another place than it should be."""
        parts = [Part(len(CT) - 2, lambda: [CT]), Part(len(CT) + 2, lambda: [CT])]
        fault = fault_of(lambda: client.run(lambda each: each.store(STUDY, parts, [UID, UID])))
        assert fault.kind is FaultKind.CHANGED
        parts.reverse()
        fault = fault_of(lambda: client.run(lambda each: each.store(STUDY, parts, [UID, UID])))
        assert fault.kind is FaultKind.CHANGED
        assert side.bodies == {}

    def test_what_the_pieces_raise_is_raised(self, side: DicomwebSide, client: Client) -> None:
        def pieces() -> Iterator[bytes]:
            yield CT[:1000]
            raise Fault(FaultKind.INTEGRITY, "other bytes than were uploaded")

        fault = fault_of(lambda: client.run(lambda each: each.store(STUDY, [Part(len(CT), pieces)], [UID])))
        assert fault.kind is FaultKind.INTEGRITY
        assert side.bodies == {}

    def test_what_the_server_names_counts_whatever_the_status(
        self, side: DicomwebSide, client: Client
    ) -> None:
        files = study(3)
        uids = [instance_of(data).uid for data in files]
        side.script = always(Step.STORE, Failed(45070, (uids[1],), status=409))
        answers = client.store(*files, study_uid=instance_of(files[0]).study)
        assert [each.said for each in answers] == [Said.STORED, Said.UNKNOWN, Said.STORED]

    def test_an_empty_202_leaves_all_unknown(self, side: DicomwebSide, client: Client) -> None:
        side.script = always(Step.STORE, Unnamed(202))
        (answer,) = client.store(CT)
        assert (answer.said, answer.detail) == (Said.UNKNOWN, "not_named http_202")
        assert side.bodies == {UID: CT}

    def test_rubbish_leaves_all_unknown(self, side: DicomwebSide, client: Client) -> None:
        side.script = always(Step.STORE, RUBBISH)
        assert [each.said for each in client.store(CT)] == [Said.UNKNOWN]

    @pytest.mark.parametrize("code", [400, 409, 415, 422])
    def test_a_4xx_without_a_body_leaves_all_unknown(
        self, side: DicomwebSide, client: Client, code: int
    ) -> None:
        side.script = always(Step.STORE, status(code))
        (answer,) = client.store(CT)
        assert answer.said is Said.UNKNOWN
        assert answer.settled(is_there=False) is Said.REJECTED

    @pytest.mark.parametrize(
        ("reply", "kind", "halves"),
        [
            (status(503, "7"), FaultKind.THROTTLED, False),
            (status(429, "7"), FaultKind.THROTTLED, False),
            (status(500), FaultKind.SERVER, False),
            (status(502), FaultKind.SERVER, False),
            (status(504), FaultKind.SERVER, True),
            (status(408), FaultKind.SERVER, True),
            (status(413), FaultKind.REJECTED, True),
            (status(403), FaultKind.FORBIDDEN, False),
            (status(404), FaultKind.SETTINGS, False),
            (status(405), FaultKind.SETTINGS, False),
            (Reset(), FaultKind.NETWORK, False),
            (Reset(stored=True), FaultKind.NETWORK, False),
            (Half(), FaultKind.NETWORK, False),
        ],
    )
    def test_an_answer_about_no_instance_is_a_fault(
        self, side: DicomwebSide, client: Client, reply: Deviation, kind: FaultKind, halves: bool
    ) -> None:
        side.script = always(Step.STORE, reply)
        fault = fault_of(lambda: client.store(CT))
        assert (fault.kind, isinstance(fault, TooLargeFault)) == (kind, halves)
        assert fault.retry_after_s == (7 if kind is FaultKind.THROTTLED else 0)
        assert UID not in str(fault)
        assert STUDY not in str(fault)

    def test_a_server_that_is_silent_for_too_long_may_be_asked_for_half(self, side: DicomwebSide) -> None:
        side.script = always(Step.STORE, Slow(30))
        talk = Client(side.url, limits=Limits(silence_s=0.5))
        fault = fault_of(lambda: talk.store(CT))
        talk.close()
        assert isinstance(fault, TooLargeFault)
        assert fault.kind is FaultKind.NETWORK

    def test_413_before_the_body_is_sent(self) -> None:
        """Nginx says so as soon as it has seen Content-Length."""

        def play(connection: socket.socket) -> None:
            head_of(connection)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        with against(play) as talk:
            assert isinstance(fault_of(lambda: talk.store(CT)), TooLargeFault)

    def test_a_server_that_is_down(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/dicom-web"
        talk = Client(url)
        assert fault_of(lambda: talk.store(CT)).kind is FaultKind.NETWORK
        talk.close()


def sent(request: Request) -> tuple[str, bytes]:
    return request.headers["Content-Type"], request.body


@contextmanager
def against(*scripts: Script) -> Iterator[Client]:
    """A client of a server that speaks what a script says."""
    server = RawServer(*scripts)
    talk = Client(f"{server.url}dicom-web")
    try:
        yield talk
    finally:
        talk.close()
        server.close()


def oauth_client(side: DicomwebSide) -> Client:
    side.authorizations.add("Bearer none")
    return Client(
        side.url,
        dicomweb_token_url=side.token_url,
        dicomweb_client_id=CLIENT_ID,
        dicomweb_client_secret=SecretStr(CLIENT_SECRET),
    )


class TestCredentials:
    def test_a_static_token_is_sent(self, side: DicomwebSide) -> None:
        side.authorizations = {"Bearer t0ken"}
        talk = Client(side.url, dicomweb_token=SecretStr("t0ken"))
        assert talk.run(lambda each: each.instances(STUDY)).uids == frozenset()
        talk.close()

    def test_a_user_and_password_are_sent_as_basic(self, side: DicomwebSide) -> None:
        side.authorizations = {"Basic " + base64.b64encode("ingest:s€cret".encode()).decode()}
        talk = Client(side.url, dicomweb_user="ingest", dicomweb_password=SecretStr("s€cret"))
        assert talk.store(CT)[0].said is Said.STORED
        talk.close()

    def test_a_user_with_a_colon_is_refused(self, side: DicomwebSide) -> None:
        with pytest.raises(UsageError, match="colon"):
            Client(side.url, dicomweb_user="a:b", dicomweb_password=SecretStr("x"))

    def test_a_refused_token_is_renewed_once(self, side: DicomwebSide) -> None:
        talk = oauth_client(side)
        talk.store(CT)
        side.authorizations = {"Bearer none"}
        talk.store(CT)
        talk.close()
        assert len(side.asked(Step.TOKEN)) == 2

    def test_401_with_a_fresh_token_ends_the_run(self, side: DicomwebSide) -> None:
        talk = oauth_client(side)
        side.script = always(Step.STORE, status(401))
        with pytest.raises(CredentialsRefusedError, match=r"DICOM_INGEST_DICOMWEB_TOKEN_URL.*HTTP 401"):
            talk.store(CT)
        talk.close()
        assert len(side.asked(Step.STORE)) == 2

    def test_a_static_token_that_is_refused_is_not_tried_again(self, side: DicomwebSide) -> None:
        side.authorizations = {"Bearer other"}
        talk = Client(side.url, dicomweb_token=SecretStr("t0ken"))
        with pytest.raises(CredentialsRefusedError) as raised:
            talk.run(lambda each: each.has_instance(STUDY, UID))
        talk.close()
        assert "t0ken" not in str(raised.value)
        assert len(side.requests) == 1

    def test_a_token_endpoint_that_refuses_the_client_names_its_settings(self, side: DicomwebSide) -> None:
        side.authorizations = {"Bearer none"}
        talk = Client(
            side.url,
            dicomweb_token_url=side.token_url,
            dicomweb_client_id="nobody",
            dicomweb_client_secret=SecretStr("x"),
        )
        with pytest.raises(CredentialsRefusedError, match="DICOM_INGEST_DICOMWEB_TOKEN_URL"):
            talk.store(CT)
        talk.close()

    def test_they_do_not_follow_a_redirect_to_another_host(self, side: DicomwebSide) -> None:
        with DicomwebSide() as other:
            moved = Reply(307, headers={"Location": f"{other.url}/studies"})
            side.script = lambda request: moved
            talk = Client(side.url, dicomweb_token=SecretStr("t0ken"))
            assert fault_of(lambda: talk.store(CT)).kind is FaultKind.SETTINGS
            assert fault_of(lambda: talk.run(lambda each: each.instances(STUDY))).kind is FaultKind.SETTINGS
            talk.close()
            assert other.requests == []

    def test_a_redirect_on_the_same_host_is_followed(self, side: DicomwebSide, client: Client) -> None:
        moved = Reply(307, headers={"Location": f"/dicom-web/studies/{STUDY}"})
        side.script = scripted((Step.STORE, 1, moved))
        assert client.store(CT)[0].said is Said.STORED

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"url": "http://pacs.example.org/dicom-web"}, "DICOMWEB_URL is plain http"),
            ({"url": "ftp://pacs.example.org"}, "DICOMWEB_URL is neither"),
            ({"url": "https://me:secret@pacs.example.org"}, "DICOMWEB_URL must not contain a user"),
            ({"url": ""}, "DICOMWEB_URL. is not given"),
            ({"url": "https://pacs.example.org/rs?tenant=1"}, "dicomweb-url has a query"),
            ({"url": "https://pacs.example.org/rs#x"}, "dicomweb-url has a query"),
            (
                {
                    "url": "https://pacs.example.org",
                    "dicomweb_token_url": "http://id.example.org/token",
                    "dicomweb_client_id": "c",
                    "dicomweb_client_secret": SecretStr("s"),
                },
                "DICOMWEB_TOKEN_URL is plain http",
            ),
        ],
    )
    def test_an_address_to_which_they_must_not_go_is_refused(
        self, settings: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(UsageError, match=sentence):
            Client(**settings)


class TestInstances:
    @pytest.fixture
    def uids(self, side: DicomwebSide) -> list[str]:
        files = study(7)
        side.put(*files, CT)
        return [instance_of(data).uid for data in files]

    @pytest.fixture
    def other(self) -> str:
        return instance_of(study(1)[0]).study

    def test_all_of_a_study_come_page_by_page(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        found = client.paging(3).run(lambda each: each.instances(other))
        assert found.uids == frozenset(uids)
        assert (found.related, found.is_whole) == (7, True)
        pages = [request.query for request in side.asked(Step.QUERY) if "limit" in request.query]
        assert [(page["limit"], page["offset"]) for page in pages] == [
            (["3"], [str(n)]) for n in (0, 3, 6, 7)
        ]

    def test_a_server_that_bounds_its_pages_is_asked_on(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        side.most_rows = 2
        assert client.run(lambda each: each.instances(other)).uids == frozenset(uids)

    def test_a_server_that_knows_no_offset_is_not_asked_for_ever(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        rows = side.rows(f"/dicom-web/studies/{other}/instances", {})
        side.script = lambda request: Rows(lambda _: rows) if "limit" in request.query else None
        assert client.run(lambda each: each.instances(other)).uids == frozenset(uids)
        assert len(side.asked(Step.QUERY)) == 3

    def test_rows_that_are_repeated_count_once_and_those_lost_are_noticed(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        side.script = lambda request: (
            Rows(lambda rows: [*rows[:1], *rows[:2]]) if request.query.get("offset") == ["0"] else None
        )
        found = client.paging(3).run(lambda each: each.instances(other))
        assert len(found.uids) == 6
        assert not found.is_whole

    def test_a_server_that_does_not_say_how_many_there_are_proves_nothing(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        side.related_offset = None
        found = client.run(lambda each: each.instances(other))
        assert (found.related, found.is_whole) == (None, False)

    def test_a_study_that_is_not_there_has_none(self, side: DicomwebSide, client: Client) -> None:
        found = client.run(lambda each: each.instances("1.2.3"))
        assert (found.uids, found.related, found.is_whole) == (frozenset(), 0, True)

    @pytest.mark.parametrize("code", [204, 404])
    def test_some_say_so_by_their_status(self, side: DicomwebSide, client: Client, code: int) -> None:
        side.script = lambda request: status(code) if "1.2.3" in request.path else None
        assert client.run(lambda each: each.instances("1.2.3")).uids == frozenset()

    def test_404_where_no_dicomweb_server_is_says_nothing(self, side: DicomwebSide, client: Client) -> None:
        """A wrong address must not look like a registry that lost all."""
        side.script = lambda request: status(404)
        assert fault_of(lambda: client.run(lambda each: each.instances(STUDY))).kind is FaultKind.SETTINGS
        assert (
            fault_of(lambda: client.run(lambda each: each.has_instance(STUDY, UID))).kind
            is FaultKind.SETTINGS
        )
        assert fault_of(lambda: client.run(lambda each: each.check())).kind is FaultKind.SETTINGS

    def test_rows_of_another_study_are_not_its_own(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        everything = side.rows("/dicom-web/instances", {})
        side.script = lambda request: Rows(lambda _: everything) if "limit" in request.query else None
        assert client.run(lambda each: each.instances(STUDY)).uids == {UID}

    @pytest.mark.parametrize(
        "reply",
        [
            RUBBISH,
            Reply(200, b"", JSON),
            Reply(200, b'{"error": "later"}', JSON),
            Reply(200, b'[{"0020000D": {"vr": "UI", "Value": ["1.2"]}}]', JSON),
            Reply(200, b"[[]]", JSON),
            Reply(200, b"[" * 100_000, JSON),
            Half(),
            Reset(),
            status(500),
        ],
    )
    def test_rubbish_is_a_fault_and_never_no_matches(
        self, side: DicomwebSide, client: Client, reply: Deviation
    ) -> None:
        side.put(CT)
        side.script = lambda request: reply if "instances" in request.path else None
        for ask in (
            lambda each: each.instances(STUDY),
            lambda each: each.has_instance(STUDY, UID),
            lambda each: each.find_instance(UID),
        ):
            kind = fault_of(lambda ask=ask: client.run(ask)).kind
            assert kind in (FaultKind.SERVER, FaultKind.NETWORK)

    def test_a_page_that_is_too_long_is_asked_for_in_halves(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        found = client.paging(200, Limits(body_bytes=700)).run(lambda each: each.instances(other))
        assert found.uids == frozenset(uids)

    def test_one_row_that_is_too_long_is_a_fault(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        narrow = client.paging(200, Limits(body_bytes=100))
        assert fault_of(lambda: narrow.run(lambda each: each.instances(other))).kind is FaultKind.SERVER

    def test_a_server_that_can_not_search_a_study_is_asked_series_by_series(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        side.searches_studies = False
        found = client.paging(3).run(lambda each: each.instances(other))
        assert (found.uids, found.is_whole) == (frozenset(uids), True)
        assert client.run(lambda each: each.has_instance(STUDY, UID))
        assert not client.run(lambda each: each.has_instance(STUDY, "1.2.3"))
        assert side.refused == 1, "it is asked once what it can't do"
        found_at = client.run(lambda each: each.find_instance(UID, STUDY))
        assert found_at == SeenInstance(STUDY, SERIES, UID)
        assert client.run(lambda each: each.find_instance("1.2.3", STUDY)) is None
        assert client.paging(3).run(lambda each: each.find_instance(UID, STUDY)) == found_at
        assert client.run(lambda each: each.instances("1.2.3")).uids == frozenset()
        assert fault_of(lambda: client.run(lambda each: each.find_instance(UID))).kind is FaultKind.SETTINGS

    def test_one_of_which_that_is_known_is_asked_for_nothing_else(
        self, side: DicomwebSide, uids: list[str], other: str
    ) -> None:
        """It may refuse in any way what it does not know."""
        side.script = lambda request: status(403) if request.path.endswith(f"{other}/instances") else None
        talk = Client(side.url, dicomweb_server=DicomwebServer.HEALTHIMAGING)
        assert talk.run(lambda each: each.instances(other)).uids == frozenset(uids)
        talk.close()

    def test_a_server_that_refuses_to_say_how_many_there_are(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        side.script = lambda request: status(400) if "includefield" in request.query else None
        found = client.run(lambda each: each.instances(other))
        assert (found.uids, found.related) == (frozenset(uids), None)

    def test_a_server_that_ignores_which_study_is_meant_has_not_said_how_many_there_are(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        strange = [{"0020000D": {"Value": ["1.2.3"]}, "00201208": {"Value": [3]}}]
        side.script = lambda request: Rows(lambda _: strange) if "includefield" in request.query else None
        assert client.run(lambda each: each.instances(other)).related is None

    def test_a_list_that_is_gone_in_the_middle_is_a_fault(
        self, side: DicomwebSide, client: Client, uids: list[str], other: str
    ) -> None:
        side.script = lambda request: status(404) if request.query.get("offset") == ["3"] else None
        paging = client.paging(3)
        assert fault_of(lambda: paging.run(lambda each: each.instances(other))).kind is FaultKind.SERVER

    def test_one_instance_is_asked_for_by_itself(self, side: DicomwebSide, client: Client) -> None:
        assert not client.run(lambda each: each.has_instance(STUDY, UID))
        assert client.run(lambda each: each.find_instance(UID)) is None
        side.put(CT)
        assert client.run(lambda each: each.has_instance(STUDY, UID))
        assert client.run(lambda each: each.find_instance(UID)) == SeenInstance(STUDY, SERIES, UID)
        assert client.run(lambda each: each.find_instance(UID, "1.2.3")) == SeenInstance(STUDY, SERIES, UID)

    def test_a_server_that_ignores_the_question_has_not_answered_it(
        self, side: DicomwebSide, client: Client
    ) -> None:
        side.put(CT)
        everything = side.rows("/dicom-web/instances", {})
        side.script = always(Step.QUERY, Rows(lambda _: everything))
        assert fault_of(lambda: client.run(lambda each: each.find_instance("1.2.3"))).kind is FaultKind.SERVER
        assert client.run(lambda each: each.has_instance(STUDY, UID))

    def test_what_is_no_uid_is_quoted(self, side: DicomwebSide, client: Client) -> None:
        """It is another's, and may be anything."""
        assert client.run(lambda each: each.find_instance("1.2&x=/../*")) is None
        assert side.requests[0].query == {"SOPInstanceUID": ["1.2&x=/../*"]}


class TestRetrieve:
    def test_gives_the_bytes_that_are_stored(self, side: DicomwebSide, client: Client) -> None:
        side.put(CT)
        assert client.retrieved() == CT
        (request,) = side.requests
        assert "transfer-syntax=*" in request.headers["Accept"]

    def test_an_instance_that_is_not_there(self, side: DicomwebSide, client: Client) -> None:
        fault = fault_of(client.retrieved)
        assert (fault.kind, fault.http_status) == (FaultKind.REJECTED, 404)

    def test_an_answer_that_is_no_multipart(self, side: DicomwebSide, client: Client) -> None:
        side.script = always(Step.RETRIEVE, Reply(200, CT, {"Content-Type": "application/dicom; x=1"}))
        assert client.retrieved() == CT

    def test_one_that_is_compressed_though_nobody_asked(self, side: DicomwebSide, client: Client) -> None:
        headers = {"Content-Type": "application/dicom", "Content-Encoding": "gzip"}
        side.script = always(Step.RETRIEVE, Reply(200, gzip.compress(CT), headers))
        assert client.retrieved() == CT

    @pytest.mark.parametrize(
        "reply",
        [
            Half(),
            Reset(),
            RUBBISH,
            status(503),
            Reply(200, CT, {"Content-Type": "multipart/related"}),
            Reply(200, CT, {"Content-Type": "multipart/related; boundary=b"}),
            Reply(200, b"--b\r\n\r\n" + CT + b"\r\n", {"Content-Type": "multipart/related; boundary=b"}),
            Reply(200, b"--b--", {"Content-Type": "multipart/related; boundary=b"}),
            Reply(
                200,
                b"--b\r\n\r\n" + CT + b"\r\n--b\r\n\r\n" + CT + b"\r\n--b--",
                {"Content-Type": "multipart/related; boundary=b"},
            ),
            Reply(
                200,
                b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + CT + b"\r\n--b--",
                {"Content-Type": "multipart/related; boundary=b"},
            ),
            Reply(200, CT, {"Content-Type": "application/dicom", "Content-Encoding": "gzip"}),
            Reply(
                200, gzip.compress(CT)[:-9], {"Content-Type": "application/dicom", "Content-Encoding": "gzip"}
            ),
            Reply(200, CT, {"Content-Type": "application/dicom", "Content-Encoding": "br"}),
        ],
    )
    def test_what_is_not_whole_or_none_is_a_fault(
        self, side: DicomwebSide, client: Client, reply: Deviation
    ) -> None:
        side.put(CT)
        side.script = always(Step.RETRIEVE, reply)
        assert UID not in str(fault_of(client.retrieved))

    def test_what_the_file_raises_is_raised(self, side: DicomwebSide, client: Client) -> None:
        class Full(BytesIO):
            def write(self, _data: Any) -> int:
                raise OSError(28, "No space left on device")

        side.put(CT)
        with pytest.raises(OSError, match="No space"):
            client.run(lambda each: each.retrieve(STUDY, SERIES, UID, Full()))

    def test_a_large_instance_is_never_held(self, side: DicomwebSide, client: Client) -> None:
        """It is written as it comes, piece by piece."""
        sizes: list[int] = []

        class Counting(BytesIO):
            def write(self, data: Any) -> int:
                sizes.append(len(data))
                return len(data)

        data = instance(pixels=bytes(40_000_000))
        side.put(data)
        seen = instance_of(data)
        client.run(lambda each: each.retrieve(seen.study, seen.series, seen.uid, Counting()))
        assert sum(sizes) == len(data)
        assert max(sizes) < 2_000_000


class TestMetadata:
    def test_gives_the_data_sets(self, side: DicomwebSide, client: Client) -> None:
        side.put(CT)
        (found,) = client.run(lambda each: each.metadata(STUDY))
        assert found["00080018"]["Value"] == [UID]

    @pytest.mark.parametrize("reply", [RUBBISH, Half(), status(404), Reply(200, b"{}", JSON)])
    def test_raises_for_anything_else(self, side: DicomwebSide, client: Client, reply: Deviation) -> None:
        side.put(CT)
        side.script = always(Step.METADATA, reply)
        fault_of(lambda: client.run(lambda each: each.metadata(STUDY)))
