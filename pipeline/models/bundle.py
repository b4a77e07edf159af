"""Writing bundles, and reading their tensors. See :mod:`pipeline.models.bundle_info` for the form.

Shapes: L labels, D embedding.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

import pipeline
from pipeline.errors import BundleError, ConfigurationError, ModelError, PipelineError
from pipeline.images.preprocess import Preprocessing
from pipeline.models.bundle_info import (
    FORMAT,
    INFO_NAME,
    LABEL_EMBEDDINGS_NAME,
    TAXONOMY_NAME,
    TEXT_TOWER_FOLDER,
    TOKENIZER_FOLDER,
    WEIGHTS_NAME,
    BundleInfo,
    describe_file,
    read_bundle_info,
    serialise_info,
)
from pipeline.models.labels import Tokenizer, embed_labels
from pipeline.models.mumic import MuMIC
from pipeline.models.towers import Towers, build_clip, make_tokenizer, uses_hugging_face_text
from pipeline.taxonomy import Taxonomy, write_taxonomy

_LIBRARIES = ("torch", "open_clip_torch", "timm", "transformers", "safetensors", "pillow", "numpy")
_EMBEDDINGS_KEY = "label_embeddings"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle.

    Attributes:
        info: All but the tensors.
        label_embeddings: g, [L, D], float32, rows of length 1, in the taxonomy's order.
    """

    info: BundleInfo
    label_embeddings: npt.NDArray[np.float32]

    @property
    def kind(self) -> str:
        """The kind of model."""
        return self.info.kind

    @property
    def path(self) -> Path:
        """The folder."""
        return self.info.path

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy in force."""
        return self.info.taxonomy

    @property
    def preprocessing(self) -> Preprocessing:
        """From an image to the model's input."""
        return self.info.preprocessing

    def load_model(self, device: torch.device | str = "cpu") -> MuMIC:
        """The model in float32 and eval mode on ``device``.

        Raises:
            BundleError: If the weights do not fit the architecture.
        """
        architecture = copy.deepcopy(self.info.architecture)
        text_tower = self.path / TEXT_TOWER_FOLDER
        if text_tower.is_dir():
            architecture["text_cfg"]["hf_model_name"] = str(text_tower)
        try:
            clip = build_clip(architecture, where=self.path / INFO_NAME)
            clip.load_state_dict(load_file(self.path / WEIGHTS_NAME), strict=True)
        except (PipelineError, RuntimeError, SafetensorError) as error:
            raise BundleError(
                "the weights do not fit the architecture", where=self.path, got=error
            ) from error
        mumic = MuMIC(clip, tau=self.info.tau, bias=self.info.logit_bias)
        return mumic.eval().to(device)

    def load_tokenizer(self) -> Tokenizer:
        """The text tower's tokenizer: texts to tokens [N, T] int64.

        Raises:
            BundleError: If it cannot be made.
        """
        folder = self.path / TOKENIZER_FOLDER
        try:
            return make_tokenizer(self.info.architecture, folder if folder.is_dir() else None)
        except (PipelineError, KeyError, TypeError) as error:
            raise BundleError(
                "the tokenizer cannot be loaded", where=self.path, got=error
            ) from error

    def load_towers(self) -> Towers:
        """The towers alone, for a training that goes on from here.

        Raises:
            BundleError: If they cannot be loaded.
        """
        return Towers(
            model=self.load_model().clip,
            tokenizer=self.load_tokenizer(),
            preprocessing=self.preprocessing,
            architecture=self.info.architecture,
        )


def read_bundle(folder: str | Path) -> Bundle:
    """Read a local bundle and verify every file of it.

    Raises:
        BundleError: If anything is missing, changed, unsafe, of a newer format, or does not fit.
    """
    info = read_bundle_info(folder)
    path = info.path / LABEL_EMBEDDINGS_NAME
    try:
        embeddings = load_arrays(path)[_EMBEDDINGS_KEY]
    except (SafetensorError, KeyError) as error:
        raise BundleError("the label embeddings cannot be read", where=path, got=error) from error
    expected = (len(info.taxonomy.labels), info.embedding_size)
    if embeddings.shape != expected or embeddings.dtype != np.float32:
        raise BundleError(
            "the label embeddings do not fit the taxonomy",
            where=path,
            expected=f"float32 {expected}",
            got=f"{embeddings.dtype} {embeddings.shape}",
        )
    return Bundle(info=info, label_embeddings=embeddings)


