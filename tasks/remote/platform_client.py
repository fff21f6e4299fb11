"""The platform as a run talks to it: the upload API and its object store, in one event loop."""

import logging
from urllib.parse import urlsplit

from tasks.concurrency.event_loop import EventLoop
from tasks.core.allowed_hosts import is_loopback
from tasks.remote.credentials import api_key_of, credentials_of
from tasks.remote.curl_engine import Engine
from tasks.remote.tls import TlsPolicy
from tasks.remote.upload_api import PresignedUrl, UploadClient
from tasks.settings import Settings

log = logging.getLogger("dicom_ingest")


class Platform:
    """The upload API and its object store, and the event loop in which they are talked to."""

    def __init__(self, settings: Settings) -> None:
        """UsageError for certificates that can't be used; nothing is asked yet."""
        tls = TlsPolicy(settings.ca_bundle, settings.client_cert, settings.client_key, settings.api_endpoint)
        self.loop = EventLoop()
        try:
            self.client = self.loop.run(_client(settings, tls))
        except BaseException:
            self.loop.close()
            raise

    def presign(self) -> PresignedUrl:
        """One URL, for who is not in the loop's thread."""
        return self.loop.run(self.client.presign())

    def close(self) -> None:
        """Gives connections and thread back."""
        self.loop.call(self.client.close)
        self.loop.close()


async def _client(settings: Settings, tls: TlsPolicy) -> UploadClient:
    engine, names = Engine(tls), settings.credential_settings
    return UploadClient(
        settings.api_endpoint,
        credentials_of(settings, engine),
        engine,
        api_key=api_key_of(settings),
        signs_in_by=f"with what {names} says" if names else "without credentials",
        storage_hosts=settings.allow_storage_host,
        allow_http=settings.allow_http,
    )


def warn_without_credentials(settings: Settings) -> None:
    """An API on another machine that lets anybody upload is hardly what was meant."""
    if not settings.credential_settings and not is_loopback(urlsplit(settings.api_endpoint).hostname or ""):
        log.warning("No credentials are set: files go to an API that lets anybody upload.")
