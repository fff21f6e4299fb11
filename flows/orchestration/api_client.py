"""The client of Prefect's API, as what runs beside a flow connects to its server."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from prefect.client.orchestration import SyncPrefectClient, get_client

Connect: TypeAlias = Callable[[], AbstractContextManager[SyncPrefectClient]]


def connect() -> AbstractContextManager[SyncPrefectClient]:
    """A client of the server that this flow run is at."""
    return get_client(sync_client=True)
