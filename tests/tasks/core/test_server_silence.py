"""When a server is silent or too slow; the times are those of a clock that the tests turn."""

from tasks.core.http_messages import Limits
from tasks.core.server_silence import SilenceWatch

LIMITS = Limits(silence_s=60, answer_s=120)
PIECE = 64 * 1024


def test_a_server_that_takes_and_gives_nothing_is_silent() -> None:
    watch = SilenceWatch(LIMITS, 0, now=100)
    assert watch.complaint(159, 0, 0, is_answering=False) == ""
    assert watch.complaint(160, 0, 0, is_answering=False) == "the server was silent for too long"


def test_a_server_that_takes_a_piece_now_and_then_is_not() -> None:
    """A whole transfer has no limit."""
    watch = SilenceWatch(LIMITS, 100 * PIECE, now=0)
    said = {watch.complaint(59 * n, n * PIECE, 0, is_answering=False) for n in range(1, 101)}
    assert said == {""}
    assert watch.complaint(59 * 100 + 60, 100 * PIECE, 0, is_answering=False)


def test_a_server_that_takes_less_than_a_piece_in_that_time_is() -> None:
    """But the last bytes of a body are a piece, however few."""
    slow = SilenceWatch(LIMITS, 10 * PIECE, now=0)
    said = [slow.complaint(n, n * 1000, 0, is_answering=False) for n in range(61)]
    assert said[:60] == [""] * 60
    assert said[60]
    short = SilenceWatch(LIMITS, 10, now=0)
    assert short.complaint(59, 10, 0, is_answering=False) == ""
    assert short.complaint(118, 10, 0, is_answering=False) == ""
    assert short.complaint(119, 10, 0, is_answering=False)


def test_a_server_that_drips_is_too_slow() -> None:
    watch = SilenceWatch(LIMITS, 0, now=0)
    said = [watch.complaint(10 + n, 0, n + 1, is_answering=True) for n in range(121)]
    assert said == [""] * 120 + ["the answer came too slowly"]


def test_an_answer_begins_anew_after_100_continue() -> None:
    """The body comes between."""
    watch = SilenceWatch(LIMITS, 100 * PIECE, now=0)
    assert watch.complaint(0, 0, 10, is_answering=True) == ""
    for n in range(1, 100):
        assert watch.complaint(50 * n, n * PIECE, 25, is_answering=False) == ""
    assert watch.complaint(5000, 100 * PIECE, 30, is_answering=True) == ""
    assert watch.complaint(5119, 100 * PIECE, 31, is_answering=True) == ""


def test_the_disks_time_is_not_the_servers() -> None:
    watch = SilenceWatch(LIMITS, 10 * PIECE, now=0)
    watch.excuse(1000)
    assert watch.complaint(1059, 0, 0, is_answering=False) == ""
    assert watch.complaint(1060, 0, 0, is_answering=False)
