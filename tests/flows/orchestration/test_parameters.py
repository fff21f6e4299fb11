"""The form of a run, as Prefect's server checks it before it keeps anything."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

from flows.backfill import backfill
from flows.migrate import migrate, migrate_shard

SECRET = "pass-word-of-somebody"


@pytest.fixture(params=[backfill, migrate, migrate_shard])
def deployment(request: pytest.FixtureRequest, prefect_server: Path) -> Iterator[UUID]:
    """Of each flow."""
    yield request.param.to_deployment(f"form-{request.param.name}").apply()


OTHERS: dict[str, Any] = {"manifest": "/m.csv"}
OF_SHARD: dict[str, Any] = {"migration": "r", "shard_no": 1, "slots": 1, "limit": "l", "report_dir": "/r"}


def keep(deployment: UUID, **parameters: Any) -> None:
    """As the form does it."""
    with get_client(sync_client=True) as client:
        flow = client.read_flow(client.read_deployment(deployment).flow_id).name
        given = (OF_SHARD if flow == "migrate-shard" else OTHERS) | parameters
        client.create_flow_run_from_deployment(deployment, parameters=given)


def kept() -> str:
    with get_client(sync_client=True) as client:
        return json.dumps([run.model_dump(mode="json") for run in client.read_flow_runs()])


class TestForm:
    def test_refuses_a_password_in_a_url_before_it_is_kept(self, deployment: UUID) -> None:
        """In the ledger's, however it is written, and in the endpoint's."""
        for ledger in (
            f"postgresql://h/db?password={SECRET}",
            f"postgresql://h/db?sslmode=require&PASSWORD={SECRET}",
            f"postgresql://h/db?x=1\n&password={SECRET}",
            f"postgresql://h/db?p%61ssword={SECRET}",
            f"postgresql://h/db?sslpassword={SECRET}",
            f"mysql://h/db?passwd={SECRET}",
            f"postgresql://us@er:{SECRET}@h/db",
            f"postgresql://user:{SECRET}/x@h/db",
        ):
            with pytest.raises(PrefectHTTPStatusError, match="409"):
                keep(deployment, options={"ledger": ledger})
        for endpoint in (
            f"https://me:{SECRET}@h/",
            f"https://{SECRET}@h/",
            f"me:{SECRET}@h",
            f"https://h/?key={SECRET}",
            f"https://h/#{SECRET}",
        ):
            with pytest.raises(PrefectHTTPStatusError, match="409"):
                keep(deployment, api_endpoint=endpoint)
        assert SECRET not in kept()

    def test_takes_what_people_have(self, deployment: UUID) -> None:
        keep(deployment)
        for ledger in (
            "",
            "/var/lib/password=x/ledger.sqlite",
            "sqlite:////var/lib/ledger.sqlite",
            "postgresql://user@h:5432/db?sslmode=verify-full&options=-c%20x=1",
            "postgresql://h/password?passfile=/run/pgpass",
        ):
            keep(deployment, options={"ledger": ledger})
        for endpoint in ("", "https://h", "https://h:8443/v1/upload/", "https://h/@tenant/"):
            keep(deployment, api_endpoint=endpoint)
