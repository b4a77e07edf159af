"""Training CMA-CLIP: tasks with their losses, what is not known, spoilt modalities, going on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import TAXONOMY, make_towers
from tiny_trainings import CMA, RECIPE, make_cma_trainer, make_titled_images, run_cma
from torch import Tensor
from torch.nn import functional

from pipeline.config import (
    CheckpointConfig,
    CmaTrainingConfig,
    DisturbanceConfig,
    OptimizerConfig,
)
from pipeline.errors import CheckpointError
from pipeline.models.labels import Tokenizer
from pipeline.training.disturbance import disturb, draw_disturbance
from pipeline.training.objective import make_task_objective
from pipeline.training.pixels import PixelSet
from pipeline.training.texts import make_text_set
from pipeline.training.trainer import Trainer

SCENE, ROOM = (columns for _, columns in TAXONOMY.columns)
NEVER = DisturbanceConfig(text_dropout=0, text_swap=0, image_dropout=0, image_swap=0, image_noise=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_towers(tmp_path_factory.mktemp("towers")).tokenizer


def batch_of(images: PixelSet) -> tuple[Any, ...]:
    every = np.arange(len(images))
    assert images.texts is not None
    return (*images.batch(every), None, images.texts.batch(every))


def gradients_of(trainer: Trainer) -> dict[str, Tensor]:
    named = trainer.network.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def test_the_loss_is_the_weighted_sum_of_the_tasks_means() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator)
    targets, known = torch.zeros(6, 5), torch.ones(6, 5, dtype=torch.bool)
    targets[:, 0] = 1
    targets[torch.arange(6), torch.tensor([3, 4, 4, 3, 3, 4])] = 1
    known[0, 1], known[2, ROOM] = False, False
    objective = make_task_objective(TAXONOMY.columns, {"room": 0.25})
    found = objective.weigh(
        objective.total(logits, targets, known) / objective.count(targets, known)
    )
    scene = [
        functional.binary_cross_entropy_with_logits(logits[i, c], targets[i, c])
        for i in range(6)
        for c in range(3)
        if known[i, c]
    ]
    room = [
        functional.cross_entropy(logits[i, ROOM], targets[i, ROOM].argmax())
        for i in range(6)
        if i != 2
    ]
    expected = sum(scene) / len(scene) + 0.25 * sum(room) / len(room)
    torch.testing.assert_close(found, torch.as_tensor(expected))


def test_it_learns_from_the_picture_and_from_the_title(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    recipe = replace(RECIPE, epochs=6, head_learning_rate=3e-3)
    trained = run_cma(
        tmp_path,
        make_titled_images(96, tokenizer, side=36),
        make_titled_images(60, tokenizer, seed=1),
        optimizer=recipe,
    )
    figures = trained.validation
    assert figures is not None
    # the best of six epochs: a title tells the room, where there is one
    assert figures.accuracy["room"] > 0.8
    assert figures.macro_map > 0.6
    assert not trained.network.training


def test_what_is_not_known_changes_no_gradient(tmp_path: Path, tokenizer: Tokenizer) -> None:
    images = make_titled_images(8, tokenizer)
    trainer = make_cma_trainer(tmp_path)
    trainer.compute_gradients(*batch_of(images))
    before = gradients_of(trainer)
    other = images.targets.copy()
    other[~images.known] = True
    trainer.compute_gradients(*batch_of(replace(images, targets=other)))
    for name, value in gradients_of(trainer).items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_micro_batches_with_unequal_knowledge_step_as_one(
    tmp_path: Path, tokenizer: Tokenizer, micro_batch_size: int
) -> None:
    images = make_titled_images(8, tokenizer)
    images.known[:4, 1:] = False
    whole = make_cma_trainer(tmp_path)
    parts = make_cma_trainer(tmp_path, replace(RECIPE, micro_batch_size=micro_batch_size))
    parts.network.load_state_dict(whole.network.state_dict())
    expected = whole.compute_gradients(*batch_of(images))
    found = parts.compute_gradients(*batch_of(images))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    by_parts = gradients_of(parts)
    for name, value in gradients_of(whole).items():
        torch.testing.assert_close(by_parts[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_task_without_weight_is_not_trained(tmp_path: Path, tokenizer: Tokenizer) -> None:
    trainer = make_cma_trainer(tmp_path, training=CmaTrainingConfig(task_weights={"room": 0.0}))
    trainer.compute_gradients(*batch_of(make_titled_images(8, tokenizer)))
    found = gradients_of(trainer)
    assert all(not found[name].any() for name in found if name.startswith("model.heads.1."))
    assert any(found[name].any() for name in found if name.startswith("model.heads.0."))


def test_new_parts_learn_at_a_rate_of_their_own_and_frozen_towers_not_at_all(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    recipe = OptimizerConfig(batch_size=8, learning_rate=1e-6, head_learning_rate=5e-4)
    trainer = make_cma_trainer(tmp_path, replace(recipe, text_tower=False))
    network = trainer.network
    rates = {
        id(p): group["peak"] for group in trainer.optimizer.param_groups for p in group["params"]
    }
    for name, parameter in network.named_parameters():
        frozen = name.startswith("model.clip.") and ".visual." not in name
        expected = 1e-6 if ".visual." in name else 5e-4
        assert rates.get(id(parameter)) == (None if frozen else expected), name
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    network.train_trained()
    trainer.step(*batch_of(make_titled_images(8, tokenizer)))
    for name, parameter in network.named_parameters():
        if name.startswith("model.clip.") and ".visual." not in name:
            assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("modalities", ["image", "text"])
def test_a_model_of_one_modality_trains_on_every_row(
    tmp_path: Path, tokenizer: Tokenizer, modalities: Any
) -> None:
    trainer = make_cma_trainer(tmp_path, config=replace(CMA, modalities=modalities))
    loss = trainer.step(*batch_of(make_titled_images(8, tokenizer)))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in trainer.network.parameters())


def test_a_training_that_was_cut_off_ends_as_an_undisturbed_one(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_titled_images(24, tokenizer, side=36)
    validation = make_titled_images(16, tokenizer, seed=1)
    whole = run_cma(tmp_path, training, validation)
    step, left = Trainer.step, iter(range(4))

    def mortal(self: Trainer, *args: Any, **options: Any) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    checkpoint = CheckpointConfig(folder=str(tmp_path / "checkpoint"), every_s=0.0)
    monkeypatch.setattr(Trainer, "step", mortal)
    with pytest.raises(KeyboardInterrupt):
        run_cma(tmp_path, training, validation, checkpoint=checkpoint)
    monkeypatch.setattr(Trainer, "step", step)
    other = CmaTrainingConfig(task_weights={"room": 2.0})
    with pytest.raises(CheckpointError, match="the same cma_training"):
        run_cma(tmp_path, training, validation, checkpoint=checkpoint, told=other)
    titles = make_text_set(["another title"] * 24, tokenizer)
    other_set = replace(training, texts=titles)
    with pytest.raises(CheckpointError, match="the same training images"):
        run_cma(tmp_path, other_set, validation, checkpoint=checkpoint)
    again = run_cma(tmp_path, training, validation, checkpoint=checkpoint)
    assert again.epochs == whole.epochs
    expected = whole.network.state_dict()
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_at_most_one_modality_of_an_image_is_spoilt_at_about_its_rate(tokenizer: Tokenizer) -> None:
    count = 4000
    rates = replace(NEVER, text_dropout=0.2, text_swap=0.2, image_dropout=0.1, image_noise=0.3)
    drawn = draw_disturbance(count, rates, torch.Generator().manual_seed(1))
    own = torch.arange(count)
    text = drawn.without_text | (drawn.text_of != own)
    image = drawn.without_image | drawn.noisy | (drawn.image_of != own)
    assert not (text & image).any()
    assert (drawn.image_of == own).all()
    # 0.2 less half of what meets the picture's share of 1 - 0.9 * 0.7
    assert float(drawn.without_text.float().mean()) == pytest.approx(0.2 * (1 - 0.37 / 2), abs=0.03)
    again = draw_disturbance(count, rates, torch.Generator().manual_seed(1))
    assert torch.equal(again.text_of, drawn.text_of)
    never = draw_disturbance(count, NEVER, torch.Generator().manual_seed(1))
    assert torch.equal(never.text_of, own)
    assert not (never.without_text | never.without_image | never.noisy).any()


def test_a_swapped_text_is_another_images_and_no_image_loses_both(tokenizer: Tokenizer) -> None:
    titles = ["one", None, "three", " ", "five", "six"]
    texts = make_text_set(titles, tokenizer)
    assert texts.present.tolist() == [True, False, True, False, True, True]
    pixels = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 4, 4, 3)
    companions = texts.batch(np.arange(6))
    swap = draw_disturbance(6, replace(NEVER, text_swap=1.0), torch.Generator().manual_seed(0))
    shown, beside = disturb(pixels, companions, swap)
    assert torch.equal(shown, pixels)
    assert (swap.text_of != torch.arange(6)).all()
    assert torch.equal(beside.tokens, companions.tokens[swap.text_of])
    assert torch.equal(beside.has_text, companions.has_text[swap.text_of])
    gone = draw_disturbance(6, replace(NEVER, image_dropout=1.0), torch.Generator().manual_seed(0))
    _, beside = disturb(pixels, companions, gone)
    assert torch.equal(beside.has_image, ~companions.has_text)
    noise = draw_disturbance(6, replace(NEVER, image_noise=1.0), torch.Generator().manual_seed(0))
    shown, beside = disturb(pixels, companions, noise)
    assert beside.has_image.all()
    for index in range(6):
        assert torch.equal(shown[index], pixels[index]) != bool(companions.has_text[index])
