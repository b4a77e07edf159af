"""Reads images over http and https.

Once a connection stands, every limit holds for the whole of an attempt: a server that sends one
byte now and then, in the headers or in the body, cannot hold a thread longer than
``fetch.total_timeout_s``. ``connect_timeout_s`` counts for each address of a host name; how long a
name takes to be resolved is the system's to limit. Redirects are followed by hand, so that each
host on the way is one that is allowed, and each connection goes to an address that was checked.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import socket
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import unquote, urljoin

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import wait_for_read

from pipeline import __version__
from pipeline.config import FetchConfig
from pipeline.images.addresses import DialList
from pipeline.images.attempt import Attempt
from pipeline.images.places import AllowList, WebPlace, parse_web_place
from pipeline.images.reasons import Reason, UnusableImageError

MAX_REDIRECTS = 5
_CHUNK_BYTES = 64 * 1024
# How soon a fetch ends that nobody waits for any more.
_POLL_S = 0.2
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Short answers are read to their end, so that their connection can be used again.
_MAX_DRAINED_BYTES = 16 * 1024
_HEADERS = {
    "User-Agent": f"mumic-spark/{__version__}",
    # Naming WebP or AVIF would make some servers convert the photo they have.
    "Accept": "image/*,*/*;q=0.8",
    "Accept-Encoding": "identity",
}


class WebReader:
    """Reads over pooled connections. Safe to share between threads.

    Args:
        config: How images are fetched.
        allowed: The hosts that may be asked.

    Raises:
        ConfigurationError: An allowed network that is none.
    """

    def __init__(self, config: FetchConfig, allowed: AllowList) -> None:
        self._config = config
        self._allowed = allowed
        self._dials = DialList(networks=config.allowed_networks, hosts=config.allowed_hosts)
        self._pools = urllib3.PoolManager(num_pools=32, maxsize=config.threads, block=False)
        self._pools.pool_classes_by_scheme = {"http": _TimedPool, "https": _TimedTlsPool}

    def read(self, place: WebPlace, attempt: Attempt) -> bytes:
        """Reads one image, following at most :data:`MAX_REDIRECTS` redirects.

        Args:
            place: Where the image is.
            attempt: Its limits.

        Returns:
            The bytes, at least one.

        Raises:
            UnusableImageError: Whatever keeps it from being read.
        """
        credentials, origin = place.url.auth, place.origin
        _limits.attempt, _limits.read_timeout_s = attempt, self._config.read_timeout_s
        _limits.dials = self._dials
        try:
            for _ in range(MAX_REDIRECTS + 1):
                self._allowed.check_host(place)
                attempt.check()
                # Credentials belong to the origin that was asked first, and go nowhere else.
                known = credentials if place.origin == origin else None
                response = self._get(place, attempt, known)
                try:
                    if 200 <= response.status < 300:  # noqa: PLR2004 - the range of success
                        return self._take(response, attempt)
                    _drain(response)
                finally:
                    # Of a connection that was given back already this closes nothing.
                    response.close()
                if response.status not in _REDIRECTS:
                    raise _refuse(response.status, response.headers)
                place = _follow(place, response.headers.get("Location"))
        except exceptions.HTTPError as error:
            raise _explain(error) from error
        finally:
            _limits.attempt = None
        raise UnusableImageError(Reason.CLIENT_ERROR, f"more than {MAX_REDIRECTS} redirects")

    def close(self) -> None:
        """Closes the connections that wait to be used again."""
        self._pools.clear()

    def _get(
        self, place: WebPlace, attempt: Attempt, credentials: str | None
    ) -> urllib3.BaseHTTPResponse:
        url = place.url
        headers = dict(_HEADERS)
        if credentials:
            headers |= urllib3.util.make_headers(basic_auth=unquote(credentials))
        pool = self._pools.connection_from_host(url.host, url.port, url.scheme)
        return pool.urlopen(
            "GET",
            url.request_uri,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
            timeout=urllib3.Timeout(
                connect=max(0.001, min(self._config.connect_timeout_s, attempt.remaining_s)),
                read=self._config.read_timeout_s,
            ),
        )

    def _take(self, response: urllib3.BaseHTTPResponse, attempt: Attempt) -> bytes:
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal():
            attempt.check_size(int(declared))
        return attempt.collect(response.read1, chunk_bytes=_CHUNK_BYTES)


def _refuse(status: int, headers: Mapping[str, str]) -> UnusableImageError:
    """What an answer that brings no image means."""
    reason = Reason.CLIENT_ERROR
    if status in (404, 410):
        reason = Reason.NOT_FOUND
    elif status in (401, 403, 407):
        reason = Reason.FORBIDDEN
    elif status == http.HTTPStatus.REQUEST_TIMEOUT:
        reason = Reason.FETCH_TIMEOUT
    elif (
        status == http.HTTPStatus.TOO_MANY_REQUESTS
        or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    ):
        reason = Reason.SERVER_ERROR
    return UnusableImageError(
        reason, f"HTTP {status}", retry_after_s=_parse_retry_after(headers.get("Retry-After"))
    )


def _parse_retry_after(value: str | None) -> float | None:
    """Seconds from a number or a date (RFC 9110, section 10.2.3); None for anything else."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _follow(place: WebPlace, location: str | None) -> WebPlace:
    """The place a redirect names. Only http and https are followed."""
    if location is None:
        raise UnusableImageError(Reason.CLIENT_ERROR, "a redirect to nowhere")
    try:
        return parse_web_place(urljoin(place.url.url, location))
    except (UnusableImageError, ValueError) as error:
        raise UnusableImageError(
            Reason.URI_NOT_ALLOWED, "redirected to what is no http address"
        ) from error


