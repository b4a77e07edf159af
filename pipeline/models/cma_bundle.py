"""CMA-CLIP on the bundle's path: written and loaded like MuMIC, with heads for label texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.errors import BundleError, ConfigurationError, ModelError
from pipeline.models.bundle import Bundle, read_bundle
from pipeline.models.bundle_folder import (
    as_json,
    describe_towers,
    new_folder,
    write_info,
    write_tensors,
    write_towers,
)
from pipeline.models.bundle_info import HEADS_NAME, TAXONOMY_NAME, describe_cma_clip
from pipeline.models.cma_clip import CmaClip
from pipeline.models.towers import Towers
from pipeline.taxonomy import Taxonomy, write_taxonomy


def write_cma_clip(
    folder: str | Path,
    *,
    model: CmaClip,
    towers: Towers,
    taxonomy: Taxonomy,
    licence: str,
    training: dict[str, Any] | None = None,
) -> Bundle:
    """Write a CMA-CLIP bundle: all of it or nothing.

    Args:
        folder: A local folder that does not exist yet.
        model: The model; its towers are ``towers.model``, trained or not.
        towers: Architecture, tokenizer and preprocessing.
        taxonomy: The taxonomy the model was made for.
        licence: Licence of the weights.
        training: What the training wants remembered, as JSON can hold it.

    Returns:
        The bundle, read back and verified.

    Raises:
        BundleError: If ``folder`` exists or cannot be written.
        ModelError: If a weight is not finite.
    """
    heads = {n: t for n, t in model.state_dict().items() if not n.startswith("clip.")}
    towers_read = model.clip.state_dict()
    if not all(torch.isfinite(one).all() for one in (*heads.values(), *towers_read.values())):
        raise ModelError(
            "the model's weights are not finite",
            where=folder,
            todo="nothing was written; train again with a lower learning rate",
        )
    with new_folder(Path(folder)) as temp:
        write_towers(temp, model.clip, towers)
        write_tensors(heads, temp / HEADS_NAME)
        write_taxonomy(taxonomy, temp / TAXONOMY_NAME)
        write_info(
            temp,
            {
                "kind": "cma_clip",
                **describe_towers(towers),
                "cma_clip": describe_cma_clip(model.config, taxonomy),
                "logit_scale": 1.0,
                "logit_bias": 0.0,
                "embedding_size": model.width,
                "licence": licence,
                "training": as_json(training),
            },
        )
    return read_bundle(folder)


def load_cma_clip(bundle: Bundle, device: torch.device | str = "cpu") -> CmaClip:
    """The model in float32 and eval mode on ``device``.

    Raises:
        BundleError: If it is another kind of model, or the weights do not fit.
    """
    config = bundle.info.cma_clip
    if config is None:
        raise BundleError("not a CMA-CLIP bundle", where=bundle.path, got=bundle.kind)
    try:
        model = CmaClip(bundle.load_clip(), bundle.taxonomy, config)
        heads = load_file(bundle.path / HEADS_NAME)
        found = model.load_state_dict(heads, strict=False)
        odd = [
            *found.unexpected_keys,
            *(n for n in found.missing_keys if not n.startswith("clip.")),
        ]
        if odd:
            raise RuntimeError(f"{odd[0]} is not where it should be")
    except (ConfigurationError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            "the heads do not fit the towers", where=bundle.path / HEADS_NAME, got=error
        ) from error
    return model.eval().to(device)
