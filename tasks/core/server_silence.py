"""Whether a server still moves while a request is under way, by what was sent and what came."""

from typing import Final

from tasks.core.http_messages import Limits

SILENT: Final = "the server was silent for too long"
SLOW: Final = "the answer came too slowly"
_PIECE_BYTES: Final = 64 * 1024  # who takes less of a body, as long as he may be silent, is as good as that


class SilenceWatch:
    """Of one request. Looked at now and then; times are seconds by a monotonic clock."""

    def __init__(self, limits: Limits, size_bytes: int, now: float) -> None:
        """`size_bytes`: of the request's body."""
        self._limits = limits
        self._size_bytes = size_bytes
        self._moved_at = now
        self._answered_at: float | None = None
        self._got_bytes, self._sent_bytes = 0, 0  # when it moved

    def excuse(self, now: float) -> None:
        """The server could not do anything until now."""
        self._moved_at = now

    def complaint(self, now: float, sent_bytes: int, got_bytes: int, *, is_answering: bool) -> str:
        """What is wrong with a server that took and gave so much until now; empty while it is in time."""
        piece = min(_PIECE_BYTES, self._size_bytes - self._sent_bytes)
        if got_bytes > self._got_bytes or sent_bytes - self._sent_bytes >= piece > 0:
            self._got_bytes, self._sent_bytes, self._moved_at = got_bytes, sent_bytes, now
        if not is_answering:
            self._answered_at = None
        elif self._answered_at is None:
            self._answered_at = now
        if now - self._moved_at >= self._limits.silence_s:
            return SILENT
        if self._answered_at is not None and now - self._answered_at >= self._limits.answer_s:
            return SLOW
        return ""
