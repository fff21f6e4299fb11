"""Whose Prefect server the flows of this process run at."""

import os

_own_servers: set[str] = set()  # by their URLs: one at most, as long as the process lives


def use_own_server(url: str) -> None:
    """From now on Prefect's client in this process asks the embedded server at this URL."""
    from prefect.context import refresh_global_settings_context

    _own_servers.add(url)
    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()


def has_own_server() -> bool:
    """Whether flows of this process run at an embedded server, which no other process uses."""
    return bool(_own_servers)
