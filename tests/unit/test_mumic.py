"""Towers, MuMIC and label embeddings against open_clip's own functions."""

from __future__ import annotations

import math
from pathlib import Path

import open_clip
import pytest
import torch
from tiny_models import ARCHITECTURES, TAXONOMY, make_towers
from torch.nn import functional

from pipeline.models.labels import embed_labels, embed_texts, pool_texts, tokenize_labels
from pipeline.models.mumic import MuMIC
from pipeline.models.towers import Towers

KINDS = sorted(ARCHITECTURES)


@pytest.fixture(scope="module", params=KINDS)
def towers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return make_towers(tmp_path_factory.mktemp(request.param), request.param)


def make_pixels(towers: Towers, n: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (towers.preprocessing.height, towers.preprocessing.width)
    return torch.randn(n, 3, *size, generator=generator)


@torch.no_grad()
def test_images_are_embedded_as_open_clip_does(towers: Towers) -> None:
    pixels = make_pixels(towers)
    ours = MuMIC(towers.model, tau=0.07).encode_images(pixels)
    theirs = towers.model.encode_image(pixels, normalize=True)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(3))


@torch.no_grad()
def test_texts_are_embedded_as_open_clip_does(towers: Towers) -> None:
    texts = ["a pool", "the sea seen from a balcony, " * 20, ""]
    tokens = towers.tokenizer(texts)
    assert tokens.shape == (3, 16)
    mumic = MuMIC(towers.model, tau=0.07)
    theirs = towers.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(mumic.encode_texts(tokens), theirs)
    torch.testing.assert_close(embed_texts(mumic, towers.tokenizer, texts), theirs)


def test_label_embeddings_equal_open_clips_zero_shot_classifier(towers: Towers) -> None:
    templates = ["a photo of a {}.", "a hotel with a {}"]
    labels = [label for task, label in TAXONOMY.labels[:2]]
    theirs = open_clip.build_zero_shot_classifier(
        towers.model, towers.tokenizer, [label.name for label in labels], templates
    )
    ours = embed_labels(MuMIC(towers.model, tau=0.07), towers.tokenizer, TAXONOMY)
    assert ours.shape == (5, theirs.shape[0])
    torch.testing.assert_close(ours[:2], theirs.T)


def test_labels_may_have_any_number_of_texts(towers: Towers) -> None:
    mumic = MuMIC(towers.model, tau=0.07)
    ours = embed_labels(mumic, towers.tokenizer, TAXONOMY)
    for row, (_, label) in zip(ours, TAXONOMY.labels, strict=True):
        mean = embed_texts(mumic, towers.tokenizer, label.texts).mean(dim=0)
        torch.testing.assert_close(row, functional.normalize(mean, dim=0))


@torch.no_grad()
def test_scores_equal_open_clips_zero_shot_logits_under_the_sigmoid(towers: Towers) -> None:
    pixels = make_pixels(towers)
    names = ["bed", "pool"]
    theirs = open_clip.build_zero_shot_classifier(
        towers.model, towers.tokenizer, names, ["a photo of a {}."]
    )
    mumic = MuMIC(towers.model, tau=0.05, bias=-2.0)
    texts = [f"a photo of a {name}." for name in names]
    ours = mumic.logits(
        mumic.encode_images(pixels), embed_texts(mumic, towers.tokenizer, texts)
    ).sigmoid()
    expected = (towers.model.encode_image(pixels, normalize=True) @ theirs / 0.05 - 2.0).sigmoid()
    torch.testing.assert_close(ours, expected)


def test_towers_are_divided_into_image_and_text_without_rest(towers: Towers) -> None:
    mumic = MuMIC(towers.model, tau=0.07, learn_tau=True, learn_bias=True)
    image, text = dict(mumic.image_parameters()), dict(mumic.text_parameters())
    assert image
    assert text
    assert not image.keys() & text.keys()
    learnt = {n for n, p in mumic.named_parameters() if p.requires_grad}
    assert learnt == {f"clip.{n}" for n in [*image, *text]} | {"logit_scale", "logit_bias"}


@torch.no_grad()
def test_zero_shot_takes_the_temperature_and_bias_of_pretraining(tmp_path: Path) -> None:
    towers = make_towers(tmp_path, "siglip")
    mumic = MuMIC.zero_shot(towers.model)
    pixels, tokens = make_pixels(towers), towers.tokenizer(["a pool", "a bed"])
    ours = mumic.logits(mumic.encode_images(pixels), mumic.encode_texts(tokens))
    theirs, _ = towers.model.get_logits(pixels, tokens)
    torch.testing.assert_close(ours, theirs)
    assert float(mumic.bias) == -10


def test_gradients_reach_both_towers_the_temperature_and_the_bias(tmp_path: Path) -> None:
    towers = make_towers(tmp_path, "vit")
    mumic = MuMIC(towers.model, tau=0.07, learn_tau=True, learn_bias=True)
    tokens, owners = tokenize_labels(towers.tokenizer, TAXONOMY)
    labels = pool_texts(mumic.encode_texts(tokens), owners)
    mumic.logits(mumic.encode_images(make_pixels(towers)), labels).square().sum().backward()
    without = [n for n, p in mumic.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_temperature_and_bias_are_fixed_unless_they_are_learnt(tmp_path: Path) -> None:
    model = make_towers(tmp_path, "vit").model
    fixed = MuMIC(model, tau=0.07, bias=0.5)
    assert float(fixed.tau) == pytest.approx(0.07)
    assert {"logit_scale", "logit_bias"}.isdisjoint(dict(fixed.named_parameters()))
    learnt = MuMIC(model, tau=0.07, bias=0.5, learn_tau=True)
    assert "logit_scale" in dict(learnt.named_parameters())
    assert "logit_bias" not in dict(learnt.named_parameters())


@pytest.mark.parametrize(("tau", "clamped"), [(0.001, 0.01), (5.0, 1.0), (0.07, 0.07)])
def test_a_learnt_temperature_can_be_kept_within_clips_range(
    tmp_path: Path, tau: float, clamped: float
) -> None:
    mumic = MuMIC(make_towers(tmp_path, "vit").model, tau=tau, learn_tau=True)
    mumic.clamp_tau()
    assert float(mumic.tau.detach()) == pytest.approx(clamped)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match="tau"):
        MuMIC(torch.nn.Module(), tau=tau)
