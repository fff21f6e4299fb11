"""What sends files, put together as the settings say: in the run's own process, and in each of its hands."""

import logging
import random
import threading
import time
from collections.abc import Callable
from functools import cache

from httpx import URL

from tasks.core.allowed_hosts import is_loopback
from tasks.core.errors import CredentialsRefusedError, UsageError
from tasks.remote.credentials import ApiKey, Credentials, StaticToken, TokenFile, secret_in
from tasks.remote.http_pool import Connections, Timeouts, transport_to, trust
from tasks.remote.upload_api import UploadClient
from tasks.settings import Settings
from tasks.upload.slots import Slots
from tasks.upload.transfer import HELD_BYTES_IN_ALL, Carrier, FileLedger

log = logging.getLogger("dicom_ingest")


def connect(settings: Settings) -> UploadClient:
    """The client of the upload API."""
    trusted = cache(lambda: trust(settings.ca_bundle))
    if settings.ca_bundle:
        trusted()  # a wrong one is known before anything is sent
    connections = Connections(lambda url: transport_to(url, trusted), Timeouts())
    return UploadClient(
        settings.api_endpoint,
        _credentials(settings, connections),
        connections,
        api_key=_api_key(settings),
        signs_in_by=_signs_in_by(settings),
        storage_hosts=settings.allow_storage_host,
        allow_http=settings.allow_http,
    )


def file_transfer(
    settings: Settings,
    client: UploadClient,
    ledger: FileLedger,
    slots: Slots,
    stopping: threading.Event,
    held_bytes: int = HELD_BYTES_IN_ALL,
    jitter: Callable[[], float] = random.random,
    clock: Callable[[], float] = time.monotonic,
) -> Carrier:
    """What takes a file its way; all files under way hold no more than `held_bytes`."""
    client.reach = ledger.reach
    return Carrier(
        client,
        ledger,
        slots,
        stopping,
        on_conflict=settings.on_conflict,
        accept=settings.accepted,
        budgets=settings.budgets,
        max_outage_s=settings.max_outage,
        held_bytes=held_bytes,
        jitter=jitter,
        clock=clock,
    )


def warn_without_credentials(settings: Settings) -> None:
    """An API on another machine that lets anybody upload is hardly what was meant."""
    if not settings.credential_settings and not is_loopback(URL(settings.api_endpoint).host):
        log.warning("No credentials are set: files go to an API that lets anybody upload.")


def _credentials(settings: Settings, connections: Connections) -> Credentials:
    if settings.token_file:
        return TokenFile(settings.token_file)
    if settings.token_url:
        from tasks.remote.oauth2_client import ClientCredentials

        return ClientCredentials(
            connections,
            settings.token_url,
            settings.client_id,
            _client_secret(settings),
            settings.scope,
            settings.audience,
        )
    return StaticToken(settings.token.get_secret_value())


def _api_key(settings: Settings) -> ApiKey | None:
    if (path := settings.api_key_file) is not None:
        return ApiKey(settings.api_key_header, lambda: secret_in(path, "DICOM_INGEST_API_KEY_FILE"))
    if settings.api_key:
        return ApiKey(settings.api_key_header, settings.api_key.get_secret_value)
    return None


def _signs_in_by(settings: Settings) -> str:
    names = settings.credential_settings
    return f"with what {names} says" if names else "without credentials"


def _client_secret(settings: Settings) -> str:
    if not settings.client_secret_file:
        return settings.client_secret.get_secret_value()
    try:
        return secret_in(settings.client_secret_file, "DICOM_INGEST_CLIENT_SECRET_FILE")
    except CredentialsRefusedError as error:
        raise UsageError(f"{error} Nothing was sent.") from None
