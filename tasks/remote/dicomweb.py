"""A DICOMweb server: STOW-RS, QIDO-RS and WADO-RS (DICOM PS3.18, 10) on the HTTP engine.

    POST {url}/studies/{study}                                     multipart/related, instances byte for byte
    GET  {url}/studies/{study}/instances?limit=..&offset=..        which ones are there
    GET  {url}/studies/{study}/series/{series}/instances/{sop}     one of them, transfer-syntax=*
    GET  {url}/studies/{study}/metadata

Every request that does not work raises a Fault of one kind; `core/retry.py` decides what follows. What the
server refuses credentials for is CredentialsRefusedError.
"""

import json
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import quote, urljoin

from tasks.core.dicom_json import DataSet, NotDicomError, data_sets
from tasks.core.errors import Fault, FaultKind, TooLargeFault, UsageError
from tasks.core.http_messages import Answer, Limits, Request, plain_url
from tasks.core.qido_rows import QidoResult, Seen, SeenInstance, related_instances, seen_instances
from tasks.core.server_silence import SILENT, SLOW
from tasks.core.stow_answers import InstanceAnswer, instance_answers, names_any
from tasks.core.stow_body import Part as Part
from tasks.core.stow_body import body, body_bytes, content_type, is_in_held
from tasks.core.stow_profiles import PROFILES
from tasks.dicomweb_settings import DicomwebSettings
from tasks.remote.curl_engine import Engine
from tasks.remote.dicomweb_credentials import check_address, dicomweb_credentials, refusal
from tasks.remote.instance_receiver import InstanceReceiver

if TYPE_CHECKING:
    import httpx

_JSON: Final = "application/dicom+json"
_INSTANCE: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_MIB: Final = 1024 * 1024
STORE_LIMITS: Final = Limits(silence_s=300.0, body_bytes=4 * _MIB)  # it stores before it answers
QUERY_LIMITS: Final = Limits(silence_s=120.0, body_bytes=16 * _MIB)
METADATA_LIMITS: Final = Limits(silence_s=300.0, answer_s=900.0, body_bytes=256 * _MIB)
RETRIEVE_LIMITS: Final = Limits(silence_s=120.0, answer_s=3600.0, body_bytes=8 * 1024 * _MIB)
_MAX_REDIRECTS: Final = 3
_TIMED_OUT: Final = frozenset({408, 504})
_WRONG_ADDRESS: Final = frozenset({404, 405, 410, 501, 505})

