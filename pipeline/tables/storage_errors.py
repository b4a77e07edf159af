"""Errors of the storage in one line, out of the traces that Spark and Java make of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from delta import exceptions
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from pipeline.errors import TablesError

CONFLICTS = (
    exceptions.ConcurrentAppendException,
    exceptions.ConcurrentDeleteDeleteException,
    exceptions.ConcurrentDeleteReadException,
    exceptions.ConcurrentTransactionException,
    exceptions.ConcurrentWriteException,
    exceptions.DeltaConcurrentModificationException,
    exceptions.MetadataChangedException,
    exceptions.ProtocolChangedException,
)
"""Another one changed the table meanwhile. They have no common ancestor of their own in Python."""


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Tell errors of the storage in one line.

    Errors raised by Python code on executors are left as they are: they are not the storage's.
    """
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        cause = storage_cause(error)
        if cause is None:
            raise
        raise TablesError(
            "the storage refused",
            where=doing,
            got=cause,
            todo="check that the place exists, is readable and writable, and has space left",
        ) from error


_STORAGE_EXCEPTIONS = (
    "java.io.FileNotFoundException",
    "java.io.IOException",
    "java.io.UncheckedIOException",
    "java.nio.file.",
    "java.nio.file.AccessDeniedException",
    "org.apache.hadoop.fs.ParentNotDirectoryException",
    "org.apache.hadoop.fs.UnsupportedFileSystemException",
    "org.apache.hadoop.security.AccessControlException",
    "Mkdirs failed",
    "java.lang.ClassNotFoundException",  # a file system whose jar is not there, such as s3a
    "DELTA_CANNOT_CREATE_LOG_PATH",
    "DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION",
    "DELTA_LOG_FILE_NOT_FOUND",
    "DELTA_MISSING_DELTA_TABLE",
    "DELTA_STATE_RECOVER_ERROR",
    "DELTA_TABLE_NOT_FOUND",
    "DELTA_TRUNCATED_TRANSACTION_LOG",
    "DELTA_VERSIONS_NOT_CONTIGUOUS",
)


def storage_cause(error: BaseException) -> str | None:
    """The line of an error's text that names a storage exception, if one does."""
    text = str(error)
    if "PythonException" in text:
        return None
    for line in text.splitlines():
        if any(name in line for name in _STORAGE_EXCEPTIONS):
            return line.strip().removeprefix(": ")[:300]
    return None
