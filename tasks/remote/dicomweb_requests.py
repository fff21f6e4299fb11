"""One request to a DICOMweb server: signed in, redirected on the same host alone, its trouble as a Fault."""

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urljoin

from tasks.core.errors import Fault, FaultKind, UsageError
from tasks.core.http_messages import Answer, Limits, Origin, Request, plain_url
from tasks.dicomweb_settings import DicomwebSettings
from tasks.remote.curl_engine import Engine
from tasks.remote.dicomweb_credentials import check_address, dicomweb_credentials, refusal

if TYPE_CHECKING:
    import httpx

JSON: Final = "application/dicom+json"
NOT_THERE: Final = frozenset({404, 405, 410, 501, 505})  # what such a path has, or the whole server

_MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_WITH_BODY: Final = frozenset({307, 308})  # RFC 9110, 15.4: the others make a GET of it

Send = Callable[[Request], Coroutine[Any, Any, Answer]]


class DicomwebRequests:
    """To be used in the event loop's thread alone."""

    def __init__(
        self, engine: Engine, settings: DicomwebSettings, http: "httpx.AsyncClient", *, allow_http: bool
    ) -> None:
        """`http`: over the same engine, for the token endpoint. UsageError for addresses not to be used."""
        if not settings.dicomweb_url:
            raise UsageError("--dicomweb-url (DICOM_INGEST_DICOMWEB_URL) is not given.")
        check_address("DICOMWEB_URL", settings.dicomweb_url, allow_http=allow_http)
        if {"?", "#"} & {*settings.dicomweb_url}:
            raise UsageError("--dicomweb-url has a query or a fragment: give the address before it.")
        self.engine = engine
        self._settings = settings
        self._base, self._origin = plain_url(settings.dicomweb_url.rstrip("/"))
        self._credentials = dicomweb_credentials(settings, http, allow_http=allow_http)

    async def get(self, path: str, limits: Limits) -> Answer:
        """DICOM JSON, of any status but 401."""

        async def send(request: Request) -> Answer:
            return await self.engine.send(request, limits)

        return await self.ask("GET", path, {"Accept": JSON, "Cache-Control": "no-store"}, send)

    async def ask(self, method: str, path: str, headers: Mapping[str, str], send: Send) -> Answer:
        """The answer to a request below the base address; `send` may be called again, with a fresh token.

        Raises CredentialsRefusedError for 401, Fault for a redirect to another host.
        """
        authorization = await self._credentials.authorization()
        answer = await self._follow(method, path, _signed(headers, authorization), send)
        if answer.status == 401:
            renewed = await self._credentials.authorization(authorization, 401)
            if renewed != authorization:
                answer = await self._follow(method, path, _signed(headers, renewed), send)
        if answer.status == 401:
            raise refusal(self._settings, 401)
        return answer

    async def _follow(self, method: str, path: str, headers: Mapping[str, str], send: Send) -> Answer:
        """The answer behind redirects to the same scheme, host and port: nobody else gets the credentials."""
        url = f"{self._base}{path}"
        for _ in range(_MAX_REDIRECTS):
            answer = await send(Request(method, url, headers))
            if answer.status not in (_REDIRECTS if method == "GET" else _WITH_BODY):
                return answer
            url, origin = _location(url, answer)
            if origin != self._origin:
                what = "the DICOMweb server redirects to another one (check --dicomweb-url)"
                raise Fault(FaultKind.SETTINGS, what, answer.status)
        return await send(Request(method, url, headers))


def fault_of(answer: Answer, service: str) -> Fault:
    """Of an answer that is not 2xx; `service`: STOW-RS, QIDO-RS or WADO-RS."""
    what, status = f"the DICOMweb server answered {answer.status} to {service}", answer.status
    if status == 403:
        return Fault(FaultKind.FORBIDDEN, what, status)
    if status in NOT_THERE and service != "WADO-RS":
        return Fault(FaultKind.SETTINGS, f"{what} (check --dicomweb-url)", status)
    if trouble := answer.trouble():
        return Fault(trouble, what, status, answer.retry_after_s())
    kind = FaultKind.SETTINGS if 300 <= status < 400 else FaultKind.REJECTED
    return Fault(kind, what, status)


def rubbish_fault(answer: Answer, service: str) -> Fault:
    """Of one that is 2xx and not what it should be: nothing is known then."""
    what = f"the DICOMweb server's answer to {service} is no DICOM JSON"
    return Fault(FaultKind.SERVER, what, answer.status)


def in_url(uid: str) -> str:
    """A UID, or whatever stands in its place, as one segment or value."""
    return quote(uid, safe="")


def _signed(headers: Mapping[str, str], authorization: str) -> dict[str, str]:
    return {**headers, "Authorization": authorization} if authorization else dict(headers)


def _location(url: str, answer: Answer) -> tuple[str, Origin | None]:
    """Where an answer redirects to; None: nowhere that can be used."""
    try:
        location = answer.headers.get("location", "")
        return plain_url(urljoin(url, location)) if location else (url, None)
    except (Fault, ValueError):
        return url, None
