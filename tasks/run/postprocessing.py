"""Post-processing: a registered study by its number in the ledger, its metadata, and where a result goes.

    from tasks.declaration import load_as
    from tasks.postprocess_settings import PostprocessSettings
    from tasks.run.postprocessing import registered_study

    with registered_study(17, load_as(PostprocessSettings)) as study:
        study.deliver({"slices": len(study.metadata())})

The number is all that Prefect knows of a study; its UID goes from the ledger to the DICOMweb server, and to
where the operator has results sent.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tasks.concurrency.event_loop import EventLoop
from tasks.core.errors import Fault, StoppedError, UsageError
from tasks.ledger.private_directories import make_directories
from tasks.ledger.registered_studies import KnownStudy, known_study
from tasks.postprocess_settings import PostprocessSettings
from tasks.remote.curl_engine import Engine
from tasks.remote.dicomweb import DicomwebClient
from tasks.remote.engine_transport import http_client
from tasks.remote.tls import TlsPolicy
from tasks.remote.webhook import Webhook
from tasks.report.directory import private_file

EVENT: Final = "dicom.study.registered"


@dataclass(frozen=True, slots=True)
class RegisteredStudy:
    """One study, and the ways to its metadata and for its result."""

    study_no: int
    study_instance_uid: str
    label: str  # opaque; empty without one
    _known: KnownStudy = field(repr=False)
    _loop: EventLoop = field(repr=False)
    _client: DicomwebClient = field(repr=False)
    _webhook: Webhook | None = field(repr=False)
    _result_dir: Path | None = field(repr=False)

    def metadata(self) -> Sequence[Mapping[str, Any]]:
        """One data set for each instance, in the DICOM JSON model without bulk data (PS3.18, 10.4).

        Raises StoppedError when the server does not give it, CredentialsRefusedError when it refuses us.
        """
        try:
            return self._loop.run(self._client.metadata(self.study_instance_uid))
        except Fault as fault:
            raise StoppedError(
                f"The DICOMweb server gave no metadata of the study: {fault}. Run it again when it does."
            ) from None

    def deliver(self, result: Mapping[str, Any]) -> None:
        """Writes the result to the result directory, and posts it to the webhook: wherever settings say.

        Delivered again, a completion's result replaces the file, and has the same webhook-id. Raises
        StoppedError when a directory can't be written, or the webhook takes nothing after several tries.
        """
        message = json.dumps({"type": EVENT, "study": self.study_no, "label": self.label, "data": {**result}})
        if self._result_dir:
            self._write(self._result_dir, message)
        if self._webhook:
            self._post(self._webhook, message)

    def _write(self, directory: Path, message: str) -> None:
        try:
            make_directories(directory)
            with private_file(directory, f"study-{self.study_no}.json") as file:
                file.write(message.encode() + b"\n")
        except (OSError, StoppedError):
            raise StoppedError(
                "The study's result can't be written to DICOM_INGEST_RESULT_DIR. Look after that directory "
                "and its disk, then run the study again."
            ) from None

    def _post(self, webhook: Webhook, message: str) -> None:
        try:
            self._loop.run(webhook.post(self._known.event_id, message))
        except Fault as fault:
            raise StoppedError(
                f"The webhook did not take the study's result: {fault}. Look after its receiver, "
                "DICOM_INGEST_WEBHOOK_URL and _WEBHOOK_SECRET, then run the study again."
            ) from None


@contextmanager
def registered_study(study_no: int, settings: PostprocessSettings) -> Iterator[RegisteredStudy]:
    """A study by its number in the ledger. Raises UsageError when that has no such study."""
    known = known_study(settings.ledger_at, settings.campaign, study_no)
    if known is None:
        raise UsageError(
            f"The ledger has no study {study_no} of this campaign. Give the worker the ledger that ingest "
            "has: DICOM_INGEST_LEDGER and DICOM_INGEST_CAMPAIGN."
        )
    tls = TlsPolicy(settings.ca_bundle, settings.client_cert, settings.client_key, settings.dicomweb_url)
    loop = EventLoop()
    try:
        engine, client, webhook = loop.run(_connections(settings, tls))
        yield RegisteredStudy(
            study_no,
            known.study_instance_uid,
            known.label,
            known,
            loop,
            client,
            webhook,
            settings.result_dir,
        )
        loop.call(engine.close)
    finally:
        loop.close()


async def _connections(
    settings: PostprocessSettings, tls: TlsPolicy
) -> tuple[Engine, DicomwebClient, Webhook | None]:
    engine = Engine(tls)
    secret = settings.webhook_secret.get_secret_value()
    webhook = Webhook(engine, settings.webhook_url, secret) if settings.webhook_url else None
    client = DicomwebClient(engine, settings, http_client(engine), allow_http=settings.allow_http)
    return engine, client, webhook
