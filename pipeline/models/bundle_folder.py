"""The folder of a bundle as it is written: all of it or nothing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import pipeline
from pipeline.errors import BundleError
from pipeline.models.bundle_info import (
    FORMAT,
    INFO_NAME,
    TEXT_TOWER_FOLDER,
    TOKENIZER_FOLDER,
    WEIGHTS_NAME,
    describe_file,
    serialise_info,
)
from pipeline.models.towers import Towers, uses_hugging_face_text

_LIBRARIES = ("torch", "open_clip_torch", "timm", "transformers", "safetensors", "pillow", "numpy")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that becomes it at the end, or vanishes."""
    if os.path.lexists(folder):
        raise BundleError(
            "a bundle is never overwritten", where=folder, todo="choose a folder that is not there"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BundleError("the bundle cannot be written", where=folder, got=error) from error
    try:
        yield temp
        # mkdtemp and safetensors keep everything to their owner; executors run as somebody else
        for path in (temp, *temp.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        temp.rename(folder)
    except OSError as error:
        raise BundleError("the bundle cannot be written", where=folder, got=error) from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def write_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as they are, on whatever device."""
    # cloned: safetensors refuses tensors that share memory
    save_file({n: t.detach().cpu().contiguous().clone() for n, t in state.items()}, path)


def write_towers(folder: Path, clip: Any, towers: Towers) -> None:
    """Write the weights of both towers, and what Hugging Face's need beside them.

    Args:
        folder: Of the bundle.
        clip: The open_clip model, trained or not.
        towers: Tokenizer and architecture.
    """
    write_tensors(clip.state_dict(), folder / WEIGHTS_NAME)
    tokenizer: Any = towers.tokenizer
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(folder / TOKENIZER_FOLDER))
    if uses_hugging_face_text(clip):
        clip.text.config.save_pretrained(str(folder / TEXT_TOWER_FOLDER))


def describe_towers(towers: Towers) -> dict[str, Any]:
    """What ``bundle.json`` says of the towers."""
    return {
        "architecture": towers.architecture,
        "preprocessing": towers.preprocessing.to_dict(),
        "tokenizer": _describe_tokenizer(towers),
    }


def write_info(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write ``bundle.json``, last of all: it has the sha256 of every other file.

    Args:
        folder: Of the bundle.
        fields: All but versions and files.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    content = serialise_info(
        {
            **fields,
            "format": FORMAT,
            "product_version": pipeline.__version__,
            "libraries": _library_versions(),
            "files": {name: describe_file(folder / name) for name in names},
        }
    )
    (folder / INFO_NAME).write_bytes(content)


def as_json(data: object) -> Any:
    """Plain JSON data; hours of training are not lost for a NaN among its metrics."""
    return json.loads(json.dumps(data, default=str), parse_constant=lambda _: None)


def _describe_tokenizer(towers: Towers) -> dict[str, Any]:
    text = towers.architecture["text_cfg"]
    keys = ("context_length", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")
    return {
        "kind": type(towers.tokenizer).__name__,
        **{key: text[key] for key in keys if text.get(key) is not None},
    }


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