def write_bundle(
    folder: str | Path,
    *,
    mumic: MuMIC,
    towers: Towers,
    taxonomy: Taxonomy,
    licence: str,
    training: dict[str, Any] | None = None,
) -> Bundle:
    """Write a bundle: all of it or nothing.

    Args:
        folder: A local folder that does not exist yet.
        mumic: The model; its towers are ``towers.model``, trained or not.
        towers: Architecture, tokenizer and preprocessing.
        taxonomy: The taxonomy in force; its texts are embedded here.
        licence: Licence of the weights.
        training: What the training wants remembered, as JSON can hold it: NaN becomes null, what
            is no plain data its text.

    Returns:
        The bundle, read back and verified.

    Raises:
        ConfigurationError: If ``folder`` exists.
        BundleError: If it cannot be written.
        ModelError: If the model is broken: weights or label embeddings are not finite.
    """
    was_training = mumic.training
    mumic.eval()
    embeddings = embed_labels(mumic, towers.tokenizer, taxonomy).numpy()
    mumic.train(was_training)
    numbers = [torch.from_numpy(embeddings), mumic.tau, mumic.bias]
    numbers += mumic.clip.visual.state_dict().values()
    if not all(torch.isfinite(tensor).all() for tensor in numbers):
        raise ModelError(
            "the model's weights or label embeddings are not finite",
            where=folder,
            todo="nothing was written; train again with a lower learning rate",
        )
    with _new_folder(Path(folder)) as temp:
        # cloned: safetensors refuses tensors that share memory
        state = mumic.clip.state_dict()
        save_file({n: t.cpu().contiguous().clone() for n, t in state.items()}, temp / WEIGHTS_NAME)
        _write_labels(temp, taxonomy, embeddings)
        if hasattr(towers.tokenizer, "save_pretrained"):
            towers.tokenizer.save_pretrained(str(temp / TOKENIZER_FOLDER))
        if uses_hugging_face_text(mumic.clip):
            mumic.clip.text.config.save_pretrained(str(temp / TEXT_TOWER_FOLDER))
        _write_info(
            temp,
            {
                "kind": "mumic",
                "architecture": towers.architecture,
                "preprocessing": towers.preprocessing.to_dict(),
                "tokenizer": _describe_tokenizer(towers),
                "logit_scale": 1.0 / float(mumic.tau.detach()),
                "logit_bias": float(mumic.bias.detach()),
                "embedding_size": int(embeddings.shape[1]),
                "licence": licence,
                "training": _as_json(training),
            },
        )
    return read_bundle(folder)


def write_with_taxonomy(folder: str | Path, *, bundle: Bundle, taxonomy: Taxonomy) -> Bundle:
    """Write the same model with another taxonomy: zero-shot for labels it never saw.

    The new bundle has the same model_version, so stored embeddings can be scored again.

    Args:
        folder: A local folder that does not exist yet.
        bundle: Whose model, licence and training are kept.
        taxonomy: The new taxonomy in force; its texts are embedded by the bundle's text tower.

    Returns:
        The new bundle, read back and verified.

    Raises:
        ConfigurationError: If ``folder`` exists.
        BundleError: If it cannot be written, or the model cannot be loaded.
    """
    info = bundle.info
    embeddings = embed_labels(bundle.load_model(), bundle.load_tokenizer(), taxonomy).numpy()
    with _new_folder(Path(folder)) as temp:
        for name in set(info.files) - {TAXONOMY_NAME, LABEL_EMBEDDINGS_NAME}:
            (temp / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.path / name, temp / name)
        _write_labels(temp, taxonomy, embeddings)
        _write_info(
            temp,
            {
                "kind": info.kind,
                "architecture": info.architecture,
                "preprocessing": info.preprocessing.to_dict(),
                "tokenizer": info.tokenizer,
                "logit_scale": info.logit_scale,
                "logit_bias": info.logit_bias,
                "embedding_size": info.embedding_size,
                "licence": info.licence,
                "training": info.training,
            },
        )
    return read_bundle(folder)


def validate_new(folder: str | Path) -> None:
    """Refuse a place for a bundle where something is already.

    Raises:
        ConfigurationError: There is.
    """
    if os.path.lexists(folder):
        raise ConfigurationError(
            "a bundle is never overwritten", where=folder, todo="choose a folder that is not there"
        )


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that becomes it at the end, or vanishes."""
    validate_new(folder)
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


def _write_labels(folder: Path, taxonomy: Taxonomy, embeddings: npt.NDArray[np.float32]) -> None:
    write_taxonomy(taxonomy, folder / TAXONOMY_NAME)
    array = np.ascontiguousarray(embeddings, dtype=np.float32)
    save_arrays({_EMBEDDINGS_KEY: array}, folder / LABEL_EMBEDDINGS_NAME)


def _write_info(folder: Path, fields: dict[str, Any]) -> None:
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


def _as_json(data: object) -> Any:
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
