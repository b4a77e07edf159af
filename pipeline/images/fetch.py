"""Fetches the bytes of an image from wherever its address says, or names why it cannot.

Knows what may be read, how often to try and how long to wait. Knows nothing of pixels.
Failures never raise: this is the one place where reading becomes :class:`Failure`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pyarrow import fs  # type: ignore[import-untyped]
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set

from pipeline.config import FetchConfig
from pipeline.images.attempt import Attempt, check_size
from pipeline.images.places import AllowList, LocalPlace, ObjectPlace, Place, parse_place
from pipeline.images.reasons import Failure, Reason, UnusableImageError
from pipeline.images.storage import ObjectReader, read_local
from pipeline.images.web import WebReader

# Tried again at once. What is missing or forbidden now is so a second later: the next run asks.
_PASSING = frozenset({Reason.SERVER_ERROR, Reason.FETCH_TIMEOUT, Reason.FETCH_FAILED})
# A server that asks for more is left alone until the next run. Longer pauses would make a worker
# whose hosts are all slow look as if it hung: see docs/decisions/python-workers.md.
MAX_WAIT_S = 10.0


class Fetcher:
    """Fetches images. Safe to share between threads; can be pickled, connections stay behind.

    Connections are made when they are first needed.

    Args:
        config: How images are fetched.
        make_filesystem: Makes the client of an object store. Default: what pyarrow has.

    Raises:
        ConfigurationError: An allowed root or host pattern that cannot be used.
    """

    def __init__(
        self,
        config: FetchConfig,
        make_filesystem: Callable[[ObjectPlace, FetchConfig], fs.FileSystem] | None = None,
    ) -> None:
        self._config = config
        self._make_filesystem = make_filesystem
        self._allowed = AllowList(roots=config.allowed_roots, hosts=config.allowed_hosts)
        self._objects = ObjectReader(config, make_filesystem)
        self._web = WebReader(config, self._allowed)

    def __reduce__(self) -> tuple[object, ...]:
        return Fetcher, (self._config, self._make_filesystem)

    def fetch(self, uri: str, *, cancelled: threading.Event | None = None) -> bytes | Failure:
        """Fetches one image.

        KeyboardInterrupt and SystemExit pass; everything else becomes a Failure. Its detail
        holds neither user info nor a query.

        Args:
            uri: A path, or a file:, s3:, s3a:, gs:, hdfs:, http: or https: address.
            cancelled: Set by another thread when nobody waits for the image any more; pauses and
                long answers end soon after.

        Returns:
            The bytes, at least one, or why there are none.
        """
        cancelled = cancelled or threading.Event()
        retrying = Retrying(
            stop=stop_after_attempt(self._config.attempts) | stop_when_event_set(cancelled),
            wait=self._choose_pause,
            retry=retry_if_exception(_may_pass),
            sleep=sleep_using_event(cancelled),
            reraise=True,
        )
        try:
            place = parse_place(uri)
            return retrying(self._read, place, cancelled)
        except UnusableImageError as error:
            tries = retrying.statistics.get("attempt_number", 1)
            if tries == 1:
                return error.failure
            return Failure(error.failure.reason, f"{error.failure.detail} ({tries} attempts)")

    def take(self, content: bytes) -> bytes | Failure:
        """Bytes that are here already, as a manifest's, under the limit of those that are fetched.

        Args:
            content: The file.

        Returns:
            The bytes, or ``too_large``.
        """
        try:
            check_size(len(content), self._config.max_bytes)
        except UnusableImageError as error:
            return error.failure
        return content

    def close(self) -> None:
        """Closes the connections that wait to be used again. The fetcher can still be used."""
        self._web.close()

    def _read(self, place: Place, cancelled: threading.Event) -> bytes:
        attempt = Attempt(
            deadline=time.monotonic() + self._config.total_timeout_s,
            max_bytes=self._config.max_bytes,
            cancelled=cancelled,
        )
        try:
            if isinstance(place, LocalPlace):
                real = self._allowed.resolve(place)
                return read_local(real, attempt, self._allowed.check_file)
            if isinstance(place, ObjectPlace):
                self._allowed.check_object(place)
                return self._objects.read(place, attempt)
            return self._web.read(place, attempt)
        except UnusableImageError:
            raise
        except MemoryError as error:
            raise UnusableImageError(Reason.OUT_OF_MEMORY, "no memory for the bytes") from error
        except UnicodeError as error:
            raise UnusableImageError(
                Reason.URI_INVALID, "the uri holds characters no address can have"
            ) from error
        except Exception as error:
            # One address among millions must not stop a job, and the clients of five protocols
            # raise more than they document. The words may hold the address: only the type is kept.
            raise UnusableImageError(Reason.FETCH_FAILED, type(error).__name__) from error

    def _choose_pause(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: what the server asked for, else doubled; jittered.

        At most MAX_WAIT_S + fetch.backoff_s.
        """
        backoff_s = self._config.backoff_s
        pause_s = wait_exponential(multiplier=backoff_s, max=MAX_WAIT_S)(state)
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, UnusableImageError):
            pause_s = max(pause_s, error.retry_after_s or 0.0)
        return pause_s + wait_random(0, backoff_s)(state)


def _may_pass(error: BaseException) -> bool:
    return (
        isinstance(error, UnusableImageError)
        and error.failure.reason in _PASSING
        and (error.retry_after_s or 0.0) <= MAX_WAIT_S
    )
