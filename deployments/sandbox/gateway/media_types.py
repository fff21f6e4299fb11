"""Media types in the headers of a request (RFC 9110 8.3.1 and 12.5.1)."""

from collections.abc import Sequence
from email.message import Message
from email.utils import collapse_rfc2231_value


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """Type and parameters, their names in small letters. A slash needs no quotes: many write none."""
    message = Message()
    message["Content-Type"] = header
    (kind, _), *parameters = message.get_params() or [("", "")]
    return kind.strip().lower(), {
        name.lower(): collapse_rfc2231_value(value).strip() for name, value in parameters
    }


def preferred(accept: str, offered: Sequence[str]) -> str | None:
    """Which of the offered types an Accept header likes best; the first where it says none; None: not one."""
    ranges = [_range(each) for each in accept.split(",") if each.strip()]
    if not ranges:
        return offered[0]
    liked = {each: _quality(each, ranges) for each in offered}
    best = max(offered, key=lambda each: liked[each])  # the first of those that are liked as much
    return best if liked[best] > 0 else None


def _range(text: str) -> tuple[str, float]:
    kind, parameters = media_type(text)
    try:
        return kind, float(parameters.get("q", "1"))
    except ValueError:
        return kind, 0.0


def _quality(offered: str, ranges: list[tuple[str, float]]) -> float:
    """Of the most specific range that fits."""
    by_range = dict(ranges)
    for each in (offered, f"{offered.partition('/')[0]}/*", "*/*"):
        if each in by_range:
            return by_range[each]
    return 0.0
