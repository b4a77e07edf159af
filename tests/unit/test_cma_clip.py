"""CMA-CLIP equals a slow reimplementation, whatever the batch, the padding, and what is missing."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from slow_cma_clip import predict_slowly
from tiny_models import TAXONOMY, make_towers
from torch import Tensor

from pipeline.config import CmaClipConfig
from pipeline.errors import ConfigurationError
from pipeline.models.cma_clip import CmaClip, CmaOutput
from pipeline.models.tokens import encode_image_tokens, encode_text_tokens
from pipeline.models.towers import Towers

CONFIG = CmaClipConfig(layers=2, heads=4)
VARIANTS = [
    CONFIG,
    replace(CONFIG, layers=1, heads=1),
    replace(CONFIG, modality_attention="mean"),
    replace(CONFIG, modality_attention="concatenation"),
    replace(CONFIG, sequence_attention=False),
    replace(CONFIG, sequence_attention=False, modality_attention="concatenation"),
    replace(CONFIG, modalities="image"),
    replace(CONFIG, modalities="text"),
]
TEXTS = ["a bed", "a pool with a view of the sea", "", "x"]
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Towers]:
    folder = tmp_path_factory.mktemp("towers")
    return {kind: make_towers(folder, kind) for kind in ("vit", "siglip")}


def make_model(towers: Towers, config: CmaClipConfig = CONFIG) -> CmaClip:
    torch.manual_seed(3)
    model = CmaClip(copy.deepcopy(towers.model), TAXONOMY, config).eval()
    with torch.no_grad():  # no norm at 1, no keyless vector at 0: each number must tell
        for _, parameter in model.new_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def make_inputs(towers: Towers) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.randn(4, 3, 32, 32), towers.tokenizer(TEXTS)


def reads_words(config: CmaClipConfig, has_text: bool) -> bool:
    return config.modalities == "text" or (has_text and config.modalities == "both")


def assert_same(ours: CmaOutput, other: CmaOutput, rows: slice | list[int] = slice(None)) -> None:
    for one, expected in zip(ours.logits, other.logits, strict=True):
        torch.testing.assert_close(one, expected[rows], **CLOSE)
    torch.testing.assert_close(ours.weights, other.weights[rows], **CLOSE)


@pytest.mark.parametrize("config", VARIANTS)
@torch.no_grad()
def test_it_equals_a_slow_reimplementation(
    towers: dict[str, Towers], config: CmaClipConfig
) -> None:
    model, (pixels, tokens) = make_model(towers["vit"], config), make_inputs(towers["vit"])
    has_text = torch.tensor([True, True, True, False])
    has_image = torch.tensor([True, config.modalities == "image", True, True])
    output = model(pixels, tokens, has_image=has_image, has_text=has_text)
    image, text = encode_image_tokens(model.clip, pixels), encode_text_tokens(model.clip, tokens)
    for row in range(4):
        words = [text.pooled[row], *text.tokens[row][text.is_token[row]]]
        patches = [image.pooled[row], *image.patches[row]]
        logits, weights = predict_slowly(
            model.state_dict(),
            words if reads_words(config, bool(has_text[row])) else None,
            patches if has_image[row] and config.modalities != "text" else None,
            layers=config.layers if config.sequence_attention else 0,
            heads=config.heads,
            tasks=2,
            attention=config.modality_attention,
        )
        for task in range(2):
            torch.testing.assert_close(output.logits[task][row], logits[task], **CLOSE)
            expected = torch.tensor(weights[task])
            torch.testing.assert_close(output.weights[row, task], expected, **CLOSE)


@pytest.mark.parametrize(
    ("kind", "config"), [*(("vit", config) for config in VARIANTS), ("siglip", CONFIG)]
)
@torch.no_grad()
def test_a_batch_of_one_equals_a_batch_of_many_and_padding_changes_nothing(
    towers: dict[str, Towers], kind: str, config: CmaClipConfig
) -> None:
    model, (pixels, tokens) = make_model(towers[kind], config), make_inputs(towers[kind])
    many = model(pixels, tokens)
    assert_same(model(pixels, model.trim_padding(tokens)), many)
    for row in range(4):
        alone = model.trim_padding(tokens[row : row + 1])
        assert_same(model(pixels[row : row + 1], alone), many, [row])


@pytest.mark.parametrize("config", VARIANTS[:-2])
@pytest.mark.parametrize("kind", ["vit", "siglip"])
@torch.no_grad()
def test_a_missing_modality_is_the_other_one_alone(
    towers: dict[str, Towers], kind: str, config: CmaClipConfig
) -> None:
    model, (pixels, tokens) = make_model(towers[kind], config), make_inputs(towers[kind])
    has_text = torch.tensor([False, True, True, False])
    has_image = torch.tensor([True, False, True, True])
    mixed = model(pixels, tokens, has_image=has_image, has_text=has_text)
    images, texts = model(pixels, None), model(None, tokens)
    without_text, without_image = [0, 3], [1]
    for task in range(2):
        torch.testing.assert_close(
            mixed.logits[task][without_text], images.logits[task][without_text], **CLOSE
        )
        torch.testing.assert_close(
            mixed.logits[task][without_image], texts.logits[task][without_image], **CLOSE
        )
    # exactly, not about
    assert (mixed.weights[without_text] == torch.tensor([0.0, 1.0])).all()
    assert (mixed.weights[without_image] == torch.tensor([1.0, 0.0])).all()
    assert ((mixed.weights[2] > 0) & (mixed.weights[2] < 1)).all()
    assert (mixed.image_embeddings[1] == 0).all()
    other_pixels = pixels.clone()
    other_pixels[1] = 7.0
    other = model(other_pixels, tokens, has_image=has_image, has_text=has_text)
    assert all(torch.equal(a, b) for a, b in zip(other.logits, mixed.logits, strict=True))


@torch.no_grad()
def test_the_embedding_is_the_image_towers_own_whatever_is_read(towers: dict[str, Towers]) -> None:
    pixels, tokens = make_inputs(towers["vit"])
    for modalities in ("both", "image", "text"):
        model = make_model(towers["vit"], replace(CONFIG, modalities=modalities))
        found = model(pixels, tokens).image_embeddings
        expected = torch.nn.functional.normalize(model.clip.encode_image(pixels), dim=-1)
        torch.testing.assert_close(found, expected)
        assert found.dtype == torch.float32


@torch.no_grad()
def test_a_model_of_one_modality_does_not_see_the_other(towers: dict[str, Towers]) -> None:
    pixels, tokens = make_inputs(towers["vit"])
    image = make_model(towers["vit"], replace(CONFIG, modalities="image"))
    assert_same(image(pixels, tokens), image(pixels, tokens.flip(0)))
    text = make_model(towers["vit"], replace(CONFIG, modalities="text"))
    assert_same(text(pixels, tokens), text(pixels.flip(0), tokens))
    with pytest.raises(ValueError, match="not given"):
        image(None, tokens)


@torch.no_grad()
def test_scores_are_a_softmax_or_a_sigmoid_as_the_tasks_kind_is(towers: dict[str, Towers]) -> None:
    model, (pixels, tokens) = make_model(towers["vit"]), make_inputs(towers["vit"])
    output = model(pixels, tokens)
    scores = model.probabilities(output)
    assert [one.shape[1] for one in output.logits] == [3, 2]
    torch.testing.assert_close(scores[:, :3], 1 / (1 + torch.exp(-output.logits[0])))
    torch.testing.assert_close(scores[:, 3:].sum(dim=1), torch.ones(4))


def test_before_training_no_modality_is_trusted_more(towers: dict[str, Towers]) -> None:
    model = CmaClip(copy.deepcopy(towers["vit"].model), TAXONOMY, CONFIG)
    assert (model(*make_inputs(towers["vit"])).weights == 0.5).all()


def test_every_part_that_is_there_is_trained(towers: dict[str, Towers]) -> None:
    pixels, tokens = make_inputs(towers["vit"])
    for config in VARIANTS:
        model = make_model(towers["vit"], config).train()
        torch.cat(model(pixels, tokens).logits, dim=1).square().sum().backward()
        idle = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
        if config.modalities == "both":
            assert not idle
        parts = {
            n for group in ("image", "text") for n, _ in getattr(model, f"{group}_parameters")()
        }
        new = {n for n, _ in model.new_parameters()}
        unused = {"clip.logit_scale"}
        assert {f"clip.{n}" for n in parts} | new | unused == dict(model.named_parameters()).keys()


def test_heads_that_do_not_divide_the_width_are_refused(towers: dict[str, Towers]) -> None:
    with pytest.raises(ConfigurationError, match="divisor of 32"):
        CmaClip(copy.deepcopy(towers["vit"].model), TAXONOMY, replace(CONFIG, heads=5))