def _drain(response: urllib3.BaseHTTPResponse) -> None:
    """Reads a short answer to its end, which gives the connection back."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) <= _MAX_DRAINED_BYTES:
        # What the answer is, its status has said.
        with contextlib.suppress(exceptions.HTTPError, OSError):
            response.drain_conn()


def _explain(error: exceptions.HTTPError) -> UnusableImageError:
    """Names what went wrong. The library's own words quote the whole address: they are not used."""
    if isinstance(error, exceptions.NameResolutionError):
        return UnusableImageError(Reason.FETCH_FAILED, "the host name cannot be resolved")
    if isinstance(error, exceptions.NewConnectionError):
        return UnusableImageError(Reason.FETCH_FAILED, "no connection to the host")
    if isinstance(error, exceptions.LocationValueError):
        return UnusableImageError(Reason.URI_INVALID, "the http address names no usable host")
    if isinstance(error, exceptions.TimeoutError):
        return UnusableImageError(Reason.FETCH_TIMEOUT, "the host did not answer in time")
    if isinstance(error, exceptions.SSLError):
        return UnusableImageError(Reason.FETCH_FAILED, "the TLS connection failed")
    return UnusableImageError(Reason.FETCH_FAILED, f"the answer broke off ({type(error).__name__})")


class _Limits(threading.local):
    """What the thread's reads must keep. An image is fetched within one thread."""

    attempt: Attempt | None = None
    read_timeout_s: float = 0.0
    dials: DialList = DialList(networks=(), hosts=())


_limits = _Limits()


class _TimedStream(io.RawIOBase):
    """A socket's stream whose every read is bounded by what is left of the attempt."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if _limits.attempt is not None:
            self._wait(_limits.attempt)
        return cast("int | None", self._raw.readinto(buffer))

    def _wait(self, attempt: Attempt) -> None:
        """Until there is something to read, the time is over, or nobody waits any more."""
        until = min(time.monotonic() + _limits.read_timeout_s, attempt.deadline)
        # Bytes that TLS has decrypted already do not show on the socket.
        pending = getattr(self._sock, "pending", int)
        while not pending():
            left_s = until - time.monotonic()
            if left_s <= 0 or attempt.cancelled.is_set():
                raise TimeoutError("the attempt is over")
            self._sock.settimeout(left_s)
            if wait_for_read(self._sock, timeout=min(left_s, _POLL_S)):
                break

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer read through :class:`_TimedStream`.

    The library's own timeout starts anew with every byte.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedStream(self.fp.detach(), sock))


def _dial(connection: HTTPConnection) -> socket.socket:
    """What the library's connections do to connect, but to a checked address only."""
    attempt, connect_timeout_s = _limits.attempt, connection.timeout

    def timeout_s() -> float:
        if attempt is not None:
            attempt.check()
        left_s = attempt.remaining_s if attempt is not None else math.inf
        return max(0.001, min(left_s, float(connect_timeout_s or left_s)))

    try:
        # Not ``host``, which lacks the dot that ends a full name.
        return _limits.dials.dial(connection._dns_host, connection.port, timeout_s)
    except socket.gaierror as error:
        raise exceptions.NameResolutionError(connection.host, connection, error) from error
    except TimeoutError as error:
        raise exceptions.ConnectTimeoutError(connection, "timed out") from error
    except OSError as error:
        raise exceptions.NewConnectionError(connection, "cannot connect") from error


class _TimedConnection(HTTPConnection):
    response_class = _TimedResponse

    def _new_conn(self) -> socket.socket:
        return _dial(self)


class _TimedTlsConnection(HTTPSConnection):
    response_class = _TimedResponse

    def _new_conn(self) -> socket.socket:
        return _dial(self)


class _TimedPool(HTTPConnectionPool):
    ConnectionCls = _TimedConnection


class _TimedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTlsConnection
