"""One gzipped file: an archive with one member."""

import os
from collections.abc import Iterator
from typing import Final

from tasks.source.archive_file import CHUNK_BYTES, Member, OpenFile, Unlisted
from tasks.source.gzip_stream import GzipStream

_SUFFIX: Final = ".gz"


class GzipFile:
    """Its size is what its end says, which holds for one that inflates to less than 4 GiB, in one piece."""

    def __init__(self, file: OpenFile, path: str) -> None:
        self.file = file
        name = os.path.basename(path)  # noqa: PTH119 - a path may hold what pathlib changes
        tail = file.read_at(max(0, file.status.st_size - 4), 4)
        self.member = Member(name[: -len(_SUFFIX)] or name, int.from_bytes(tail, "little"), 0)

    def members(self) -> Iterator[Member | Unlisted]:
        """The one."""
        yield self.member

    def find(self, name: str) -> Member | None:
        """The one, by its name."""
        return self.member if name == self.member.name else None

    def chunks(self, member: Member) -> Iterator[bytes]:  # noqa: ARG002 - there is one
        """What it inflates to."""
        stream = GzipStream(self.file)
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
