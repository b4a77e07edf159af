"""The folder a training goes on from: written as a whole or not at all, read with suspicion.

::

    checkpoint.json          what the rest belongs to: names, sizes and sha256 of the files, the
                             identity of the training, how far it got
    state-*.safetensors      weights, optimizer, average
    best-*.safetensors       weights of the best epoch
    mlflow_run.json          where the training is recorded; no part of what it goes on from

Tensor files are new files, synchronised to the disk; ``checkpoint.json`` is then replaced by a
rename, and only after that older files go. A kill at any moment leaves the checkpoint before or
the one after. Nothing in it is a pickle, and nothing unpickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from pipeline.errors import CheckpointError

_FORMAT = 1
_NAME = "checkpoint.json"
_LOCK = ".lock"
_RUN_NAME = "mlflow_run.json"
# Only files of such names are ever removed.
_TENSORS = re.compile(r"(state|best)-[0-9a-f]{16}\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        facts: How far the training got, plain JSON data.
        state: Weights, optimizer and average, by name.
        best: Weights of the best epoch, by name.
        best_epoch: Which epoch that is; -1 before the first one. Its weights are written once.
    """

    facts: dict[str, Any]
    state: dict[str, Tensor]
    best: dict[str, Tensor]
    best_epoch: int


class Checkpoint:
    """A folder with at most one training in it.

    Args:
        folder: Made where it is not there.
        identity: What a checkpoint must agree with to be of this training, by name.
        every_s: Least seconds between two checkpoints within an epoch.
        writes: Whether this process is the one that writes; only that one locks the folder.

    Raises:
        CheckpointError: The folder cannot be used, or another training is using it.
    """

    def __init__(
        self,
        folder: str | Path,
        identity: Mapping[str, str],
        *,
        every_s: float,
        writes: bool = True,
    ) -> None:
        self._folder, self._identity, self._every_s = Path(folder), dict(identity), every_s
        self._written_at = time.monotonic()
        self._files: dict[str, dict[str, Any]] = {}
        self._best_epoch: int | None = None
        # The system lets go of it when a process dies, however it dies.
        self._lock = FileLock(self._folder / _LOCK, timeout=0)
        if not writes:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise CheckpointError(
                "another training uses this checkpoint",
                where=folder,
                todo="wait for it, or choose another checkpoint.folder",
            ) from error
        except OSError as error:
            raise CheckpointError(
                "the checkpoint's folder cannot be used", where=folder, got=error
            ) from error

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.release()

    def is_due(self) -> bool:
        """Whether the last one is old enough for another one within an epoch."""
        return time.monotonic() - self._written_at >= self._every_s

    def read(self) -> Saved | None:
        """The checkpoint, or None where there is none yet.

        Raises:
            CheckpointError: It is damaged, or of another training.
        """
        try:
            text = (self._folder / _NAME).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise self._damaged(_NAME, error) from error
        told = self._parse(text)
        self._refuse_others(told["identity"])
        tensors = {role: self._load(file) for role, file in told["files"].items()}
        self._files, self._best_epoch = told["files"], told["best_epoch"]
        return Saved(
            facts=told["facts"],
            state=tensors["state"],
            best=tensors["best"],
            best_epoch=told["best_epoch"],
        )

    def write(self, saved: Saved) -> None:
        """Put a checkpoint in place of the last one.

        Raises:
            CheckpointError: It cannot be written; the last one stands.
        """
        try:
            files = {"state": self._save("state", saved.state)}
            if self._best_epoch == saved.best_epoch:
                files["best"] = self._files["best"]
            else:
                files["best"] = self._save("best", saved.best)
            body = {
                "format": _FORMAT,
                "identity": self._identity,
                "files": files,
                "best_epoch": saved.best_epoch,
                "facts": saved.facts,
            }
            self._replace_info(json.dumps({**body, "sha256": _digest_of(body)}, indent=2))
            self._files, self._best_epoch = files, saved.best_epoch
            _remove_tensors(self._folder, {file["name"] for file in files.values()})
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                "the checkpoint cannot be written", where=self._folder, got=error
            ) from error
        self._written_at = time.monotonic()

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads(text)
            stated = told.pop("sha256")
            if told["format"] > _FORMAT:
                raise CheckpointError(
                    "the checkpoint was written by a newer product",
                    where=self._folder,
                    todo="update the product",
                )
            if stated != _digest_of(told):
                raise ValueError("its sha256 is of another content")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(_NAME, error) from error
        return told

    def _refuse_others(self, identity: Mapping[str, str]) -> None:
        names = [n for n in {**self._identity, **identity} if self._of(n) != identity.get(n)]
        if names:
            raise CheckpointError(
                "the checkpoint is of another training",
                where=self._folder,
                expected=f"the same {', '.join(names)}",
                todo="choose another checkpoint.folder, or empty this one",
            )

    def _of(self, name: str) -> str | None:
        return self._identity.get(name)

    def _load(self, file: Mapping[str, Any]) -> dict[str, Tensor]:
        name = str(file["name"])
        try:
            content = (self._folder / Path(name).name).read_bytes()
            if len(content) != file["bytes"] or _sha256(content) != file["sha256"]:
                raise ValueError("not the bytes that were written")
            return load(content)
        except (OSError, ValueError, SafetensorError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> CheckpointError:
        return CheckpointError(
            "the checkpoint is damaged",
            where=self._folder / name,
            got=error,
            todo="empty the folder to start again",
        )

    def _save(self, role: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Write a tensor file under a name nobody had, and onto the disk."""
        path = self._folder / f"{role}-{secrets.token_hex(8)}.safetensors"
        # cloned: safetensors refuses tensors that share memory
        save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, path)
        _synchronise(path)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return {"name": path.name, "bytes": stream.tell(), "sha256": digest}

    def _replace_info(self, text: str) -> None:
        beside = self._folder / f".{_NAME}"
        beside.write_text(text + "\n", encoding="utf-8")
        _synchronise(beside)
        _synchronise(self._folder)  # names of the tensor files before the name of what needs them
        beside.replace(self._folder / _NAME)
        _synchronise(self._folder)


def keep_run(folder: str | Path, run: Mapping[str, str]) -> None:
    """Remember which run records the training, for when it goes on.

    Args:
        folder: Of the checkpoint; made where it is missing.
        run: What names it, plain JSON data.

    Raises:
        CheckpointError: It cannot be written.
    """
    beside = Path(folder) / f".{_RUN_NAME}"
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(dict(run)) + "\n", encoding="utf-8")
        beside.replace(Path(folder) / _RUN_NAME)
    except OSError as error:
        raise CheckpointError(
            "the checkpoint's folder cannot be used", where=folder, got=error
        ) from error


def find_run(folder: str | Path) -> dict[str, str]:
    """What names the run of the training that was cut off here.

    Returns:
        Empty where there is none, nobody can read it, or its training is still going on.
    """
    try:
        with FileLock(Path(folder) / _LOCK, timeout=0):
            found = json.loads((Path(folder) / _RUN_NAME).read_text(encoding="utf-8"))
    except (OSError, Timeout, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remove_checkpoint(folder: str | Path) -> None:
    """Remove what a finished training no longer needs; files of others stay.

    Raises:
        CheckpointError: It cannot be removed.
    """
    try:
        for name in (_NAME, _RUN_NAME):
            (Path(folder) / name).unlink(missing_ok=True)
        _remove_tensors(Path(folder), set())
    except OSError as error:
        raise CheckpointError(
            "the checkpoint cannot be removed", where=folder, got=error
        ) from error


def _remove_tensors(folder: Path, needed: set[str]) -> None:
    for path in folder.iterdir():
        if _TENSORS.fullmatch(path.name) and path.name not in needed:
            path.unlink(missing_ok=True)


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_of(body: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(body, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
