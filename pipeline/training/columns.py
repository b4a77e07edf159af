"""Which columns a labelled manifest has, and whether they hold what they should."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa  # type: ignore[import-untyped]

from pipeline.config import LabelledManifestConfig
from pipeline.errors import ManifestError


def find_columns(config: LabelledManifestConfig, schema: pa.Schema) -> dict[str, str]:
    """Role -> column name, for the columns that are there.

    Args:
        config: Names of columns.
        schema: The manifest's.

    Raises:
        ManifestError: A column is missing or mistyped.
    """
    belonging = _choose_belonging(config, schema)
    named = {
        "image_id": config.image_id,
        "labels": config.labels,
        **belonging,
        "uri": config.uri,
        "content": config.content,
        "unknown": config.unknown,
        "text": config.text,
        "attributes": config.attributes,
    }
    fits: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
        "image_id": ("string or integer", lambda t: is_string(t) or pa.types.is_integer(t)),
        "labels": ("array of strings", _is_strings),
        "split": ("string", is_string),
        "group": ("string or integer", lambda t: is_string(t) or pa.types.is_integer(t)),
        "uri": ("string", is_string),
        "content": ("binary", lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t)),
        "unknown": ("array of strings", _is_strings),
        "text": ("string", is_string),
        "attributes": ("map of strings", _is_string_map),
    }
    columns: dict[str, str] = {}
    for role, name in named.items():
        column = name or role
        if column not in schema.names:
            if name is None:
                continue
            raise ManifestError(
                f"the labelled manifest has no column {name} for {role}",
                where=config.path,
                got=schema.names,
                todo=f"name it with manifest.{role}"
                + (", or what belongs together with manifest.group" if role == "split" else ""),
            )
        expected, fit = fits[role]
        if not fit(schema.field(column).type):
            raise ManifestError(
                f"column {column} of the labelled manifest has the wrong type",
                where=config.path,
                expected=expected,
                got=schema.field(column).type,
            )
        columns[role] = column
    if "uri" not in columns and "content" not in columns:
        raise ManifestError(
            "the labelled manifest has neither a uri nor a content column",
            where=config.path,
            got=schema.names,
            todo="name one with manifest.uri or manifest.content",
        )
    return columns


def _choose_belonging(config: LabelledManifestConfig, schema: pa.Schema) -> dict[str, str]:
    """The column that says, or decides, which split a row is in."""
    if config.group is not None:
        return {"group": config.group}
    if config.split not in schema.names and "group" in schema.names:
        return {"group": "group"}
    return {"split": config.split}


def is_string(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_strings(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return listed and (is_string(kind.value_type) or pa.types.is_null(kind.value_type))


def _is_string_map(kind: pa.DataType) -> bool:
    return (
        pa.types.is_map(kind)
        and is_string(kind.key_type)
        and (is_string(kind.item_type) or pa.types.is_null(kind.item_type))
    )
