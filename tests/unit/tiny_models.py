"""Small models with random weights for the tests of models, built from local files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.config import CmaClipConfig, Modalities, TowersConfig
from pipeline.models.bundle import Bundle, write_bundle
from pipeline.models.cma_bundle import write_cma_clip
from pipeline.models.cma_clip import CmaClip
from pipeline.models.mumic import MuMIC
from pipeline.models.towers import Towers, load_towers
from pipeline.taxonomy import Taxonomy, parse_taxonomy

_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}

# One of each kind of model that open_clip builds without fetching anything.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 32, "vision_cfg": _VIT, "text_cfg": _TEXT},
    "resnet": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": _TEXT,
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {
            **_VIT,
            "attentional_pool": True,
            "attn_pooler_heads": 4,
            "output_tokens": True,
        },
        "text_cfg": {**_TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": _TEXT,
    },
    # as SigLIP's: no class token, a bias in the loss, text pooled at its last place
    "siglip": {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": {
            **_TEXT,
            "width": 64,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    },
}

TAXONOMY: Taxonomy = parse_taxonomy(
    {
        "tasks": [
            {
                "id": "scene",
                "kind": "multi_label",
                "templates": ["a photo of a {}.", "a hotel with a {}"],
                "labels": [
                    {"id": "pool", "name": "swimming pool"},
                    {"id": "sea_view"},
                    {"id": "bed", "texts": ["a bed", "somewhere to sleep", "pillows"]},
                ],
            },
            {
                "id": "room",
                "kind": "single_label",
                "labels": [{"id": "single"}, {"id": "double"}],
            },
        ]
    }
)


def make_towers(folder: Path, kind: str = "vit", *, seed: int = 0) -> Towers:
    """Random towers of one kind, loaded the way users load their own architectures."""
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(ARCHITECTURES[kind]))
    torch.manual_seed(seed)
    return load_towers(TowersConfig(architecture=str(path)))


def make_bundle(folder: Path, kind: str = "vit", *, taxonomy: Taxonomy = TAXONOMY) -> Bundle:
    """A bundle ``folder/bundle`` with a temperature and a bias that make scores differ."""
    towers = make_towers(folder, kind)
    return write_bundle(
        folder / "bundle",
        mumic=MuMIC(towers.model, tau=0.07, bias=-1.5),
        towers=towers,
        taxonomy=taxonomy,
        licence="CC0-1.0",
    )


def make_cma_bundle(
    folder: Path,
    kind: str = "vit",
    *,
    taxonomy: Taxonomy = TAXONOMY,
    modalities: Modalities = "both",
) -> Bundle:
    """A CMA-CLIP bundle ``folder/bundle`` whose tasks trust text and image unequally."""
    towers = make_towers(folder, kind)
    torch.manual_seed(5)
    config = CmaClipConfig(layers=2, heads=4, modalities=modalities)
    model = CmaClip(towers.model, taxonomy, config)
    with torch.no_grad():
        for _, parameter in model.new_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return write_cma_clip(
        folder / "bundle", model=model, towers=towers, taxonomy=taxonomy, licence="CC0-1.0"
    )
