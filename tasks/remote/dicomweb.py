"""A DICOMweb server: STOW-RS, QIDO-RS and WADO-RS (DICOM PS3.18, 10) on the HTTP engine.

    POST {url}/studies/{study}                                     multipart/related, instances byte for byte
    GET  {url}/studies/{study}/instances?limit=..&offset=..        which ones are there (`qido.py`)
    GET  {url}/studies/{study}/series/{series}/instances/{sop}     one of them, transfer-syntax=*
    GET  {url}/studies/{study}/metadata

Every request that does not work raises a Fault of one kind; `core/retry.py` decides what follows. Credentials
that the server refuses are a CredentialsRefusedError.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from tasks.core.errors import Fault, FaultKind, TooLargeFault
from tasks.core.http_messages import Answer, Limits, Request
from tasks.core.qido_rows import QidoResult, SeenInstance
from tasks.core.server_silence import SILENT, SLOW
from tasks.core.stow_answers import InstanceAnswer, instance_answers, names_any
from tasks.core.stow_body import Part as Part
from tasks.core.stow_body import body, body_bytes, content_type, held_pieces, is_in
from tasks.core.stow_profiles import PROFILES
from tasks.dicomweb_settings import DicomwebSettings
from tasks.remote.curl_engine import Engine
from tasks.remote.dicomweb_requests import (
    JSON,
    NOT_THERE,
    DicomwebRequests,
    fault_of,
    in_url,
    rubbish_fault,
)
from tasks.remote.instance_receiver import InstanceReceiver
from tasks.remote.qido import LIMITS as QUERY_LIMITS
from tasks.remote.qido import Queries

if TYPE_CHECKING:
    import httpx

_INSTANCE: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_MIB: Final = 1024 * 1024
STORE_LIMITS: Final = Limits(silence_s=300.0, body_bytes=4 * _MIB)  # it stores before it answers
METADATA_LIMITS: Final = Limits(silence_s=300.0, answer_s=900.0, body_bytes=256 * _MIB)
RETRIEVE_LIMITS: Final = Limits(silence_s=120.0, answer_s=3600.0, body_bytes=8 * 1024 * _MIB)
_TIMED_OUT: Final = frozenset({408, 504})


class DicomwebClient:
    """To be used in the event loop's thread alone."""

    def __init__(
        self,
        engine: Engine,
        settings: DicomwebSettings,
        http: "httpx.AsyncClient",
        *,
        allow_http: bool = False,
        store_limits: Limits = STORE_LIMITS,
        query_limits: Limits = QUERY_LIMITS,
        page_rows: int = 0,
    ) -> None:
        """`http`: over the same engine, for the token endpoint. UsageError for addresses not to be used.

        `page_rows`: of a QIDO-RS page; 0: as many as such a server gives.
        """
        self.profile = PROFILES[settings.dicomweb_server]
        self._requests = DicomwebRequests(engine, settings, http, allow_http=allow_http)
        self._queries = Queries(
            self._requests,
            page_rows or self.profile.page_rows,
            query_limits,
            by_series=self.profile.by_series,
        )
        self._store_limits = store_limits

    async def check(self) -> None:
        """Whether there is a DICOMweb server at all. Raises Fault, SETTINGS when there is another one."""
        await self._queries.check()

    async def store(self, study_uid: str, parts: Sequence[Part], sent: Sequence[str]) -> list[InstanceAnswer]:
        """Send instances of one study; what the server says about each, in order (`core/stow_answers.py`).

        Raises Fault when it says nothing about any; TooLargeFault for 413 and time-outs, upon which half of
        it may work. Who asks again asks QIDO-RS first: a request without an answer may have been carried out.
        What the parts raise while they are sent is raised here.
        """
        held = held_pieces(parts)
        boundary = _boundary(held)
        headers = {"Accept": JSON, "Content-Type": content_type(boundary)}
        size_bytes = body_bytes(boundary, parts)

        async def send(request: Request) -> Answer:
            pieces = body(boundary, parts)
            return await self._requests.engine.send_streamed(
                request,
                pieces,
                size_bytes,
                self._store_limits,
                asks_first=False,
                is_held=len(held) == len(parts),
            )

        try:
            answer = await self._requests.ask("POST", f"/studies/{in_url(study_uid)}", headers, send)
        except Fault as fault:
            raise _smaller(fault) from None
        if answer.is_cut:
            answer = replace(answer, body=b"")
        answers = instance_answers(self.profile, answer.status, answer.body, sent)
        if not 200 <= answer.status < 300 and not names_any(answers):
            _raise_for_all(answer)
        return answers

    async def instances(self, study_uid: str) -> QidoResult:
        """Which instances of a study are there, and whether that is all of them (`qido.py`)."""
        return await self._queries.instances(study_uid)

    async def related(self, study_uid: str) -> int | None:
        """How many instances of a study it says there are; None: it does not say."""
        return await self._queries.related(study_uid)

    async def has_instance(self, study_uid: str, sop_instance_uid: str) -> bool:
        """Whether a study has this instance: by a query of its own."""
        return await self._queries.has_instance(study_uid, sop_instance_uid)

    async def find_instance(self, sop_instance_uid: str, study_uid: str = "") -> SeenInstance | None:
        """Where this instance is, whatever its study; in this one, where a server can't search all.

        Raises Fault, SETTINGS, when it can't and no study is named.
        """
        return await self._queries.find_instance(sop_instance_uid, study_uid)

    async def retrieve(self, study_uid: str, series_uid: str, sop_instance_uid: str, into: BinaryIO) -> None:
        """One instance, as it is stored there, written to a file as it comes.

        Raises Fault, with http_status 404 when it is not there; what was written until then is for nobody.
        """
        series = f"/studies/{in_url(study_uid)}/series/{in_url(series_uid)}"
        path = f"{series}/instances/{in_url(sop_instance_uid)}"
        receiver = InstanceReceiver(into.write)

        async def send(request: Request) -> Answer:
            return await self._requests.engine.receive(request, receiver, RETRIEVE_LIMITS)

        answer = await self._requests.ask("GET", path, {"Accept": _INSTANCE}, send)
        if not 200 <= answer.status < 300:
            raise fault_of(answer, "WADO-RS")
        if answer.is_cut:
            raise Fault(FaultKind.REJECTED, "the DICOMweb server's answer has no end", answer.status)
        receiver.finish()

    async def metadata(self, study_uid: str) -> list[dict[str, Any]]:
        """A study's data sets without bulk data, in the DICOM JSON model."""
        answer = await self._requests.get(f"/studies/{in_url(study_uid)}/metadata", METADATA_LIMITS)
        if not 200 <= answer.status < 300:
            raise fault_of(answer, "WADO-RS")
        try:
            found = [] if answer.status == 204 else json.loads(answer.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found) or answer.is_cut:
            raise rubbish_fault(answer, "WADO-RS")
        return found

    def close(self) -> None:
        """Give back the idle connections."""
        self._requests.engine.close()


def _raise_for_all(answer: Answer) -> None:
    """The Fault of an answer to STOW-RS that names no instance; none where QIDO-RS has to say about each."""
    what, status = f"the DICOMweb server answered {answer.status} to STOW-RS", answer.status
    if status == 413:
        raise TooLargeFault(FaultKind.REJECTED, what, status)
    if status in _TIMED_OUT:
        raise TooLargeFault(FaultKind.SERVER, what, status, answer.retry_after_s())
    if answer.trouble() or status == 403 or status in NOT_THERE or 300 <= status < 400:
        raise fault_of(answer, "STOW-RS")


def _boundary(held: Sequence[Sequence[bytes]]) -> str:
    """One that nobody could know before, and that is not in what is held."""
    while True:
        boundary = f"dicom-ingest-{secrets.token_hex(16)}"
        if not is_in(boundary, held):
            return boundary


def _smaller(fault: Fault) -> Fault:
    """A time-out as what half of the request may not have."""
    if fault.kind is FaultKind.NETWORK and str(fault) in (SILENT, SLOW):
        return TooLargeFault(fault.kind, str(fault), fault.http_status)
    return fault
