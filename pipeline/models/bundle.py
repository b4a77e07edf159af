"""Writing bundles, and reading their tensors. See :mod:`pipeline.models.bundle_info` for the form.

Shapes: L labels, D embedding.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file
from torch import nn

from pipeline.errors import BundleError, ModelError, PipelineError
from pipeline.images.preprocess import Preprocessing
from pipeline.models.bundle_folder import (
    as_json,
    describe_towers,
    new_folder,
    write_info,
    write_towers,
)
from pipeline.models.bundle_info import (
    INFO_NAME,
    LABEL_EMBEDDINGS_NAME,
    TAXONOMY_NAME,
    TEXT_TOWER_FOLDER,
    TOKENIZER_FOLDER,
    WEIGHTS_NAME,
    BundleInfo,
    describe_cma_clip,
    read_bundle_info,
)
from pipeline.models.labels import Tokenizer, embed_labels
from pipeline.models.mumic import MuMIC
from pipeline.models.towers import Towers, build_clip, make_tokenizer
from pipeline.taxonomy import Taxonomy, write_taxonomy

_EMBEDDINGS_KEY = "label_embeddings"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle.

    Attributes:
        info: All but the tensors.
        label_embeddings: Of MuMIC: g, [L, D], float32, rows of length 1, in the taxonomy's order.
            Other kinds have none: [0, D].
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

    def load_clip(self) -> nn.Module:
        """The two towers, float32, in eval mode, on the CPU.

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
        return clip

    def load_model(self, device: torch.device | str = "cpu") -> MuMIC:
        """MuMIC in float32 and eval mode on ``device``.

        Raises:
            BundleError: If it is another kind of model, or the weights do not fit.
        """
        if self.kind != "mumic":
            raise BundleError("not a MuMIC bundle", where=self.path, got=self.kind)
        mumic = MuMIC(self.load_clip(), tau=self.info.tau, bias=self.info.logit_bias)
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
            model=self.load_clip(),
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
    if not info.scores_from_embedding:
        return Bundle(info=info, label_embeddings=np.empty((0, info.embedding_size), np.float32))
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
    """Write a MuMIC bundle: all of it or nothing.

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
        BundleError: If ``folder`` exists or cannot be written.
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
    with new_folder(Path(folder)) as temp:
        write_towers(temp, mumic.clip, towers)
        _write_labels(temp, taxonomy, embeddings)
        write_info(
            temp,
            {
                "kind": "mumic",
                **describe_towers(towers),
                "logit_scale": 1.0 / float(mumic.tau.detach()),
                "logit_bias": float(mumic.bias.detach()),
                "embedding_size": int(embeddings.shape[1]),
                "licence": licence,
                "training": as_json(training),
            },
        )
    return read_bundle(folder)


def write_with_taxonomy(folder: str | Path, *, bundle: Bundle, taxonomy: Taxonomy) -> Bundle:
    """Write the same model with another taxonomy: of MuMIC, zero-shot for labels it never saw.

    The new bundle has the same model_version: MuMIC's stored embeddings can be scored again. The
    heads of CMA-CLIP know their own labels: thresholds, names and texts may differ, nothing else.

    Args:
        folder: A local folder that does not exist yet.
        bundle: Whose model, licence and training are kept.
        taxonomy: The new taxonomy in force; MuMIC's text tower embeds its texts.

    Returns:
        The new bundle, read back and verified.

    Raises:
        BundleError: If ``folder`` exists or cannot be written, the model cannot be loaded, or its
            heads have other labels.
    """
    info = bundle.info
    fields = {
        "kind": info.kind,
        "architecture": info.architecture,
        "preprocessing": info.preprocessing.to_dict(),
        "tokenizer": info.tokenizer,
        "logit_scale": info.logit_scale,
        "logit_bias": info.logit_bias,
        "embedding_size": info.embedding_size,
        "licence": info.licence,
        "training": info.training,
    }
    embeddings = None
    if info.cma_clip is None:
        embeddings = embed_labels(bundle.load_model(), bundle.load_tokenizer(), taxonomy).numpy()
    else:
        fields["cma_clip"] = describe_cma_clip(info.cma_clip, taxonomy)
        _validate_heads(bundle, taxonomy)
    with new_folder(Path(folder)) as temp:
        for name in set(info.files) - {TAXONOMY_NAME, LABEL_EMBEDDINGS_NAME}:
            (temp / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.path / name, temp / name)
        _write_labels(temp, taxonomy, embeddings)
        write_info(temp, fields)
    return read_bundle(folder)


def _validate_heads(bundle: Bundle, taxonomy: Taxonomy) -> None:
    """Refuse a taxonomy that asks for what the heads of CMA-CLIP do not answer."""

    def outputs(one: Taxonomy) -> list[tuple[str, str, str]]:
        return [(task.id, task.kind, label.id) for task, label in one.labels]

    ours, theirs = outputs(bundle.taxonomy), outputs(taxonomy)
    if ours == theirs:
        return
    odd = sorted({"/".join(one) for one in set(ours) ^ set(theirs)}) or [
        "the same in another order"
    ]
    raise BundleError(
        "this model answers the labels it was trained for, and no others",
        where=bundle.path,
        expected=f"its {len(ours)} labels in their order; thresholds, names and texts may differ",
        got=f"{len(theirs)} labels, {', '.join(odd[:3])}",
        todo="train a model with the new taxonomy",
    )


def _write_labels(
    folder: Path, taxonomy: Taxonomy, embeddings: npt.NDArray[np.float32] | None
) -> None:
    write_taxonomy(taxonomy, folder / TAXONOMY_NAME)
    if embeddings is not None:
        array = np.ascontiguousarray(embeddings, dtype=np.float32)
        save_arrays({_EMBEDDINGS_KEY: array}, folder / LABEL_EMBEDDINGS_NAME)
