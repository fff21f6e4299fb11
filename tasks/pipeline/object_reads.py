"""How an object of the bucket is read: one that is held, by a presigned URL; else by boto3, in threads."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tasks.concurrency.daemon_threads import DaemonThreads
from tasks.core.object_outcomes import ObjectTodo
from tasks.core.object_rules import ObjectRule
from tasks.pipeline.object_reader import HELD_BYTES, ReadObject, judge_held, read_object
from tasks.remote.bucket import Bucket
from tasks.remote.signed_reads import SignedReads

_ORDER_S: Final = 0.1  # so long an object waits for the one before it; a slow one keeps nobody longer


@dataclass(eq=False, kw_only=True, slots=True)
class ObjectReads:
    """Of one run. For the event loop's thread alone."""

    bucket: Bucket
    signed: SignedReads
    threads: DaemonThreads
    off: Collection[ObjectRule]
    _last: "asyncio.Future[None] | None" = field(default=None, init=False)

    async def read(self, todo: ObjectTodo, *, has_failed: bool) -> ReadObject:
        """As `read_object`. `has_failed`: before; boto3 goes on where a stream broke off.

        They come in the order in which they were asked for, by and large: those of a study lie together, and
        share a request.
        """
        before, own = self._last, asyncio.get_running_loop().create_future()
        self._last = own
        try:
            read = await self._read(todo, has_failed=has_failed)
            if before is not None and not before.done():
                await asyncio.wait((before,), timeout=_ORDER_S)
            return read
        finally:
            own.set_result(None)

    async def _read(self, todo: ObjectTodo, *, has_failed: bool) -> ReadObject:
        is_signed = self.signed.is_of_use and not has_failed
        if is_signed and todo.etag and todo.size_bytes and todo.size_bytes <= HELD_BYTES:
            # In a thread: credentials of a role are renewed now and then.
            url = await self.threads.run(partial(self.bucket.signed_url, todo.location))
            data = await self.signed.read(url, todo.etag, todo.size_bytes)
            if data is not None:
                return await self.threads.run(partial(judge_held, data, todo, todo.etag, self.off))
            read = await self._read_by_boto3(todo)
            self.signed.give_up()
            return read
        return await self._read_by_boto3(todo)

    async def _read_by_boto3(self, todo: ObjectTodo) -> ReadObject:
        return await self.threads.run(partial(read_object, self.bucket, todo, self.off))
