"""Explanations: attention followed through the layers, against loops; words; heat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import TAXONOMY, make_towers

from pipeline.config import CmaClipConfig
from pipeline.evaluation.modality_study import explain_images
from pipeline.models.cma_clip import CmaClip
from pipeline.models.explanations import explain
from pipeline.models.texts import tokenize_texts
from pipeline.models.towers import Towers

TITLES = ["a Deluxe room", None, "pool", " "]


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return make_towers(tmp_path_factory.mktemp("towers"))


def make_model(towers: Towers, **config: object) -> CmaClip:
    torch.manual_seed(1)
    parts = CmaClipConfig(**{"layers": 3, "heads": 2, **config})  # type: ignore[arg-type]
    model = CmaClip(towers.model, TAXONOMY, parts).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def follow_by_loops(layers: list[np.ndarray]) -> np.ndarray:
    """Rollout of one image, [S, S], from each layer's mean attention."""
    size = len(layers[0])
    followed = np.eye(size)
    for layer in layers:
        mixed = np.zeros((size, size))
        for place in range(size):
            for other in range(size):
                share = 0.5 * layer[place, other] + (0.5 if place == other else 0.0)
                mixed[place] += share * followed[other]
        followed = mixed
    return followed


def test_word_and_heat_equal_plain_loops(towers: Towers) -> None:
    model = make_model(towers)
    planes = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    given = tokenize_texts(towers.tokenizer, TITLES)
    tokens = model.trim_padding(given.tokens)
    found = explain(model, towers.tokenizer, planes, tokens, given.has_text)
    assert [one.word is None for one in found] == [False, True, False, True]
    assert found[2].word == "pool"
    assert found[0].word in {"a", "deluxe", "room"}
    for one, has_text in zip(found, given.has_text, strict=True):
        np.testing.assert_allclose(one.weights.sum(axis=1), 1, atol=1e-6)
        assert (one.weights[:, 0] == 0).all() == (not has_text)
    with torch.no_grad():
        sequence, _ = model.read(planes, tokens, has_text=given.has_text)
        raw = model.sequence.weigh(sequence.x, sequence.hidden)[:, 0].mean(dim=1).double().numpy()
    whole, before = follow_by_loops(list(raw)), follow_by_loops(list(raw[:-1]))
    text, image = sequence.class_places["text"], sequence.class_places["image"]
    share = found[0].weights.mean(axis=0)
    drawn = share[0] * whole[text] + share[1] * whole[image]
    words = [1 + place for place in (1, 2, 3)]  # after T_CLS and the start token
    best = max(words, key=lambda place: drawn[place])
    assert towers.tokenizer.decode([int(tokens[0, best - 1])]).strip() == found[0].word  # type: ignore[attr-defined]
    heat = before[best, image + 1 :].reshape(2, 2)
    expected = (heat - heat.min()) / (heat.max() - heat.min())
    assert found[0].heat is not None
    np.testing.assert_allclose(found[0].heat, expected, atol=1e-4)


def test_without_sequence_wise_attention_there_are_weights_alone(towers: Towers) -> None:
    model = make_model(towers, sequence_attention=False)
    given = tokenize_texts(towers.tokenizer, TITLES)
    found = explain(
        model, towers.tokenizer, torch.zeros(4, 3, 32, 32), given.tokens, given.has_text
    )
    assert all(one.word is None and one.heat is None for one in found)
    assert found[1].weights.tolist() == [[0, 1], [0, 1]]


def test_a_page_gets_a_picture_of_each_image(towers: Towers) -> None:
    explained = explain_images(
        make_model(towers),
        towers.tokenizer,
        np.full((4, 32, 32, 3), 90, np.uint8),
        TITLES,
        ids=["a", "b", "c", "d"],
        preprocessing=towers.preprocessing,
        taxonomy=TAXONOMY,
    )
    assert [one.image_id for one in explained] == ["a", "b", "c", "d"]
    assert all(one.picture.startswith("data:image/jpeg;base64,") for one in explained)
    assert explained[0].picture != explained[1].picture  # heat, and none
    assert explained[1].weights == {
        "scene": {"text": 0.0, "image": 1.0},
        "room": {"text": 0.0, "image": 1.0},
    }
