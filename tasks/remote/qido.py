"""QIDO-RS (DICOM PS3.18, 10.6): which instances a DICOMweb server has, as far as it can be believed.

Pages of real servers repeat rows or lose some, some bound them, some know no offset: a study is asked for by
itself, page by page, until one is empty or brings nothing new. A server that can't search a study for
instances, which is an optional resource of older editions, is asked series by series.
"""

from typing import Final

from tasks.core.dicom_json import DataSet, NotDicomError, data_sets, first_text
from tasks.core.errors import Fault, FaultKind, TooLargeFault
from tasks.core.http_messages import Limits
from tasks.core.qido_rows import (
    RELATED_INSTANCES,
    QidoResult,
    Seen,
    SeenInstance,
    related_instances,
    seen_instances,
)
from tasks.remote.dicomweb_requests import NOT_THERE, DicomwebRequests, fault_of, in_url, rubbish_fault

_TAGS: Final = frozenset({*Seen, RELATED_INSTANCES})
LIMITS: Final = Limits(silence_s=120.0, body_bytes=16 * 1024 * 1024)


class Queries:
    """Of one server. To be used in the event loop's thread alone."""

    def __init__(
        self, requests: DicomwebRequests, page_rows: int, limits: Limits = LIMITS, *, by_series: bool = False
    ) -> None:
        """`by_series`: it is known that a study can't be searched for instances."""
        self._requests = requests
        self._limits = limits
        self._page_rows = page_rows
        self._is_dicomweb = False  # its list of studies has been seen
        self._by_series = by_series

    async def check(self) -> None:
        """Whether there is a DICOMweb server at all. Raises Fault, SETTINGS when there is another one."""
        if not self._is_dicomweb:
            await self._rows("/studies?limit=1", Seen.STUDY)
            self._is_dicomweb = True

    async def instances(self, study_uid: str) -> QidoResult:
        """Which instances of a study are there, and how many the server says there are."""
        found = await self._instances(study_uid, "")
        return QidoResult(found, await self.related(study_uid))

    async def has_instance(self, study_uid: str, sop_instance_uid: str) -> bool:
        """Whether a study has this instance: by a query of its own."""
        query = f"SOPInstanceUID={in_url(sop_instance_uid)}"
        found = await self._instances(study_uid, query)
        return _only(found, sop_instance_uid) is not None

    async def find_instance(self, sop_instance_uid: str, study_uid: str = "") -> SeenInstance | None:
        """Where this instance is, whatever its study; in this one, where a server can't search all.

        Raises Fault, SETTINGS, when it can't and no study is named.
        """
        query = f"SOPInstanceUID={in_url(sop_instance_uid)}"
        if not (self._by_series and study_uid):
            try:
                return _only(seen_instances(await self._rows(f"/instances?{query}")), sop_instance_uid)
            except Fault as fault:
                if not study_uid or fault.http_status not in NOT_THERE:
                    raise
        return _only(await self._instances(study_uid, query), sop_instance_uid)

    async def _instances(self, study_uid: str, query: str) -> dict[str, SeenInstance]:
        path = f"/studies/{in_url(study_uid)}"
        if not self._by_series:
            rows = await self._all(f"{path}/instances", query)
            if rows is not None:
                return seen_instances(rows, study_uid)
        found: dict[str, SeenInstance] = {}
        for series in await self._all(f"{path}/series", "", Seen.SERIES) or ():
            self._by_series = True
            uid = first_text(series, Seen.SERIES)
            rows = await self._all(f"{path}/series/{in_url(uid)}/instances", query)
            found |= seen_instances(rows or (), study_uid, uid)
        return found

    async def _all(self, path: str, query: str, kind: Seen = Seen.INSTANCE) -> list[DataSet] | None:
        """The rows of all pages, each once; None where there is no such resource, or nothing in it."""
        found: dict[str, DataSet] = {}
        offset = 0
        while (rows := await self._page(path, query, offset, kind)) is not None:
            new = {first_text(row, kind): row for row in rows}
            if new.keys() <= found.keys():
                return [*found.values()]
            found |= new
            offset += len(rows)
        if offset:
            raise Fault(FaultKind.SERVER, "the DICOMweb server has the first page of a list and not the next")
        await self.check()
        return None

    async def _page(self, path: str, query: str, offset: int, kind: Seen) -> list[DataSet] | None:
        """The rows from this one on; fewer at once, where so many are too long an answer."""
        while True:
            paging = f"limit={self._page_rows}&offset={offset}"
            try:
                return await self._rows(f"{path}?{'&'.join(filter(None, (query, paging)))}", kind)
            except TooLargeFault:
                if self._page_rows == 1:
                    raise
                self._page_rows = self._page_rows // 2
            except Fault as fault:
                if fault.http_status not in NOT_THERE:
                    raise
                return None

    async def related(self, study_uid: str) -> int | None:
        """NumberOfStudyRelatedInstances (0020,1208), where the server says it."""
        query = f"/studies?StudyInstanceUID={in_url(study_uid)}&includefield={RELATED_INSTANCES}"
        try:
            return related_instances(await self._rows(query, Seen.STUDY), study_uid)
        except Fault as fault:
            if fault.http_status != 400:  # Bad Request: it does not know the field
                raise
            return None

    async def _rows(self, path: str, kind: Seen = Seen.INSTANCE) -> list[DataSet]:
        """Of one answer. Raises Fault for one that is no list of what was asked: nothing is known then."""
        answer = await self._requests.get(path, self._limits)
        if answer.status == 204:
            return []
        if not 200 <= answer.status < 300:
            raise fault_of(answer, "QIDO-RS")
        if answer.is_cut:
            raise TooLargeFault(FaultKind.SERVER, "the DICOMweb server's answer is too long", answer.status)
        try:
            rows = data_sets(answer.body, _TAGS)
        except NotDicomError:
            raise rubbish_fault(answer, "QIDO-RS") from None
        if not answer.body.strip() or not all(first_text(row, kind) for row in rows):
            raise rubbish_fault(answer, "QIDO-RS")
        return rows


def _only(seen: dict[str, SeenInstance], sop_instance_uid: str) -> SeenInstance | None:
    """The one that was asked for. Raises Fault when there are others alone: nothing is known then."""
    if seen and sop_instance_uid not in seen:
        raise Fault(FaultKind.SERVER, "the DICOMweb server answers a query with what was not asked for")
    return seen.get(sop_instance_uid)
