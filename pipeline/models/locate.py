"""Where a bundle is on this machine: local folders as they are, others copied once. No torch."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from pyarrow import ArrowException, fs  # type: ignore[import-untyped]

from pipeline.errors import BundleError
from pipeline.models.bundle_info import INFO_NAME, parse_info
from pipeline.redaction import redact
from pipeline.registry.connection import Connection
from pipeline.registry.layout import find_bundle
from pipeline.registry.versions import download_model, is_model_uri, pin_model
from pipeline.storage import local_path

_COPY_TIMEOUT_S = 1800.0


def locate_bundle(
    uri: str, cache_dir: str | Path | None = None, connection: Connection | None = None
) -> Path:
    """Find a bundle, copying it here once if it is elsewhere.

    Processes of one machine that ask at the same time copy it once. A copy's folder is named by
    the sha256 of its ``bundle.json``, so another bundle at the same place is another copy.
    Contents are verified by :func:`pipeline.models.bundle_info.read_bundle_info`.

    Args:
        uri: A local folder, ``models:/name@alias`` or ``models:/name/version`` of the MLflow
            registry, or any folder pyarrow.fs can read (``s3://``, ``s3a://``, ``gs://``,
            ``hdfs://``, ``file://``).
        cache_dir: Where copies are kept. Default: a folder of this user in the system's temp
            folder.
        connection: The registry. Default: what MLflow's own settings name.

    Returns:
        A local folder.

    Raises:
        BundleError: If it cannot be found, read or copied.
        ConfigurationError: If a ``models:/`` URI has another form.
    """
    if (local := local_path(uri)) is not None and not is_model_uri(uri):
        return _existing(local)
    cache = Path(cache_dir) if cache_dir else _default_cache()
    if is_model_uri(uri):
        return _locate_registered(uri, cache, connection)
    try:
        filesystem, root = _open_filesystem(uri)
        with filesystem.open_input_stream(f"{root}/{INFO_NAME}") as stream:
            info = stream.read()
    except (OSError, ValueError, ArrowException) as error:
        raise BundleError("the bundle cannot be read", where=redact(uri), got=error) from error
    files = parse_info(info, f"{redact(uri)}/{INFO_NAME}")["files"]

    def copy(folder: Path) -> None:
        for name in files:
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            with filesystem.open_input_stream(f"{root}/{name}") as source:  # noqa: SIM117
                with target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        (folder / INFO_NAME).write_bytes(info)

    def is_complete(folder: Path) -> bool:
        # temp folders are cleaned file by file; and the hashes must be those of the original
        sizes = {name: entry["bytes"] for name, entry in files.items()}
        return (
            all(
                (folder / name).is_file() and (folder / name).stat().st_size == size
                for name, size in {**sizes, INFO_NAME: len(info)}.items()
            )
            and (folder / INFO_NAME).read_bytes() == info
        )

    key = hashlib.sha256(info).hexdigest()[:32]
    return _copy_once(uri, cache / key, copy=copy, is_complete=is_complete)


def _locate_registered(uri: str, cache: Path, connection: Connection | None) -> Path:
    model = pin_model(uri, connection)
    folder = _copy_once(
        model.uri,
        cache / model.key,
        copy=lambda target: download_model(model, target, connection),
        is_complete=lambda copy: (find_bundle(copy) / INFO_NAME).is_file(),
    )
    return find_bundle(_existing(folder))


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise BundleError("there is no bundle", where=folder, expected="a folder")
    return folder


def _default_cache() -> Path:
    cache = Path(tempfile.gettempdir()) / f"mumic-bundles-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.is_symlink() or cache.stat().st_uid != os.getuid():
        raise BundleError(
            "the cache folder belongs to somebody else",
            where=cache,
            todo="set model.cache_dir to a folder of your own",
        )
    return cache


def _open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    # s3a and s3n are Hadoop's names for what pyarrow calls s3
    filesystem, root = fs.FileSystem.from_uri(re.sub(r"^s3[an]://", "s3://", uri))
    return filesystem, root.rstrip("/")


def _copy_once(
    uri: str,
    folder: Path,
    *,
    copy: Callable[[Path], None],
    is_complete: Callable[[Path], bool],
) -> Path:
    """Fill ``folder`` under a lock unless it is complete; all of it or nothing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(f"{folder}.lock", timeout=_COPY_TIMEOUT_S):
            if is_complete(folder):
                return folder
            for left_over in (folder, *folder.parent.glob(f".{folder.name}.*")):
                shutil.rmtree(left_over, ignore_errors=True)
            temp = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                copy(temp)
                temp.rename(folder)
            finally:
                shutil.rmtree(temp, ignore_errors=True)
    except (OSError, ArrowException) as error:
        raise BundleError("the bundle cannot be copied", where=redact(uri), got=error) from error
    return folder
