"""Where the Authorization header comes from: a static token, or OAuth2 client credentials."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from tasks.core.errors import CredentialsRefusedError, Fault, FaultKind, UsageError, WrongSettingsError
from tasks.remote.credentials import Credentials, StaticToken, TokenFile
from tasks.remote.curl_engine import Engine
from tasks.remote.engine_transport import http_client
from tasks.remote.oauth2_client import ClientCredentials
from tasks.remote.platform_client import Platform, warn_without_credentials
from tasks.remote.tls import TlsPolicy
from tasks.settings import load
from tests.conftest import Dicom, NearSide
from tests.far_side import (
    CLIENT_ID,
    CLIENT_SECRET,
    Deviation,
    FarSide,
    Reply,
    Request,
    Reset,
    Step,
    always,
    once_begun,
    status,
)
from tests.processes import await_that


class Asked:
    """Credentials, and whoever asks them: one or many at the same time."""

    def __init__(self, runner: asyncio.Runner, credentials: Credentials) -> None:
        self._runner = runner
        self.credentials = credentials

    def authorization(self, refused: str = "", http_status: int = 401) -> str:
        return self._runner.run(self.credentials.authorization(refused, http_status))

    def authorizations(self, slots: int, refused: str = "") -> list[str]:
        async def all_at_once() -> list[str]:
            return await asyncio.gather(*(self.credentials.authorization(refused) for _ in range(slots)))

        return self._runner.run(all_at_once())


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


Make = Callable[..., Asked]


@pytest.fixture
def credentials(far_side: FarSide, runner: asyncio.Runner) -> Iterator[Make]:
    """`credentials(...)`: those of a client that the far side knows."""

    async def opened() -> Engine:
        return Engine(TlsPolicy())

    async def close() -> None:
        engine.close()

    def make(secret: str = CLIENT_SECRET, scope: str = "", **edges: Any) -> Asked:
        client = http_client(engine)
        ours = ClientCredentials(client, far_side.token_url, CLIENT_ID, secret, scope, **edges)
        return Asked(runner, ours)

    engine = runner.run(opened())
    yield make
    runner.run(close())


class TestStaticToken:
    def test_is_always_the_same(self, runner: asyncio.Runner) -> None:
        """Also when it was refused: there is no other."""
        token = Asked(runner, StaticToken("abc"))
        assert token.authorization() == token.authorization(refused="Bearer abc") == "Bearer abc"

    def test_may_be_none(self, runner: asyncio.Runner) -> None:
        """An API behind a gateway that knows us asks for nothing."""
        assert Asked(runner, StaticToken("")).authorization() == ""


class TestClientCredentials:
    def test_get_a_token_that_the_api_accepts(self, credentials: Make, far_side: FarSide) -> None:
        """Id and secret form-encoded in HTTP Basic (RFC 6749, 2.3.1)."""
        assert credentials().authorization() in far_side.tokens

    def test_ask_once_for_all_slots(self, credentials: Make, far_side: FarSide) -> None:
        """Twenty at the same time, one request."""
        assert len(set(credentials().authorizations(20))) == 1
        assert len(far_side.asked(Step.TOKEN)) == 1

    def test_renew_a_refused_token_once_for_all_slots(self, credentials: Make, far_side: FarSide) -> None:
        """Who comes late with the old one gets the new one."""
        ours = credentials()
        old = ours.authorization()
        new = set(ours.authorizations(20, refused=old))
        assert len(new) == 1
        assert new != {old}
        assert len(far_side.asked(Step.TOKEN)) == 2

    @pytest.mark.parametrize("http_status", [401, 403])
    def test_renew_once_although_the_same_token_comes_back(
        self, credentials: Make, far_side: FarSide, http_status: int
    ) -> None:
        """As from a token endpoint that caches: each file that is refused would ask again."""
        answer = {"access_token": "t", "token_type": "Bearer", "expires_in": 3600}
        far_side.script = always(Step.TOKEN, Reply(200, json.dumps(answer).encode()))
        ours = credentials()
        old = ours.authorization()
        assert {ours.authorization(old, http_status) for _ in range(20)} == {old}
        assert len(far_side.asked(Step.TOKEN)) == 2

    def test_renew_what_403_was_said_to_once_and_again_only_after_a_while(
        self, credentials: Make, far_side: FarSide
    ) -> None:
        """It was said about a file, not about the token; what 401 is said to is renewed at once."""
        now = [1000.0]
        ours = credentials(clock=lambda: now[0])
        first = ours.authorization()
        second = ours.authorization(first, 403)
        assert [ours.authorization(second, 403) for _ in range(20)] == [second] * 20
        now[0] += 301
        third = ours.authorization(second, 403)
        fourth = ours.authorization(third, 401)
        assert len({first, second, third, fourth}) == len(far_side.asked(Step.TOKEN)) == 4

    @pytest.mark.parametrize(
        "answer",
        [Reset(), status(503, retry_after="7"), status(404), Reply(401, b'{"error": "invalid_client"}')],
    )
    def test_use_the_old_token_to_its_end_when_it_can_not_be_renewed(
        self, credentials: Make, far_side: FarSide, answer: Deviation, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Now and then it is asked again; once it has expired, what is wrong is wrong."""
        far_side.script = lambda request: answer if request.step is Step.TOKEN and request.n > 1 else None
        now = [1000.0]
        ours = credentials(clock=lambda: now[0])
        old = ours.authorization()
        now[0] += 3600 - 30
        assert ours.authorization() == old
        assert {ours.authorization() for _ in range(20)} == {old}
        assert len(far_side.asked(Step.TOKEN)) == 2
        now[0] += 6
        assert ours.authorization() == old
        assert len(far_side.asked(Step.TOKEN)) == 3
        assert caplog.text.count("could not be renewed yet") == 1
        now[0] += 24
        with pytest.raises((Fault, CredentialsRefusedError, WrongSettingsError)):
            ours.authorization()
        far_side.script = always(Step.PUT, Reset())
        assert ours.authorization() not in {old, ""}

    def test_use_the_old_token_while_it_is_renewed(
        self, credentials: Make, far_side: FarSide, runner: asyncio.Runner, let_go: threading.Event
    ) -> None:
        """An endpoint that does not answer keeps one slot waiting, not all."""
        ours_now = [1000.0]
        ours = credentials(clock=lambda: ours_now[0])
        old = ours.authorization()

        def hang(request: Request) -> None:
            if request.step is Step.TOKEN:
                let_go.wait(120)

        far_side.script = hang
        ours_now[0] += 3600 - 30

        async def ask() -> str:
            renewed = asyncio.create_task(ours.credentials.authorization())
            await asyncio.to_thread(await_that, lambda: len(far_side.asked(Step.TOKEN)) == 2)
            assert [await ours.credentials.authorization() for _ in range(20)] == [old] * 20
            let_go.set()
            return await renewed

        assert runner.run(ask()) != old

    def test_go_on_being_renewed_though_the_file_that_asked_is_cut_off(
        self, credentials: Make, far_side: FarSide, runner: asyncio.Runner, let_go: threading.Event
    ) -> None:
        """The others wait for the same answer."""
        ours = credentials()

        def hang(request: Request) -> None:
            if request.step is Step.TOKEN:
                let_go.wait(120)

        far_side.script = hang

        async def ask() -> str:
            first = asyncio.create_task(ours.credentials.authorization())
            await asyncio.to_thread(await_that, lambda: len(far_side.asked(Step.TOKEN)) == 1)
            second = asyncio.create_task(ours.credentials.authorization())
            first.cancel()
            await asyncio.wait([first])
            let_go.set()
            return await second

        assert runner.run(ask()) in far_side.tokens
        assert len(far_side.asked(Step.TOKEN)) == 1

    def test_use_a_token_of_no_known_lifetime_until_it_is_refused(
        self, credentials: Make, far_side: FarSide
    ) -> None:
        """It is renewed like one of five minutes, as long as that can be done."""
        answer = Reply(200, json.dumps({"access_token": "t", "token_type": "Bearer"}).encode())
        far_side.script = lambda request: (
            (answer if request.n == 1 else Reset()) if request.step is Step.TOKEN else None
        )
        now = [1000.0]
        ours = credentials(clock=lambda: now[0])
        ours.authorization()
        now[0] += 3000
        assert ours.authorization() == "Bearer t"
        assert len(far_side.asked(Step.TOKEN)) == 2

    def test_renew_a_token_before_it_expires(self, credentials: Make, far_side: FarSide) -> None:
        """No request leaves with a dying one: of a short life half is used."""
        far_side.token_lifetime_s = 1
        ours = credentials()
        first = ours.authorization()
        assert ours.authorization() == first
        time.sleep(0.55)
        assert ours.authorization() != first

    @pytest.mark.parametrize("lifetime", [{}, {"expires_in": "3600"}, {"expires_in": None}])
    def test_take_a_lifetime_in_any_common_form(
        self, credentials: Make, far_side: FarSide, lifetime: dict[str, object]
    ) -> None:
        """Missing, or a number in quotes: the token is used, and used again."""
        answer = {"access_token": "t", "token_type": "Bearer", **lifetime}
        far_side.script = always(Step.TOKEN, Reply(200, json.dumps(answer).encode()))
        ours = credentials()
        assert ours.authorization() == ours.authorization() == "Bearer t"
        assert len(far_side.asked(Step.TOKEN)) == 1

    def test_take_a_token_of_another_scope(self, credentials: Make, far_side: FarSide) -> None:
        """A server may grant another scope than was asked for (RFC 6749, 3.3): the API has the last word."""
        answer = {"access_token": "t", "token_type": "Bearer", "scope": "upload profile"}
        far_side.script = always(Step.TOKEN, Reply(200, json.dumps(answer).encode()))
        assert credentials(scope="upload").authorization() == "Bearer t"

    @pytest.mark.parametrize(
        "answer",
        [
            Reply(400, b'{"error": "invalid_client"}'),
            Reply(401, b'{"error": "invalid_client"}'),
            Reply(403, b""),
        ],
    )
    def test_that_are_refused_stop_the_run(self, credentials: Make, far_side: FarSide, answer: Reply) -> None:
        """With a sentence that names the settings to check; nothing of the secret is in it."""
        far_side.script = always(Step.TOKEN, answer)
        with pytest.raises(CredentialsRefusedError, match="_CLIENT_SECRET") as refused:
            credentials().authorization()
        assert refused.value.exit_code == 4
        assert CLIENT_SECRET not in str(refused.value)

    @pytest.mark.parametrize(
        "answer",
        [
            Reply(404, b"<html></html>"),
            Reply(200, b"<html>Please log in</html>"),
            Reply(200, b"{}"),
            Reply(200, b"[]"),
            Reply(200, b"null"),
            Reply(200, b'{"access_token": "t", "token_type": "Bearer", "expires_in": "soon"}'),
            Reply(302, headers={"Location": "/login"}),
        ],
    )
    def test_asked_for_where_no_token_endpoint_is_are_a_wrong_setting(
        self, credentials: Make, far_side: FarSide, answer: Reply
    ) -> None:
        """With a sentence that names it; nothing of the secret or the answer is in it."""
        far_side.script = always(Step.TOKEN, answer)
        with pytest.raises(WrongSettingsError, match="DICOM_INGEST_TOKEN_URL") as wrong:
            credentials().authorization()
        assert CLIENT_SECRET not in str(wrong.value)
        assert "log in" not in str(wrong.value)

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (Reset(), FaultKind.NETWORK),
            (status(500), FaultKind.SERVER),
            (status(502), FaultKind.SERVER),
            (status(408), FaultKind.SERVER),
            (status(429, retry_after="7"), FaultKind.THROTTLED),
            (status(503, retry_after="7"), FaultKind.THROTTLED),
        ],
    )
    def test_whose_endpoint_is_down_are_asked_for_again_later(
        self, credentials: Make, far_side: FarSide, answer: Deviation, kind: FaultKind
    ) -> None:
        """A fault like any other request's, with what the server asks to wait; then it works."""
        far_side.script = always(Step.TOKEN, answer)
        ours = credentials()
        with pytest.raises(Fault) as raised:
            ours.authorization()
        assert raised.value.kind is kind
        assert raised.value.retry_after_s == (7 if kind is FaultKind.THROTTLED else 0)
        far_side.script = lambda request: None
        assert ours.authorization() in far_side.tokens


