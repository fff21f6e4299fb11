"""Archives as they are found: zip, tar and gzip, whole, odd and damaged."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Mapping

import inflate64


def zipped(
    members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED, *, is_large: bool = False
) -> bytes:
    """`is_large`: as zip64 writes members that may be."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, body in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if is_large:
                with archive.open(info, "w", force_zip64=True) as member:
                    member.write(body)
            else:
                archive.writestr(info, body)
    return file.getvalue()


def zipped64(members: Mapping[str, bytes]) -> bytes:
    """In Deflate64: members stored as they are deflated so, then said to be."""
    packed = {}
    for name, body in members.items():
        deflater = inflate64.Deflater()
        packed[name] = deflater.deflate(body) + deflater.flush()
    archive = bytearray(zipped(packed, zipfile.ZIP_STORED))
    at = archive.index(b"PK\1\2")
    for body in members.values():
        archive[at + 10 : at + 12] = b"\x09\0"
        archive[at + 16 : at + 20] = zlib.crc32(body).to_bytes(4, "little")
        archive[at + 24 : at + 28] = len(body).to_bytes(4, "little")
        at = archive.find(b"PK\1\2", at + 4)
    return bytes(archive)


def tarred(members: Mapping[str, bytes], *, is_packed: bool = False) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if is_packed else "w") as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return file.getvalue()


def with_link(body: bytes, kind: bytes, target: str) -> bytes:
    """A tar of an image and a link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("image")
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = kind, target
        archive.addfile(link)
    return file.getvalue()


def encrypted(archive: bytes) -> bytes:
    """The archive with the flag of encryption in its directory."""
    at = archive.index(b"PK\1\2")
    return archive[: at + 8] + b"\1\0" + archive[at + 10 :]


def with_method(archive: bytes, method: int) -> bytes:
    at = archive.index(b"PK\1\2")
    return archive[: at + 10] + bytes([method, 0]) + archive[at + 12 :]


def with_size(archive: bytes, size: int) -> bytes:
    """The archive whose first member says another size than it has."""
    at = archive.index(b"PK\1\2")
    return archive[: at + 24] + size.to_bytes(4, "little") + archive[at + 28 :]


def overlapping(body: bytes) -> bytes:
    """Two members of one content, which the directory has twice."""
    archive = zipped({"one": body})
    start = archive.index(b"PK\1\2")
    end = archive.index(b"PK\5\6")
    record = archive[start:end]
    other = record.replace(b"one", b"two")
    tail = bytearray(archive[end:])
    tail[8:12] = b"\2\0\2\0"
    tail[12:16] = (2 * len(record)).to_bytes(4, "little")
    return archive[:start] + record + other + bytes(tail)


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def bomb(size: int) -> bytes:
    """So many zeros, gzipped piece by piece."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*pieces, packer.flush()])
