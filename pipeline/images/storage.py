"""Reads images from local files and from object stores (S3, Google Cloud Storage, HDFS).

Object stores are read through :mod:`pyarrow.fs`; credentials, regions and endpoints come from
where its clients look for them (environment, profiles, instance roles), never from an address.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Callable
from datetime import timedelta

from pyarrow import fs  # type: ignore[import-untyped]

from pipeline.config import FetchConfig
from pipeline.images.attempt import Attempt
from pipeline.images.places import ObjectPlace
from pipeline.images.reasons import Reason, UnusableImageError

_LOCAL_CHUNK_BYTES = 1024 * 1024
# Every read of an S3 file is a request of its own: ask for most images at once.
_OBJECT_CHUNK_BYTES = 16 * 1024 * 1024

_REASON_BY_ERRNO = {
    errno.ENOENT: Reason.NOT_FOUND,
    errno.ENOTDIR: Reason.NOT_FOUND,
    errno.EACCES: Reason.FORBIDDEN,
    errno.EPERM: Reason.FORBIDDEN,
    errno.ELOOP: Reason.URI_INVALID,
    errno.ENAMETOOLONG: Reason.URI_INVALID,
    errno.ETIMEDOUT: Reason.FETCH_TIMEOUT,
}


def read_local(path: str, attempt: Attempt, check_file: Callable[[str], None]) -> bytes:
    """Reads a regular file. Anything else (folder, device, FIFO, socket) is refused unread.

    Args:
        path: The real path, free of symbolic links.
        attempt: Its limits. A network file system that hangs inside one read is not interrupted.
        check_file: Takes a real path, and raises where it may not be read.

    Returns:
        The bytes, at least one.

    Raises:
        UnusableImageError: Whatever keeps it from being read.
    """
    try:
        # Opening can already act on a device, so look first; then look at what was opened.
        _check_regular(os.stat(path))
        # NONBLOCK: a FIFO that took the file's place must not hang. NOFOLLOW: the path was
        # resolved and allowed; a link that took the file's place was not.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            opened = _find_opened(descriptor)
            # A link that took the place of a folder on the way led elsewhere.
            if opened is not None and opened != path:
                check_file(opened)
            status = os.fstat(descriptor)
            _check_regular(status)
            attempt.check_size(status.st_size)
            return attempt.collect(
                lambda size_bytes: os.read(descriptor, size_bytes), chunk_bytes=_LOCAL_CHUNK_BYTES
            )
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = _REASON_BY_ERRNO.get(error.errno or 0, Reason.FETCH_FAILED)
        raise UnusableImageError(reason, (error.strerror or "cannot be read").lower()) from error


def _find_opened(descriptor: int) -> str | None:
    """The real path of what was opened; None where the system does not tell."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:  # only Linux has it
        return None


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnusableImageError(Reason.URI_INVALID, "not a regular file")


class ObjectReader:
    """Reads objects, with one client for each store and bucket. Safe to share between threads.

    Args:
        config: How images are fetched.
        make_filesystem: Makes the client of a place's store.
    """

    def __init__(
        self,
        config: FetchConfig,
        make_filesystem: Callable[[ObjectPlace, FetchConfig], fs.FileSystem] | None = None,
    ) -> None:
        self._config = config
        self._make_filesystem = make_filesystem or make_object_filesystem
        self._filesystems: dict[tuple[str, str], fs.FileSystem] = {}
        self._lock = threading.Lock()

    def read(self, place: ObjectPlace, attempt: Attempt) -> bytes:
        """Reads one object.

        Args:
            place: The object, allowed already.
            attempt: Its limits. Inside one request the client's own timeouts hold.

        Returns:
            The bytes, at least one.

        Raises:
            UnusableImageError: Whatever keeps it from being read.
        """
        path = f"/{place.key}" if place.scheme == "hdfs" else f"{place.authority}/{place.key}"
        try:
            with self._filesystem(place).open_input_file(path) as file:
                attempt.check_size(file.size())
                return attempt.collect(file.read, chunk_bytes=_OBJECT_CHUNK_BYTES)
        except (OSError, ValueError) as error:
            raise _explain(error) from error

    def _filesystem(self, place: ObjectPlace) -> fs.FileSystem:
        store = (place.scheme, place.authority)
        with self._lock:
            if store not in self._filesystems:
                self._filesystems[store] = self._make_filesystem(place, self._config)
            return self._filesystems[store]


def make_object_filesystem(place: ObjectPlace, config: FetchConfig) -> fs.FileSystem:
    """Makes the client of a store. Retries are ours, so the client's own are kept few.

    Args:
        place: An object of the store.
        config: The timeouts.

    Returns:
        The client.

    Raises:
        OSError: The client cannot be made, as libhdfs without a Hadoop installation.
    """
    if place.scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=config.total_timeout_s))
    if place.scheme == "hdfs":
        host, _, port = place.authority.partition(":")
        return fs.HadoopFileSystem(host or "default", int(port or (8020 if host else 0)))
    # pyarrow's constructor, unlike other clients of S3, does not look for these itself.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or (None if endpoint else _find_region(place.authority)),
        connect_timeout=config.connect_timeout_s,
        request_timeout=config.read_timeout_s,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )


def _find_region(bucket: str) -> str | None:
    try:
        return str(fs.resolve_s3_region(bucket))
    except OSError:
        return None


def _explain(error: OSError | ValueError) -> UnusableImageError:
    """Maps what a client raises. Its words may quote the address: only its codes are kept."""
    text = str(error)
    code = re.search(r"AWS Error (\w+)|HTTP status (\d+)|curlCode: (\d+)", text)
    detail = f"the store said {code[0]}" if code else f"the store's client: {type(error).__name__}"
    reason = Reason.FETCH_FAILED
    if isinstance(error, FileNotFoundError) or re.search(r"NO_SUCH_|RESOURCE_NOT_FOUND", text):
        reason = Reason.NOT_FOUND
    elif isinstance(error, PermissionError) or re.search(
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|HTTP status 40[13]", text
    ):
        reason = Reason.FORBIDDEN
    elif re.search(r"[Nn]ot a regular file|is a directory", text):
        reason, detail = Reason.URI_INVALID, "not a regular file"
    elif isinstance(error, TimeoutError) or re.search(
        r"REQUEST_TIMEOUT|curlCode: 28|[Tt]imed? ?out", text
    ):
        reason = Reason.FETCH_TIMEOUT
    elif re.search(r"SLOW_DOWN|THROTTLING|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|status 5\d\d", text):
        reason = Reason.SERVER_ERROR
    elif isinstance(error, ValueError):
        reason = Reason.URI_INVALID
    return UnusableImageError(reason, detail)