class TestFiles:
    def test_of_tokens_may_be_renewed_meanwhile(self, tmp_path: Path, runner: asyncio.Runner) -> None:
        """As Kubernetes does with projected tokens."""
        path = tmp_path / "token"
        path.write_text("first\n")
        token = Asked(runner, TokenFile(path))
        assert token.authorization() == "Bearer first"
        path.write_text("second")
        assert token.authorization(refused="Bearer first") == "Bearer second"

    @pytest.mark.parametrize("content", [None, b"", b"\n", b"two\nlines", b"caf\xe9", b"bell\x07"])
    def test_without_a_line_of_text_stop_the_run(
        self, tmp_path: Path, runner: asyncio.Runner, content: bytes | None
    ) -> None:
        """The setting is named; the path and the content are not."""
        path = tmp_path / "token"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CredentialsRefusedError) as refused:
            Asked(runner, TokenFile(path)).authorization()
        assert "DICOM_INGEST_TOKEN_FILE" in str(refused.value)
        assert str(tmp_path) not in str(refused.value)


class TestAudience:
    def test_is_asked_for_where_it_is_set(self, runner: asyncio.Runner) -> None:
        """Beside the grant type and the scope."""
        bodies: list[bytes] = []

        def answer(request: httpx.Request) -> httpx.Response:
            bodies.append(request.content)
            return httpx.Response(200, json={"access_token": "t", "token_type": "Bearer"})

        client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        ours = ClientCredentials(
            client, "https://idp.example.org", "id", "secret", "up", "https://api.example.org"
        )
        assert Asked(runner, ours).authorization() == "Bearer t"
        assert parse_qs(bodies[0].decode()) == {
            "grant_type": ["client_credentials"],
            "scope": ["up"],
            "audience": ["https://api.example.org"],
        }


