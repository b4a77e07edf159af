"""Blocks arranged for inference against open_clip's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock
from tiny_models import make_towers
from torch import nn

from pipeline.models.inference_blocks import InferenceBlock, arrange_blocks
from pipeline.models.tokens import encode_image_tokens, encode_text_tokens

VIT = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "heads": 4, "mlp_ratio": 2.0}


def make_block(**options: Any) -> ResidualAttentionBlock:
    torch.manual_seed(0)
    block = ResidualAttentionBlock(32, 4, **options).eval()
    for parameter in block.parameters():  # norms and biases too
        nn.init.normal_(parameter, std=0.3)
    return block


def find_blocks(tower: nn.Module) -> list[InferenceBlock]:
    return [one for one in tower.modules() if isinstance(one, InferenceBlock)]


@pytest.mark.parametrize(
    "options",
    [{}, {"ls_init_value": 0.3}, {"act_layer": QuickGELU}, {"mlp_ratio": 1.5}],
    ids=["usual", "layer scale", "quick gelu", "narrow"],
)
@torch.inference_mode()
def test_a_block_computes_what_open_clips_does(options: dict[str, Any]) -> None:
    block = make_block(**options)
    x = torch.randn(3, 7, 32)
    expected = block(x)
    torch.testing.assert_close(InferenceBlock(block)(x), expected, atol=1e-5, rtol=1e-5)
    first = InferenceBlock(block, first_only=True)(x)
    assert first.shape == (3, 1, 32)
    torch.testing.assert_close(first, expected[:, :1], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_block_sees_no_further_than_its_mask() -> None:
    block = make_block()
    x = torch.randn(2, 5, 32)
    mask = torch.full((5, 5), -torch.inf).triu(1)
    ours = InferenceBlock(block)(x, attn_mask=mask)
    of_each = mask.expand(2 * 4, 5, 5)  # as for padding
    torch.testing.assert_close(InferenceBlock(block)(x, attn_mask=of_each), ours)
    torch.testing.assert_close(ours, block(x, attn_mask=mask), atol=1e-5, rtol=1e-5)
    x[:, 3:] = 0
    again = InferenceBlock(block)(x, attn_mask=mask)
    torch.testing.assert_close(again[:, :3], ours[:, :3])


@pytest.mark.parametrize("kind", ["vit", "resnet", "coca", "siglip"])
@pytest.mark.parametrize("class_token_only", [True, False])
@torch.inference_mode()
def test_a_tower_embeds_as_before(tmp_path: Path, kind: str, class_token_only: bool) -> None:
    clip: Any = make_towers(tmp_path, kind).model.eval()
    images = torch.randn(3, 3, *open_clip.transformer.to_2tuple(clip.visual.image_size))
    expected = clip.encode_image(images)
    arrange_blocks(clip.visual, class_token_only=class_token_only)
    torch.testing.assert_close(clip.encode_image(images), expected, atol=1e-5, rtol=1e-5)
    arranged = find_blocks(clip.visual)
    assert bool(arranged) == (kind in ("vit", "coca"))
    # CoCa pools over all of its tokens
    assert any(one.query is not None for one in arranged) == (kind == "vit" and class_token_only)


@pytest.mark.parametrize(
    "options",
    [
        {"pool_type": "avg"},
        {"final_ln_after_pool": True},
        {"norm_layer": LayerNorm},
        {"qk_norm": True},
    ],
    ids=["mean of patches", "norm after pooling", "usual", "norms within attention"],
)
@torch.inference_mode()
def test_only_what_reads_the_class_token_alone_computes_it_alone(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    tower = open_clip.transformer.VisionTransformer(**VIT, **options).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = tower(images)
    arrange_blocks(tower, class_token_only=True)
    torch.testing.assert_close(tower(images), expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_tokens_of_images_and_texts_are_as_before(tmp_path: Path) -> None:
    towers = make_towers(tmp_path)
    clip = towers.model.eval()
    images, texts = torch.randn(2, 3, 32, 32), towers.tokenizer(["a bed", "a swimming pool"])
    patches, words = encode_image_tokens(clip, images), encode_text_tokens(clip, texts)
    arrange_blocks(clip, class_token_only=False)
    assert len(find_blocks(clip)) == 4
    again = encode_image_tokens(clip, images), encode_text_tokens(clip, texts)
    torch.testing.assert_close(again[0].patches, patches.patches, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again[1].tokens, words.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again[1].pooled, words.pooled, atol=1e-5, rtol=1e-5)
