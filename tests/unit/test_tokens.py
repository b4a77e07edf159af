"""Tokens out of towers: what the tower itself makes of them, cut or not, and towers without any."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import ARCHITECTURES, make_towers
from torch import nn

from pipeline.errors import ConfigurationError
from pipeline.models.tokens import (
    encode_image_tokens,
    encode_text_tokens,
    trim_padding,
    validate_image_tower,
)
from pipeline.models.towers import Towers, build_clip

TEXTS = ["a bed", "", "a red cotton shirt with long sleeves", "日本 🏝"]
KINDS = ["vit", "siglip", "custom_text"]


def towers_of(folder: Path, kind: str) -> Towers:
    if kind != "custom_text":
        return make_towers(folder, kind)
    vit = make_towers(folder, "vit")
    torch.manual_seed(1)
    custom = {**vit.architecture, "custom_text": True}
    return Towers(
        model=build_clip(custom),
        tokenizer=vit.tokenizer,
        preprocessing=vit.preprocessing,
        architecture=custom,
    )


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_pooled_vectors_are_those_that_open_clip_gives(tmp_path: Path, kind: str) -> None:
    towers = towers_of(tmp_path, kind)
    model: Any = towers.model
    pixels, tokens = torch.randn(3, 3, 32, 32), towers.tokenizer(TEXTS)
    validate_image_tower(model)
    image, text = encode_image_tokens(model, pixels), encode_text_tokens(model, tokens)
    torch.testing.assert_close(image.pooled, model.encode_image(pixels))
    torch.testing.assert_close(text.pooled, model.encode_text(tokens))
    width = image.pooled.shape[1]
    assert image.patches.shape == (3, 4, width)
    assert text.tokens.shape == (4, 16, width)


@torch.no_grad()
def test_patch_tokens_are_normed_and_projected_as_the_tower_does_with_what_it_pools() -> None:
    architecture = copy.deepcopy(ARCHITECTURES["vit"])
    architecture["vision_cfg"]["pool_type"] = "avg"
    torch.manual_seed(2)
    model: Any = build_clip(architecture)
    nn.init.normal_(model.visual.ln_post.weight)
    pixels = torch.randn(2, 3, 32, 32)
    patches = encode_image_tokens(model, pixels).patches
    torch.testing.assert_close(patches.mean(dim=1), model.encode_image(pixels))


@torch.no_grad()
def test_the_end_tokens_vector_is_the_texts_and_only_what_stands_before_it_is_a_token(
    tmp_path: Path,
) -> None:
    towers = make_towers(tmp_path, "vit")
    tokens = towers.tokenizer(TEXTS)
    text = encode_text_tokens(towers.model, tokens)
    for row, ids in enumerate(tokens.tolist()):
        end = ids.index(max(ids))
        torch.testing.assert_close(text.tokens[row, end], text.pooled[row])
        assert text.is_token[row].tolist() == [place < end for place in range(16)]


@pytest.mark.parametrize("kind", ["vit", "custom_text"])
@torch.no_grad()
def test_cutting_padding_changes_no_vector(tmp_path: Path, kind: str) -> None:
    towers = towers_of(tmp_path, kind)
    tokens = towers.tokenizer(TEXTS[:2])
    cut = trim_padding(towers.model, tokens)
    assert cut.shape == (2, 4)  # start, a, bed, end
    short, whole = (encode_text_tokens(towers.model, one) for one in (cut, tokens))
    torch.testing.assert_close(short.pooled, whole.pooled)
    torch.testing.assert_close(short.tokens, whole.tokens[:, :4])
    assert not whole.is_token[:, 4:].any()


@torch.no_grad()
def test_a_tower_that_reads_its_padding_gets_it(tmp_path: Path) -> None:
    towers = make_towers(tmp_path, "siglip")
    tokens = towers.tokenizer(TEXTS)
    assert trim_padding(towers.model, tokens) is tokens
    text = encode_text_tokens(towers.model, tokens)
    # start, a, bed, end, and the first of what is repeated to the end
    assert text.is_token[0].tolist() == [True] * 5 + [False] * 11


@pytest.mark.parametrize("kind", ["resnet", "coca"])
def test_an_image_tower_without_patch_tokens_is_refused_by_its_kind(
    tmp_path: Path, kind: str
) -> None:
    with pytest.raises(ConfigurationError, match="no patch tokens") as caught:
        validate_image_tower(make_towers(tmp_path, kind).model)
    assert "ViT-B-32" in str(caught.value)
