"""Places: paths and URIs, and small files written to them by whatever pyarrow can write."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarrow import ArrowInvalid, fs  # type: ignore[import-untyped]

from pipeline.errors import PipelineError
from pipeline.redaction import redact

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")


def absolute(place: str) -> str:
    """A plain path as an absolute one, for processes that run in other folders; a URI as it is."""
    return place if _SCHEME.match(place) else str(Path(place).absolute())


def local_path(uri: str) -> Path | None:
    """The path where the place is on this machine, else None."""
    if "://" not in uri and not uri.startswith("file:"):
        return Path(uri)
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def validate_writable(uri: str) -> None:
    """Refuse a local place that cannot be written, before work is done for it.

    Raises:
        PipelineError: The folder cannot be made or written.
    """
    path = local_path(uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "is a folder")
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(uri, error) from error


def validate_creatable(uri: str) -> None:
    """Refuse a local folder that is not writable and could not be made. Makes nothing.

    Raises:
        PipelineError: With what is in the way.
    """
    path = local_path(uri)
    if path is None:
        return
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise _unwritable(uri, NotADirectoryError(20, f"{nearest} is no folder"))
    if not os.access(nearest, os.W_OK):
        raise _unwritable(uri, PermissionError(13, f"{nearest} is not writable"))


def write_text(uri: str, text: str) -> None:
    """Write a small text: whole or not at all, as far as the storage can.

    Args:
        uri: A local path or a URI.
        text: Written as UTF-8.

    Raises:
        PipelineError: The place cannot be written.
    """
    write_bytes(uri, text.encode())


def write_bytes(uri: str, content: bytes) -> None:
    """Write a small file: whole or not at all, as far as the storage can.

    Args:
        uri: A local path or a URI.
        content: All of it.

    Raises:
        PipelineError: The place cannot be written.
    """
    path = local_path(uri)
    try:
        if path is not None:
            _write_local(path, content)
            return
        filesystem, place = fs.FileSystem.from_uri(_arrow_uri(uri))
        with filesystem.open_output_stream(place) as stream:
            stream.write(content)
    except (OSError, ArrowInvalid) as error:
        raise _unwritable(uri, error) from error


def _write_local(path: Path, content: bytes) -> None:
    """Beside the file first, then in its place: a reader sees the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as stream:
        temporary = Path(stream.name)
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            # A temporary file is its owner's only; this one is for whoever may read the folder.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _arrow_uri(uri: str) -> str:
    """Spark writes s3a:// and s3n:// what Arrow calls s3://."""
    scheme, _, rest = uri.partition("://")
    return f"s3://{rest}" if scheme in ("s3a", "s3n") else uri


def _unwritable(uri: str, error: Exception) -> PipelineError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return PipelineError(
        "the place cannot be written",
        where=redact(uri),
        got=reason,
        todo="name a place that exists and is writable",
    )