class TestSettings:
    @pytest.fixture(autouse=True)
    def nobody_elses(self, only_our_settings: None) -> None:
        """Of whoever runs the tests."""

    @pytest.mark.parametrize(
        ("endpoint", "warned"), [("https://api.example.org", True), ("http://127.0.0.1:1", False)]
    )
    def test_without_credentials_are_warned_of_unless_the_api_is_here(
        self, endpoint: str, warned: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        warn_without_credentials(load(api_endpoint=endpoint))
        assert ("No credentials are set" in caplog.text) is warned

    @pytest.mark.parametrize(
        "given",
        [
            {"token": "t", "token_file": "/run/token"},
            {"token": "t", "token_url": "https://idp.example.org", "client_id": "c", "client_secret": "s"},
            {"token_url": "https://idp.example.org", "client_id": "c"},
        ],
    )
    def test_that_name_two_ways_to_a_token_or_half_of_one_are_refused(self, given: dict[str, str]) -> None:
        with pytest.raises(UsageError, match="TOKEN"):
            load(api_endpoint="https://api.example.org", **given)

    def test_take_the_clients_secret_from_a_file(self, far_side: FarSide, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text(CLIENT_SECRET + "\n")
        settings = load(
            api_endpoint=far_side.url,
            token_url=far_side.token_url,
            client_id=CLIENT_ID,
            client_secret_file=path,
        )
        with closing(Platform(settings)) as platform:
            assert platform.presign().key in far_side.keys_handed_out
        path.unlink()
        with pytest.raises(UsageError, match="DICOM_INGEST_CLIENT_SECRET_FILE"):
            Platform(settings)

    def test_are_digested_without_their_secrets(self) -> None:
        """The same digest for another token; another for another setting."""
        one, other = (load(api_endpoint="https://a.example.org", token=token) for token in ("x", "y"))
        assert one.digest == other.digest
        assert one.digest != load(api_endpoint="https://b.example.org", token="x").digest
        assert one.credential.startswith("token ")
        assert one.credential != other.credential


def test_a_run_in_which_some_files_are_forbidden_renews_its_token_once(
    near_side: NearSide, far_side: FarSide, dicom: Dicom
) -> None:
    """Not once for each of them: 403 was about something else."""
    for number in range(60):
        near_side.put(f"0/{number}", dicom(f"1.{number}"))
    far_side.script = once_begun(
        lambda request: status(403) if request.step is Step.PRESIGN and not request.n % 10 else None
    )
    client = {"token": "", "token_url": far_side.token_url, "client_id": CLIENT_ID}
    run = near_side.run(**client, client_secret=CLIENT_SECRET, parallel=4)
    assert run.summary.by_status == {"uploaded": 60}
    assert len(far_side.asked(Step.PRESIGN)) > 60 + 5, "so many were forbidden"
    assert len(far_side.asked(Step.TOKEN)) == 2
