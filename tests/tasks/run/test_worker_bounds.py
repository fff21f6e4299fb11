"""What parameters of a deployment's run may do to what its worker sets, and where its secrets go."""

from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import UsageError
from tasks.run.worker_bounds import load_bounded
from tasks.settings import Settings

API = "https://api.example.org"
OURS = "postgresql://ingest@db.example/ledger"
SECRET = "a-secret-of-the-worker"


@pytest.fixture(autouse=True)
def nobody_elses_settings(only_our_settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has the PostgreSQL client any, of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGHOST", "PGPORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Its environment, with the names that settings have there."""
    return monkeypatch


def sets(worker: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        worker.setenv(name if name.startswith("PG") else f"DICOM_INGEST_{name.upper()}", value)


def bounded(block: dict[str, Any] | None = None, **parameters: Any) -> Settings:
    return load_bounded(block or {}, parameters)


def refusal(block: dict[str, Any] | None = None, **parameters: Any) -> str:
    with pytest.raises(UsageError) as raised:
        bounded(block, **parameters)
    return str(raised.value)


class TestEndpoint:
    @pytest.mark.parametrize(
        "given",
        [API, f"{API}/", f"{API}:443", f"{API}/upload/", "HTTPS://API.example.org", f"{API}/tenant-a", ""],
    )
    def test_may_be_the_workers_or_below_it(self, worker: pytest.MonkeyPatch, given: str) -> None:
        sets(worker, api_endpoint=API, token=SECRET)
        settings = bounded(**({"api_endpoint": given} if given else {}))
        assert settings.token.get_secret_value() == SECRET

    @pytest.mark.parametrize(
        "given",
        [
            "https://evil.example",
            f"{API}:8443",
            f"{API}.evil.example",
            "http://api.example.org",
            "https://127.0.0.1",
        ],
    )
    def test_may_be_no_other(self, worker: pytest.MonkeyPatch, given: str) -> None:
        """Whether there are credentials or not: files go there, too. The sentence names the setting alone."""
        sets(worker, api_endpoint=API, allow_http="true")
        said = refusal(api_endpoint=given)
        assert "This run's api_endpoint goes beyond DICOM_INGEST_API_ENDPOINT of its worker" in said
        assert "example" not in said

    @pytest.mark.parametrize("path", ["/b", "/a-and-more", "/a/../b", "/a/%2e%2e/b"])
    def test_stays_below_the_workers_path(self, worker: pytest.MonkeyPatch, path: str) -> None:
        sets(worker, api_endpoint=f"{API}/a")
        assert bounded(api_endpoint=f"{API}/a/b").api_endpoint == f"{API}/a/b"
        assert "api_endpoint goes beyond" in refusal(api_endpoint=f"{API}{path}")

    @pytest.mark.parametrize("ours", ["https://[", "https://xn--a.example", f"{API}?x", "nonsense"])
    def test_of_a_worker_that_is_none_permits_none(self, worker: pytest.MonkeyPatch, ours: str) -> None:
        sets(worker, api_endpoint=ours)
        assert "api_endpoint goes beyond" in refusal(api_endpoint=API)

    def test_of_a_block_is_bound_as_well(self, worker: pytest.MonkeyPatch) -> None:
        """A block is kept by Prefect's server, where others may edit it."""
        sets(worker, api_endpoint=API)
        block = {"api_endpoint": "https://evil.example", "token": "of the block"}
        assert "api_endpoint goes beyond" in refusal(block)
        assert bounded(block | {"api_endpoint": API}).token.get_secret_value() == "of the block"


class TestCredentials:
    @pytest.mark.parametrize("name", ["token", "token_file", "api_key", "api_key_file"])
    def test_go_to_no_endpoint_that_their_environment_does_not_name(
        self, worker: pytest.MonkeyPatch, name: str
    ) -> None:
        """Neither to one that is a parameter nor to a block's."""
        sets(worker, **{name: SECRET})
        for said in (refusal(api_endpoint=API), refusal({"api_endpoint": API})):
            assert f"The worker's environment has credentials ({name})" in said
            assert SECRET not in said
        sets(worker, api_endpoint=API)
        assert getattr(bounded(api_endpoint=API), name)

    def test_of_a_block_go_to_the_blocks_endpoint_alone(self) -> None:
        block = {"api_endpoint": API, "token": SECRET}
        assert bounded(block).token.get_secret_value() == SECRET
        assert bounded(block, api_endpoint=f"{API}/deeper").token.get_secret_value() == SECRET
        said = refusal(block, api_endpoint="https://evil.example")
        assert "The block has credentials (token)" in said
        assert SECRET not in said

    def test_of_a_block_win_and_those_of_the_environment_stay_where_they_are(
        self, worker: pytest.MonkeyPatch
    ) -> None:
        sets(worker, api_key=SECRET)
        settings = bounded({"api_endpoint": API, "api_key": "of the block"})
        assert settings.api_key.get_secret_value() == "of the block"

    def test_of_the_client_go_to_the_workers_token_endpoint_alone(self, worker: pytest.MonkeyPatch) -> None:
        """Which a block could name, too."""
        sets(
            worker, api_endpoint=API, client_id="me", client_secret=SECRET, token_url="https://idp.example/t"
        )
        assert bounded().token_url == "https://idp.example/t"
        block = {"api_endpoint": API, "token_url": "https://evil.example/t"}
        said = refusal(block)
        assert "(client_secret) and does not name this run's token_url" in said
        assert bounded(block | {"client_id": "it", "client_secret": "its"}).client_id == "it"


class TestLedger:
    @pytest.mark.parametrize(
        "given", [OURS, "postgresql://other@DB.example:5432/another", "postgresql+psycopg://db.example/x", ""]
    )
    def test_may_be_on_the_workers_server(self, worker: pytest.MonkeyPatch, given: str) -> None:
        """Also where the form sends an empty one."""
        sets(worker, ledger=OURS, PGPASSWORD=SECRET)
        assert bounded(api_endpoint=API, ledger=given).ledger == (given or OURS)

    @pytest.mark.parametrize(
        "given",
        [
            "postgresql://evil/ledger",
            "postgresql://db.example:6432/ledger",
            "postgresql:///ledger?host=evil",
            "postgresql://db.example/ledger?host=evil",
            "postgresql://db.example/ledger?hostaddr=10.0.0.1",
            "postgresql://db.example/ledger?sslmode=disable",
            "postgresql://db.example/ledger?service=other",
            "postgresql+psycopg2://db.example/ledger",
            "mysql+pymysql://db.example/ledger",
            "postgresql:///ledger",
            "ledger.sqlite",
            "sqlite:////tmp/ledger.sqlite",
            "nonsense://",
        ],
    )
    def test_may_be_nowhere_else(self, worker: pytest.MonkeyPatch, given: str) -> None:
        """Nor be reached in another way: without TLS, by an entry of a service file."""
        sets(worker, ledger=OURS)
        said = refusal(api_endpoint=API, ledger=given)
        assert "This run's ledger goes beyond DICOM_INGEST_LEDGER of its worker" in said
        assert "evil" not in said

    def test_of_a_worker_with_a_file_stays_a_file(self, worker: pytest.MonkeyPatch) -> None:
        sets(worker, ledger="/var/lib/ledger.sqlite")
        assert bounded(api_endpoint=API, ledger="/var/lib/other.sqlite").ledger == "/var/lib/other.sqlite"
        assert "ledger goes beyond" in refusal(api_endpoint=API, ledger="postgresql://evil/ledger")

    @pytest.mark.parametrize("name", ["PGPASSWORD", "PGPASSFILE", "PGSERVICE"])
    def test_gets_no_password_on_a_server_that_the_environment_does_not_name(
        self, worker: pytest.MonkeyPatch, name: str
    ) -> None:
        assert bounded(api_endpoint=API, ledger=OURS).ledger == OURS, "there is none"
        sets(worker, **{name: SECRET})
        said = refusal(api_endpoint=API, ledger=OURS)
        assert "does not name this run's ledger" in said
        assert SECRET not in said
        assert bounded(api_endpoint=API, ledger="postgresql:///ledger"), "libpq's own variables name it"
        sets(worker, PGHOST="db.example")
        assert bounded(api_endpoint=API, ledger=OURS).ledger == OURS
        assert bounded(api_endpoint=API, ledger=f"{OURS}?sslmode=verify-full")
        for other in (
            f"{OURS}?host=evil",
            f"{OURS}?sslmode=disable",
            f"{OURS}?require_auth=password",
            "postgresql://db.example:6432/ledger",
            "postgresql://:6432/ledger",
        ):
            assert "does not name" in refusal(api_endpoint=API, ledger=other)

    def test_gets_none_from_a_file_either(self, tmp_path: Path) -> None:
        """~/.pgpass, whose lines may be for any host; a service file's entry."""
        assert "does not name" in refusal(api_endpoint=API, ledger=f"{OURS}?service=other")
        (tmp_path / ".pgpass").touch()
        assert "does not name" in refusal(api_endpoint=API, ledger=OURS)


class TestRoot:
    def test_may_be_a_directory_below_the_workers(self, worker: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "archive" / "ct").mkdir(parents=True)
        (tmp_path / "archive" / "out").symlink_to(tmp_path)
        archive = str(tmp_path / "archive")
        sets(worker, api_endpoint=API, root=archive)
        assert bounded(root="").root == bounded().root == archive
        assert bounded(root=f"{archive}/ct").root == f"{archive}/ct"
        for outside in (
            "/",
            str(tmp_path),
            f"{archive}/..",
            f"{archive}-2",
            f"{archive}/out",
            f"{archive}\0",
        ):
            assert "root goes beyond DICOM_INGEST_ROOT" in refusal(root=outside)


class TestStorageHosts:
    def test_may_be_fewer_than_the_workers(self, worker: pytest.MonkeyPatch) -> None:
        sets(worker, api_endpoint=API, allow_storage_host='["*.amazonaws.com", "store.example"]')
        ours = ("*.amazonaws.com", "store.example")
        assert bounded(allow_storage_host=[]).allow_storage_host == bounded().allow_storage_host == ours
        for fewer in ("store.example", "*.s3.amazonaws.com", "b.s3.amazonaws.com", "B?.amazonaws.com"):
            assert bounded(allow_storage_host=[fewer]).allow_storage_host == (fewer,)
        for more in ("*", "*.com", "*amazonaws.com", "store.*", "10.0.0.1", "[a-z].amazonaws.com"):
            said = refusal(allow_storage_host=["store.example", more])
            assert "allow_storage_host goes beyond DICOM_INGEST_ALLOW_STORAGE_HOST" in said
        assert "goes beyond" in refusal({"allow_storage_host": ["evil.example"]})

    def test_may_be_any_where_the_worker_has_none(self, worker: pytest.MonkeyPatch) -> None:
        sets(worker, api_endpoint=API)
        assert bounded(allow_storage_host=["*.example"]).allow_storage_host == ("*.example",)


class TestPlainHttp:
    @pytest.mark.parametrize(("ours", "given"), [("true", True), ("1", False), ("false", False), ("", True)])
    def test_may_be_forbidden(self, worker: pytest.MonkeyPatch, ours: str, given: bool) -> None:
        """And permitted where the worker says nothing."""
        sets(worker, api_endpoint=API, **({"allow_http": ours} if ours else {}))
        assert bounded(allow_http=given).allow_http is given

    @pytest.mark.parametrize("ours", ["false", "0", "no"])
    def test_may_not_be_permitted_where_the_worker_forbids_it(
        self, worker: pytest.MonkeyPatch, ours: str
    ) -> None:
        sets(worker, api_endpoint=API, allow_http=ours)
        assert "allow_http goes beyond DICOM_INGEST_ALLOW_HTTP" in refusal(allow_http=True)
