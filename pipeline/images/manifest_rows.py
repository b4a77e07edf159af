"""Images of a local manifest, read again by the rows they stand in, a few at a time.

What is known of the images was read before, and kept; their bytes need not fit into memory. Knows
nothing of labels and samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.dataset as ds  # type: ignore[import-untyped]

from pipeline.errors import ManifestError
from pipeline.images.loader import ImageRequest

# Rows with their bytes that are in memory at once.
_ROWS_PER_READ = 64
# Columns that a request is made of, by their role.
_ROLES = ("image_id", "uri", "content", "text")


def open_manifest(path: str, *, what: str) -> Any:
    """The dataset of one or more Parquet files.

    Args:
        path: A file, or a folder of them.
        what: Names the manifest in errors, such as ``the sample``.

    Raises:
        ManifestError: It cannot be read.
    """
    try:
        return ds.dataset(path, format="parquet")
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            f"{what} cannot be read",
            where=path,
            expected="a Parquet file or a folder of them",
            got=str(error).split(". Detail:")[0],
        ) from error


def read_requests(
    path: str, columns: Mapping[str, str], wanted: Mapping[int, str], *, what: str
) -> Iterator[ImageRequest]:
    """Read uris and bytes of some rows.

    Args:
        path: The manifest.
        columns: Column of each role; of roles that a request has no use for nothing is read.
        wanted: Image id of each row that is wanted.
        what: Names the manifest in errors.

    Yields:
        One request for each row that is wanted, in the manifest's order, its key the image's id.

    Raises:
        ManifestError: The rows are not the ones that were read before.
    """
    named = {role: column for role, column in columns.items() if role in _ROLES}
    batches = open_manifest(path, what=what).to_batches(
        columns=list(named.values()),
        batch_size=_ROWS_PER_READ,
        batch_readahead=1,
        fragment_readahead=1,
    )
    row, left = 0, len(wanted)
    for batch in batches:
        for offset in range(batch.num_rows):
            if (key := wanted.get(row + offset)) is None:
                continue
            found = {role: batch.column(column)[offset].as_py() for role, column in named.items()}
            if str(found["image_id"]) != key:
                raise _changed(path, what)
            left -= 1
            yield ImageRequest(
                key=key,
                uri=found.get("uri") or None,
                content=found.get("content"),
                text=found.get("text"),
            )
        row += batch.num_rows
        if not left:
            break
    if left:
        raise _changed(path, what)


def _changed(path: str, what: str) -> ManifestError:
    return ManifestError(
        f"{what} changed while it was read", where=path, todo="start again when it is complete"
    )
