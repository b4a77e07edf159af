"""One attempt to read an image: its limits, and the loop that keeps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.images.reasons import Reason, UnusableImageError


@dataclass(frozen=True)
class Attempt:
    """The limits of one attempt.

    Attributes:
        deadline: When it must be over, on the clock of :func:`time.monotonic`.
        max_bytes: Larger images are refused.
        cancelled: Set when nobody waits for the image any more.
    """

    deadline: float
    max_bytes: int
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def remaining_s(self) -> float:
        """Seconds left, zero or less when it is over."""
        return self.deadline - time.monotonic()

    def check(self) -> None:
        """Ends the attempt where its time is over or nobody waits for it.

        Raises:
            UnusableImageError: ``fetch_timeout``, or ``fetch_failed`` when cancelled.
        """
        if self.cancelled.is_set():
            raise UnusableImageError(Reason.FETCH_FAILED, "cancelled")
        if self.remaining_s <= 0:
            raise UnusableImageError(Reason.FETCH_TIMEOUT, "not read within fetch.total_timeout_s")

    def check_size(self, size_bytes: int) -> None:
        """Refuses what is too large.

        Args:
            size_bytes: What the source declares, or what was read so far.

        Raises:
            UnusableImageError: ``too_large``.
        """
        check_size(size_bytes, self.max_bytes)

    def collect(self, read: Callable[[int], bytes], *, chunk_bytes: int) -> bytes:
        """Reads to the end, whatever size the source declared.

        Args:
            read: Takes the most bytes to return; returns none at the end.
            chunk_bytes: Bytes asked for at once; between two chunks the limits are checked.

        Returns:
            The bytes, at least one.

        Raises:
            UnusableImageError: ``too_large``, ``empty``, ``fetch_timeout``, or cancelled.
        """
        chunks: list[bytes] = []
        size_bytes = 0
        while True:
            self.check()
            chunk = read(min(chunk_bytes, self.max_bytes + 1 - size_bytes))
            if not chunk:
                break
            size_bytes += len(chunk)
            self.check_size(size_bytes)
            chunks.append(chunk)
        if not chunks:
            raise UnusableImageError(Reason.EMPTY, "no bytes")
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Refuses what is too large.

    Args:
        size_bytes: Of an image.
        max_bytes: ``fetch.max_bytes``.

    Raises:
        UnusableImageError: ``too_large``.
    """
    if size_bytes > max_bytes:
        raise UnusableImageError(Reason.TOO_LARGE, f"larger than fetch.max_bytes = {max_bytes}")