_Send = Callable[[Request], Coroutine[Any, Any, Answer]]


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
    ) -> None:
        """`http`: over the same engine, for the token endpoint. UsageError for addresses not to be used."""
        if not settings.dicomweb_url:
            raise UsageError("--dicomweb-url (DICOM_INGEST_DICOMWEB_URL) is not given.")
        check_address("DICOMWEB_URL", settings.dicomweb_url, allow_http=allow_http)
        self.profile = PROFILES[settings.dicomweb_server]
        self._engine = engine
        self._settings = settings
        self._base, self._origin = plain_url(settings.dicomweb_url.rstrip("/"))
        self._credentials = dicomweb_credentials(settings, http, allow_http=allow_http)
        self._store_limits = store_limits
        self._page_rows = self.profile.page_rows
        self._is_dicomweb = False  # its list of studies has been seen

    async def check(self) -> None:
        """Whether there is a DICOMweb server at all. Raises Fault, SETTINGS when there is another one."""
        await self._rows("/studies?limit=1", Seen.STUDY)
        self._is_dicomweb = True

    async def store(self, study_uid: str, parts: Sequence[Part], sent: Sequence[str]) -> list[InstanceAnswer]:
        """Send instances of one study; what the server says about each, in order (`core/stow_answers.py`).

        Raises Fault when it says nothing about any; TooLargeFault for 413 and time-outs, upon which half of
        it may work. Who asks again asks QIDO-RS first: a request without an answer may have been carried out.
        What the parts raise while they are sent is raised here.
        """
        boundary = _boundary(parts)
        headers = {"Accept": _JSON, "Content-Type": content_type(boundary)}
        size_bytes = body_bytes(boundary, parts)

        async def send(request: Request) -> Answer:
            pieces = body(boundary, parts)
            return await self._engine.send_streamed(request, pieces, size_bytes, self._store_limits)

        try:
            answer = await self._ask("POST", f"/studies/{_in_url(study_uid)}", headers, send)
        except Fault as fault:
            raise _smaller(fault) from None
        if answer.is_cut:
            answer = replace(answer, body=b"")
        answers = instance_answers(self.profile, answer.status, answer.body, sent)
        if not 200 <= answer.status < 300 and not names_any(answers):
            self._raise_for_all(answer)
        return answers

    async def instances(self, study_uid: str) -> QidoResult:
        """Which instances of a study are there, page by page, and whether that is all of them.

        Asked until a page is empty or brings nothing new: pages may repeat rows or lose some.
        """
        found: dict[str, SeenInstance] = {}
        path, offset = f"/studies/{_in_url(study_uid)}/instances", 0
        while True:
            rows = await self._page(path, offset)
            seen = seen_instances(rows, study_uid)
            if seen.keys() <= found.keys():
                break
            found |= seen
            offset += len(rows)
        related = await self._related(study_uid)
        return QidoResult(found, related)

    async def has_instance(self, study_uid: str, sop_instance_uid: str) -> bool:
        """Whether a study has this instance: by a query of its own."""
        path = f"/studies/{_in_url(study_uid)}/instances?SOPInstanceUID={_in_url(sop_instance_uid)}"
        return self._only(await self._rows(path), sop_instance_uid, study_uid) is not None

    async def find_instance(self, sop_instance_uid: str) -> SeenInstance | None:
        """Where this instance is, whatever its study."""
        path = f"/instances?SOPInstanceUID={_in_url(sop_instance_uid)}"
        return self._only(await self._rows(path), sop_instance_uid)

    async def retrieve(self, study_uid: str, series_uid: str, sop_instance_uid: str, into: BinaryIO) -> None:
        """One instance, as it is stored there, written to a file as it comes.

        Raises Fault, with http_status 404 when it is not there; what was written until then is for nobody.
        """
        path = (
            f"/studies/{_in_url(study_uid)}/series/{_in_url(series_uid)}"
            f"/instances/{_in_url(sop_instance_uid)}"
        )
        receiver = InstanceReceiver(into.write)

        async def send(request: Request) -> Answer:
            return await self._engine.receive(request, receiver, RETRIEVE_LIMITS)

        answer = await self._ask("GET", path, {"Accept": _INSTANCE}, send)
        if not 200 <= answer.status < 300:
            raise self._fault(answer, "WADO-RS")
        if answer.is_cut:
            raise Fault(FaultKind.REJECTED, "the DICOMweb server's answer has no end", answer.status)
        receiver.finish()

    async def metadata(self, study_uid: str) -> list[dict[str, Any]]:
        """A study's data sets without bulk data, in the DICOM JSON model."""
        answer = await self._get(f"/studies/{_in_url(study_uid)}/metadata", METADATA_LIMITS)
        if not 200 <= answer.status < 300:
            raise self._fault(answer, "WADO-RS")
        try:
            found = [] if answer.status == 204 else json.loads(answer.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found) or answer.is_cut:
            raise _rubbish(answer, "WADO-RS")
        return found

    def close(self) -> None:
        """Give back the idle connections."""
        self._engine.close()

    # -- QIDO-RS -------------------------------------------------------------------------------------------

    async def _page(self, path: str, offset: int) -> list[DataSet]:
        """The rows from this one on; fewer at once, where so many are too long an answer."""
        while True:
            try:
                return await self._rows(f"{path}?limit={self._page_rows}&offset={offset}")
            except TooLargeFault:
                if self._page_rows == 1:
                    raise
                self._page_rows = self._page_rows // 2

    async def _related(self, study_uid: str) -> int | None:
        """NumberOfStudyRelatedInstances (0020,1208), where the server says it."""
        query = f"/studies?StudyInstanceUID={_in_url(study_uid)}&includefield=00201208"
        return related_instances(await self._rows(query, Seen.STUDY), study_uid)

    def _only(
        self, rows: Sequence[DataSet], sop_instance_uid: str, study_uid: str = ""
    ) -> SeenInstance | None:
        """The one that was asked for. Raises Fault when there are others alone: nothing is known then."""
        seen = seen_instances(rows, study_uid)
        if rows and sop_instance_uid not in seen:
            raise Fault(FaultKind.SERVER, "the DICOMweb server answers a query with what was not asked for")
        return seen.get(sop_instance_uid)

    async def _rows(self, path: str, kind: Seen = Seen.INSTANCE) -> list[DataSet]:
        """What QIDO-RS answers: 204 and 404 are no matches, where the server is a DICOMweb server at all."""
        answer = await self._get(path, QUERY_LIMITS)
        if answer.status == 204:
            return []
        if answer.status == 404 and path.startswith("/studies/"):
            if not self._is_dicomweb:
                await self.check()
            return []
        if not 200 <= answer.status < 300:
            raise self._fault(answer, "QIDO-RS")
        if answer.is_cut:
            raise TooLargeFault(FaultKind.SERVER, "the DICOMweb server's answer is too long", answer.status)
        try:
            rows = data_sets(answer.body)
        except NotDicomError:
            raise _rubbish(answer, "QIDO-RS") from None
        if not answer.body.strip() or not all(row.get(kind) for row in rows):
            raise _rubbish(answer, "QIDO-RS")
        return rows

    async def _get(self, path: str, limits: Limits) -> Answer:
        async def send(request: Request) -> Answer:
            return await self._engine.send(request, limits)

        return await self._ask("GET", path, {"Accept": _JSON, "Cache-Control": "no-store"}, send)

    # -- one request ---------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, headers: Mapping[str, str], send: _Send) -> Answer:
        """Its answer; a refused token is renewed once. Raises CredentialsRefusedError for 401."""
        authorization = await self._credentials.authorization()
        answer = await self._follow(method, path, _signed(headers, authorization), send)
        if answer.status == 401:
            renewed = await self._credentials.authorization(authorization, 401)
            if renewed != authorization:
                answer = await self._follow(method, path, _signed(headers, renewed), send)
        if answer.status == 401:
            raise refusal(self._settings, 401)
        return answer

    async def _follow(self, method: str, path: str, headers: Mapping[str, str], send: _Send) -> Answer:
        """The answer behind redirects to the same scheme, host and port: nobody else gets the credentials."""
        url = f"{self._base}{path}"
        for _ in range(_MAX_REDIRECTS):
            answer = await send(Request(method, url, headers))
            location = answer.headers.get("location", "")
            if answer.status not in ((301, 302, 303, 307, 308) if method == "GET" else (307, 308)):
                return answer
            try:
                url, origin = plain_url(urljoin(url, location))
            except (Fault, ValueError):
                origin = None
            if origin != self._origin or not location:
                what = "the DICOMweb server redirects to another one (check --dicomweb-url)"
                raise Fault(FaultKind.SETTINGS, what, answer.status)
        return await send(Request(method, url, headers))

    def _raise_for_all(self, answer: Answer) -> None:
        """The Fault of an answer to STOW-RS that says nothing about any instance, unless QIDO-RS has to."""
        what, status = f"the DICOMweb server answered {answer.status} to STOW-RS", answer.status
        if status == 413:
            raise TooLargeFault(FaultKind.REJECTED, what, status)
        if status in _TIMED_OUT:
            raise TooLargeFault(FaultKind.SERVER, what, status, answer.retry_after_s())
        if answer.trouble() or status == 403 or status in _WRONG_ADDRESS or 300 <= status < 400:
            raise self._fault(answer, "STOW-RS")

    def _fault(self, answer: Answer, service: str) -> Fault:
        what, status = f"the DICOMweb server answered {answer.status} to {service}", answer.status
        if status == 403:
            return Fault(FaultKind.FORBIDDEN, what, status)
        if status in _WRONG_ADDRESS and service != "WADO-RS":
            return Fault(FaultKind.SETTINGS, f"{what} (check --dicomweb-url)", status)
        if trouble := answer.trouble():
            return Fault(trouble, what, status, answer.retry_after_s())
        kind = FaultKind.SETTINGS if 300 <= status < 400 else FaultKind.REJECTED
        return Fault(kind, what, status)


def _signed(headers: Mapping[str, str], authorization: str) -> dict[str, str]:
    return {**headers, "Authorization": authorization} if authorization else dict(headers)


def _boundary(parts: Sequence[Part]) -> str:
    """One that nobody could know before, and that is not in what is held."""
    while True:
        boundary = f"dicom-ingest-{secrets.token_hex(16)}"
        if not is_in_held(boundary, parts):
            return boundary


def _smaller(fault: Fault) -> Fault:
    """A time-out as what half of the request may not have."""
    if fault.kind is FaultKind.NETWORK and str(fault) in (SILENT, SLOW):
        return TooLargeFault(fault.kind, str(fault), fault.http_status)
    return fault


def _rubbish(answer: Answer, service: str) -> Fault:
    what = f"the DICOMweb server's answer to {service} is no DICOM JSON"
    return Fault(FaultKind.SERVER, what, answer.status)


def _in_url(uid: str) -> str:
    return quote(uid, safe="")
