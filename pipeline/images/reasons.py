"""The closed list of reasons why an image has no result, and whether trying again can help."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why an image has no result. The value is what the tables hold."""

    # the manifest row itself
    CONTRADICTION = "contradiction"
    NO_SOURCE = "no_source"
    # fetching
    URI_INVALID = "uri_invalid"
    URI_NOT_ALLOWED = "uri_not_allowed"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"
    FETCH_TIMEOUT = "fetch_timeout"
    FETCH_FAILED = "fetch_failed"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    # decoding
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too_many_pixels"
    OUT_OF_MEMORY = "out_of_memory"
    DECODER_CRASHED = "decoder_crashed"
    DECODE_TIMEOUT = "decode_timeout"
    DECODE_MEMORY = "decode_memory"

    @property
    def retriable(self) -> bool:
        """Whether the same bytes at the same place may work another day."""
        return self in _RETRIABLE


# Not found is retriable: uploads often reach the storage after the manifest names them. A time-out
# may be the machine's fault; a crash or too much memory is the file's.
_RETRIABLE = frozenset(
    {
        Reason.NOT_FOUND,
        Reason.FORBIDDEN,
        Reason.SERVER_ERROR,
        Reason.FETCH_TIMEOUT,
        Reason.FETCH_FAILED,
        Reason.EMPTY,
        Reason.OUT_OF_MEMORY,
        Reason.DECODE_TIMEOUT,
    }
)

MAX_DETAIL_CHARS = 300


@dataclass(frozen=True)
class Failure:
    """A named reason with a detail for people.

    Attributes:
        reason: From the closed list.
        detail: One line, at most ``MAX_DETAIL_CHARS`` characters, without credentials.
    """

    reason: Reason
    detail: str

    def __post_init__(self) -> None:
        # Lone surrogates come from file names that are not UTF-8; no table can hold them.
        one_line = " ".join(self.detail.encode("utf-8", "replace").decode().split())
        object.__setattr__(self, "detail", one_line[:MAX_DETAIL_CHARS])

    @property
    def retriable(self) -> bool:
        """Whether a retry can help."""
        return self.reason.retriable


class UnusableImageError(Exception):
    """Carries a :class:`Failure` to the boundary of fetching or decoding, and never further.

    Args:
        reason: From the closed list.
        detail: For people, see :class:`Failure`.
        retry_after_s: Seconds the server asked to be left alone.
    """

    def __init__(self, reason: Reason, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.failure = Failure(reason, detail)
        self.retry_after_s = retry_after_s


def describe_left_out(left_out: Counter[Reason], *, total: int, what: str = "images") -> str:
    """How many images have no result and why, for a log: ``2 of 9 images left out: 2 not_found``.

    Args:
        left_out: How many, by reason.
        total: Images that were asked for.
        what: Names them.
    """
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
    return f"{left_out.total()} of {total} {what} left out: {reasons}"
