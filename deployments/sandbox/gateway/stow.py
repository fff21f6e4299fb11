"""STOW-RS: instances into the bucket that presigned uploads go to (PS3.18 10.5).

Nothing is asked of the registry: what a UID means there, the pipeline that registers finds out. Each instance
has a key of its own, with the day and a random part; one that comes twice in a request is stored once.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse
from multipart import MultipartError, ParserLimitReached
from starlette.requests import ClientDisconnect

from deployments.sandbox.gateway.gateway_audit import GatewayAudit
from deployments.sandbox.gateway.media_types import media_type, preferred
from deployments.sandbox.gateway.object_writer import ObjectWriter, StoreUnavailableError
from deployments.sandbox.gateway.presign import new_key
from deployments.sandbox.gateway.request_body import (
    BodyTooLargeError,
    Part,
    bounded,
    related_parts,
    single_part,
)
from deployments.sandbox.gateway.request_limits import AtOnce
from deployments.sandbox.gateway.stow_outcomes import (
    JSON_TYPE,
    XML_TYPE,
    FailureReason,
    Outcome,
    WarningReason,
    native_xml,
    response_module,
    status_of,
    why_not,
)
from tasks.core.dicom_elements import Encoding
from tasks.core.models import Header, Rejected
from tasks.sandbox_settings import GatewaySettings
from tasks.source.data_set_walk import MEDIA_STORAGE_SOP_CLASS, Walk
from tasks.source.dicom_header import examine

_DICOM: Final = "application/dicom"
_OFFERED: Final = (JSON_TYPE, XML_TYPE, "application/json", "application/xml", "text/xml")
_META: Final = Encoding(explicit_vr=True, little_endian=True)
_AGAIN_S: Final = "5"  # when the object store is away


@dataclass(slots=True)
class _Progress:
    """Of one request: what became of each part so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)  # SOP Instance UID to digest


class StowService:
    """Answers POST /studies and POST /studies/{uid}."""

    def __init__(self, settings: GatewaySettings, audit: GatewayAudit, writer: ObjectWriter) -> None:
        self._settings = settings
        self._spool = settings.data_dir
        self._url = settings.public_url.rstrip("/")
        self._audit = audit
        self._writer = writer
        self._at_once = AtOnce(settings.stow_parallel)

    async def answer(self, request: Request, user: str, study_uid: str = "") -> Response:
        """Stores what comes, and says of each instance what became of it. HTTPException before it begins."""
        accepted = preferred(request.headers.get("accept", ""), _OFFERED)
        if accepted is None:
            raise HTTPException(406, "answers are DICOM JSON or DICOM XML")
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise HTTPException(415, "bodies come as they are, in no content coding")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._settings.stow_max_bytes:
            raise HTTPException(413, "the body is too large", {"Connection": "close"})
        parts = self._parts(request)
        with self._at_once.one():
            progress = _Progress()
            async with aclosing(parts):
                status, headers = await self._store_all(parts, progress, user, study_uid)
        base_url = self._url or str(request.base_url).rstrip("/")
        return _response(status, headers, progress.outcomes, accepted, base_url)

    def _parts(self, request: Request) -> AsyncGenerator[Part, None]:
        """The parts that will come; HTTPException for a body of another kind."""
        kind, parameters = media_type(request.headers.get("content-type", ""))
        body = bounded(request.stream(), self._settings.stow_max_bytes)
        if kind == _DICOM:
            return single_part(body, kind, self._spool)
        if kind != "multipart/related" or parameters.get("type", _DICOM).lower() != _DICOM:
            raise HTTPException(415, "a body is application/dicom, or multipart/related with such parts")
        if not parameters.get("boundary"):
            raise HTTPException(400, "multipart/related without a boundary")
        return related_parts(body, parameters["boundary"], self._settings.stow_max_parts, self._spool)

    async def _store_all(
        self, parts: AsyncGenerator[Part, None], progress: _Progress, user: str, study_uid: str
    ) -> tuple[int, dict[str, str]]:
        """The status and headers of the answer; what was stored before something went wrong stays in it."""
        close = {"Connection": "close"}
        deadline = asyncio.get_running_loop().time() + self._settings.stow_timeout_s
        try:
            while part := await _next(parts, deadline):
                with part.file:
                    if part.content_type not in ("", _DICOM):
                        return 415, close
                    outcome = await asyncio.to_thread(self._store, part, progress, user, study_uid)
                    progress.outcomes.append(outcome)
        except (BodyTooLargeError, ParserLimitReached):
            return 413, close
        except (MultipartError, ClientDisconnect):
            return 400, close
        except TimeoutError:
            return 408, close
        except (StoreUnavailableError, OSError):
            return 503, close | {"Retry-After": _AGAIN_S}
        return (status_of(progress.outcomes), {}) if progress.outcomes else (400, {})

    def _store(self, part: Part, progress: _Progress, user: str, study_uid: str) -> Outcome:
        """Blocks. Raises StoreUnavailableError, and OSError when no audit line can be written."""
        part.file.seek(0)
        found = examine(part.file, part.size_bytes, "")
        header = found.header if isinstance(found, Rejected) else found
        if reason := why_not(found, study_uid):
            return Outcome(header, reason)
        assert header
        digest = part.digest.digest()
        if (earlier := progress.stored.get(header.sop_instance_uid)) is not None:
            return Outcome(header, None if earlier == digest else FailureReason.DUPLICATE)
        key = new_key(self._settings.key_prefix)
        self._writer.put(key, part.file, part.size_bytes)
        self._audit.add(user, "store", key)
        progress.stored[header.sop_instance_uid] = digest
        return Outcome(header, warning=_warning(part, header))


async def _next(parts: AsyncGenerator[Part, None], deadline: float) -> Part | None:
    """None at the end. TimeoutError when it has not come by the deadline."""
    async with asyncio.timeout_at(deadline):
        return await anext(parts, None)


def _warning(part: Part, header: Header) -> WarningReason | None:
    """When the file meta information names another SOP class than the data set."""
    meta = Walk(part.file, part.size_bytes, 132)
    meta.run(_META, group=0x0002)
    named = meta.uid(MEDIA_STORAGE_SOP_CLASS)
    return WarningReason.SOP_CLASS if named and named != header.sop_class_uid else None


def _response(
    status: int, headers: dict[str, str], outcomes: list[Outcome], accepted: str, base_url: str
) -> Response:
    module = response_module(outcomes, base_url)
    headers = headers | {"Cache-Control": "no-store"}
    if accepted.endswith("xml"):
        return Response(native_xml(module), status, headers, XML_TYPE)
    return JSONResponse(module, status, headers, JSON_TYPE)
