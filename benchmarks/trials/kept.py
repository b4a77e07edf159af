"""What an ablation leaves in its folder, whole or not at all, so that it can go on where it was."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all: an ablation that was killed reads it when it goes on.

    Args:
        path: Its folder is there.
        value: Plain JSON data.
    """
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(beside, path)


def keep_settings(settings: DataclassInstance, folder: Path) -> None:
    """Write the settings into the output folder, or hold them against those that are there.

    Args:
        settings: Of this start, a dataclass.
        folder: Made where it is missing.

    Raises:
        ConfigurationError: The folder holds results of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    asked = json.loads(json.dumps(asdict(settings)))
    if not path.exists():
        write_json(path, asked)
        return
    kept = json.loads(path.read_text())
    if kept != asked:
        differing = sorted(
            key for key in kept.keys() | asked.keys() if kept.get(key) != asked.get(key)
        )
        raise ConfigurationError(
            "the output folder holds an ablation of other settings",
            where=path,
            expected={key: kept.get(key) for key in differing},
            got={key: asked.get(key) for key in differing},
            todo="choose another --output, or start with the same options",
        )


def write_report(path: Path, report: Mapping[str, Any]) -> str:
    """Write a report as one line of JSON, which knows no NaN. Returns the line.

    Args:
        path: Its folder is there.
        report: Plain data; an interval of one seed has no ends.
    """
    text = json.dumps(_without_nan(report))
    path.write_text(text + "\n")
    return text


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def tell(line: str) -> None:
    """A line of progress: stdout is the report's."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
