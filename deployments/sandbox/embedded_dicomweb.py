"""A DICOMweb server for a machine without Orthanc: tiny-pacs, from PyPI, with what it lacks for a pipeline.

tiny-pacs-dicomweb stores (STOW-RS), finds studies, series and the instances of a series (QIDO-RS) and gives
back what it stored (WADO-RS). Added here: instances of a study and by their own UID, metadata (PS3.18 10.4.1,
10.6), HTTP Basic, a server of the standard library, and no DICOM port. As another server may, it refuses
what is stored already, by FailureReason 0110H, whether the bytes are the same or not.

`python -m deployments.sandbox.embedded_dicomweb DIRECTORY --listen-fd N` serves until stdin closes; its first
line there is JSON with user and password.
"""

import argparse
import base64
import hmac
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import bottle
import pydicom
import trolleybus
from tiny_pacs import db, events, storage
from tiny_pacs.pacs.component import PACS
from tiny_pacs.storage import StorageFiles
from tiny_pacs_dicomweb import qido, stow, wado
from tiny_pacs_dicomweb.common import JSON_CT, AppState

ROOT: Final = "/dicom-web"
_MAX_BODY_BYTES: Final = 1 << 30  # of a request, which it holds in memory
_THREADS: Final = 8  # each keeps a connection to the database
_RESOURCES: Final = (
    "/studies/<study>",
    "/studies/<study>/series/<series>",
    "/studies/<study>/series/<series>/instances/<instance>",
)
_PAGE: Final = 500
_BULK_BYTES: Final = 1024  # longer values are no metadata
_Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def main() -> None:
    """Serves until the parent closes our stdin, which it does however it ends."""
    parser = argparse.ArgumentParser(prog="python -m deployments.sandbox.embedded_dicomweb")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--listen-fd", type=int, required=True)
    arguments = parser.parse_args()
    known = json.loads(sys.stdin.buffer.readline())
    logging.basicConfig(level=logging.CRITICAL)  # its warnings name UIDs
    bus = _archive(arguments.directory)
    app = _with_password(_application(bus), known["user"], known["password"])
    server = _Server(socket.socket(fileno=arguments.listen_fd), app)
    Thread(target=server.serve_forever, daemon=True).start()
    while os.read(0, 4096):
        pass
    server.shutdown()
    bus.stop()


def _archive(directory: Path) -> trolleybus.EventBus:
    """The database and the files below the directory, without the DICOM server that tiny-pacs has besides."""
    files = directory / "files"
    files.mkdir(mode=0o700, parents=True, exist_ok=True)
    bus = trolleybus.EventBus()
    # By its path: a URI would have its connections share a cache, whose locks nobody waits for.
    database = {"on": True, "driver": "sqlite", "db_name": str(directory / "index.sqlite"), "uri": False}
    db.Database(bus, database)
    PACS(bus, {"on": True})
    storage.FileStorage(bus, {"on": True, "storage_dir": str(files)})
    bus.start()
    _mend(bus, files)
    return bus


def _mend(bus: trolleybus.EventBus, files: Path) -> None:
    """Settles what was being stored when an earlier process was killed: else it could never be stored again.

    A file is whole before the index names it; one that the index does not name may be cut off.
    """
    for record in list(StorageFiles.select().where(~StorageFiles.is_stored)):
        named = events.ArchiveFilter(sop_instance_uid=record.sop_instance_uid, limit=1)
        found = bus.send_any(events.ArchiveInstanceQuery, named)
        with bus.send_one(events.Atomic, None):
            if found:
                record.is_stored = True
                record.save()
            else:
                (files / record.file_name).unlink(missing_ok=True)
                record.delete_instance()


def _application(bus: trolleybus.EventBus) -> bottle.Bottle:
    app = bottle.Bottle()
    state = AppState(bus, logging.getLogger("dicomweb"), max_part_size=_MAX_BODY_BYTES)
    for service in (qido, wado, stow):
        service.register(state, app)

    def instances(study: str | None = None) -> Any:
        return qido.query_level(state, "instance", study_uid=study)

    def metadata(study: str, series: str | None = None, instance: str | None = None) -> Any:
        found = _instances(bus, study, series, instance)
        if not found:
            return bottle.HTTPResponse(status=404)
        return bottle.HTTPResponse(_metadata(bus, found), headers={"Content-Type": JSON_CT})

    app.get(["/instances", "/studies/<study>/instances"], callback=instances)
    app.get([f"{path}/metadata" for path in _RESOURCES], callback=metadata)
    return app


def _instances(bus: trolleybus.EventBus, study: str, series: str | None, instance: str | None) -> list[str]:
    """Their SOP Instance UIDs."""
    uids: list[str] = []
    while True:
        page = events.ArchiveFilter(
            study_instance_uid=study,
            series_instance_uid=series,
            sop_instance_uid=instance,
            limit=_PAGE,
            offset=len(uids),
        )
        found = bus.send_any(events.ArchiveInstanceQuery, page) or []
        uids += [item.uids["sop_instance_uid"] for item in found]
        if len(found) < _PAGE:
            return uids


def _metadata(bus: trolleybus.EventBus, uids: list[str]) -> Iterable[str]:
    """DICOM JSON of one instance after another (PS3.18 F.2), without bulk data."""
    start = "["
    for uid in uids:
        for stored in next(iter(bus.broadcast(events.GetFiles, [uid]))):
            dataset = pydicom.dcmread(stored[2], stop_before_pixels=True)
            for element in list(dataset):
                if isinstance(element.value, bytes) and len(element.value) > _BULK_BYTES:
                    del dataset[element.tag]
            yield start + json.dumps(dataset.to_json_dict(suppress_invalid_tags=True))
            start = ","
    yield "]"


def _with_password(app: bottle.Bottle, user: str, password: str) -> _Wsgi:
    """The application below ROOT, for whoever has this password (RFC 7617)."""
    expected = b"Basic " + base64.b64encode(f"{user}:{password}".encode())
    storing = Lock()  # two that store at the same time fail

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        given = str(environ.get("HTTP_AUTHORIZATION", "")).encode("latin-1", "replace")
        if not hmac.compare_digest(given, expected):
            start("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="dicomweb"')])
            return [b""]
        path = str(environ.get("PATH_INFO", ""))
        if not path.startswith(f"{ROOT}/"):
            start("404 Not Found", [])
            return [b""]
        environ |= {"SCRIPT_NAME": ROOT, "PATH_INFO": path.removeprefix(ROOT)}
        with storing if environ["REQUEST_METHOD"] == "POST" else nullcontext():
            answered: Iterable[bytes] = app(environ, start)
        return answered

    return answer


class _Handler(WSGIRequestHandler):
    """Logs no request: its path has UIDs."""

    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def get_stderr(self) -> Any:
        return sys.stderr


class _Server(WSGIServer):
    """On a socket that is listening already, with a few threads."""

    def __init__(self, listener: socket.socket, app: _Wsgi) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()
        self.setup_environ()
        self.set_app(app)
        self._pool = ThreadPoolExecutor(_THREADS)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._pool.submit(self._answer, request, client_address)

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has gone
        finally:
            self.shutdown_request(request)


if __name__ == "__main__":
    main()
