"""Steps in parts, rates per part, averages, patience, and which weights are kept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trainings import RECIPE, changed, make_images, make_trainer, run, weights

from pipeline.config import LossConfig, LossKind, OptimizerConfig
from pipeline.evaluation.metrics import RankingMetrics
from pipeline.training.averaging import interpolate_weights
from pipeline.training.history import Epoch, History
from pipeline.training.pixels import draw_cuts
from pipeline.training.trainer import Trainer


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    named = trainer.network.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def half_known(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch whose first images are nearly unknown: the parts of it know unequal numbers."""
    images = make_images(count, side=36)
    pixels, targets, _ = images.batch(np.arange(count))
    known = torch.rand(targets.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    known[: count // 2, 1:] = False
    return pixels, targets.masked_fill(~known, torch.nan), known


@pytest.mark.parametrize("kind", ["tempered_sigmoid", "asymmetric", "softmax"])
def test_micro_batches_give_the_gradients_of_the_whole_batch(
    tmp_path: Path, kind: LossKind
) -> None:
    batch, cuts = half_known(10), draw_cuts(10, torch.Generator().manual_seed(2))
    loss = LossConfig(kind=kind)
    whole = make_trainer(tmp_path, loss=loss, augmented=True)
    parts = make_trainer(tmp_path, replace(RECIPE, micro_batch_size=3), loss=loss, augmented=True)
    expected = whole.compute_gradients(*batch, cuts)
    assert float(parts.compute_gradients(*batch, cuts)) == pytest.approx(float(expected), rel=1e-6)
    found = gradients(parts)
    assert found.keys() == gradients(whole).keys()
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_mean_of_micro_batches_means_would_be_another_loss(tmp_path: Path) -> None:
    pixels, targets, known = half_known(10)
    trainer = make_trainer(tmp_path)
    halves = [
        float(trainer.compute_gradients(pixels[part], targets[part], known[part]))
        for part in (slice(0, 5), slice(5, 10))
    ]
    whole = float(trainer.compute_gradients(pixels, targets, known))
    assert abs(sum(halves) / 2 - whole) > 1e-3


def test_each_part_has_a_rate_of_its_own(tmp_path: Path) -> None:
    config = replace(
        RECIPE, image_learning_rate=1e-4, text_learning_rate=2e-4, head_learning_rate=5e-2
    )
    trainer = make_trainer(tmp_path, config)
    rates = {
        id(parameter): group["peak"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in trainer.network.named_parameters():
        if parameter.requires_grad:
            expected = 1e-4 if ".visual." in name else 2e-4 if ".clip." in name else 5e-2
            assert rates[id(parameter)] == expected, name
    before = float(trainer.network.mumic.logit_scale.detach())
    trainer.step(*half_known(8))
    moved = abs(float(trainer.network.mumic.logit_scale.detach()) - before)
    assert moved == pytest.approx(5e-2, rel=0.01)  # AdamW's first step is as long as the rate
    assert make_trainer(tmp_path).optimizer.param_groups[0]["peak"] == RECIPE.learning_rate


def test_gradients_are_clipped_to_their_norm(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, replace(RECIPE, clip_norm=1e-3))
    trainer.step(*half_known(8))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients(trainer).values()))
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_averaged_weights_follow_the_trained_ones(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, replace(RECIPE, ema_decay=0.75), kind="resnet")
    images = make_images(8, side=64)
    expected: dict[str, torch.Tensor] = {}
    for step in range(3):
        trainer.network.train_trained()
        trainer.step(*images.batch(np.arange(8)))
        now = {n: t.clone() for n, t in trainer.network.state_dict().items()}
        expected = now if not step else {n: 0.75 * expected[n] + 0.25 * now[n] for n in now}
    kept = trainer.kept.state_dict()
    assert changed(dict(kept), dict(trainer.network.state_dict()))
    assert {"mumic.clip.visual.bn1.running_mean", "mumic.logit_scale"} <= expected.keys()
    for name, value in expected.items():
        if kept[name].is_floating_point():
            torch.testing.assert_close(kept[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_average_is_what_a_training_keeps(tmp_path: Path) -> None:
    images = make_images(16)
    plain = run(tmp_path, images)
    # An average that forgets the past at once is the trained model itself.
    quick = run(tmp_path, images, optimizer=replace(RECIPE, ema_decay=1e-12))
    slow = run(tmp_path, images, optimizer=replace(RECIPE, ema_decay=0.9))
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(quick)[name], value, msg=name)
    assert changed(weights(plain), weights(slow))


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_kept_weights_lie_between_start_and_end(tmp_path: Path, alpha: float) -> None:
    images, validation = make_images(16), make_images(8, seed=1)
    loss = LossConfig(bias="learnt")
    start = weights_before(tmp_path, loss)
    end = weights(run(tmp_path, images, loss=loss))
    recipe = replace(RECIPE, interpolation=alpha)
    mixed = run(tmp_path, images, validation, optimizer=recipe, loss=loss)
    for name, value in weights(mixed).items():
        expected = (1 - alpha) * start[name] + alpha * end[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=name)
    best = mixed.epochs[mixed.best].validation
    assert mixed.validation is not None
    assert (mixed.validation == best) == (alpha == 1.0)


def weights_before(folder: Path, loss: LossConfig) -> dict[str, torch.Tensor]:
    network = make_trainer(folder, loss=loss).network
    return {name: value.clone() for name, value in network.mumic.state_dict().items()}


def test_interpolation_leaves_counters_alone() -> None:
    start = {"weight": torch.zeros(2), "count": torch.tensor(0)}
    end = {"weight": torch.ones(2), "count": torch.tensor(7)}
    mixed = interpolate_weights(start, end, 0.5)
    assert mixed["weight"].tolist() == [0.5, 0.5]
    assert mixed["count"] == 7


def history_of(gaps: list[float]) -> History:
    epochs = [Epoch(1.0, RankingMetrics(5, gap, gap, gap, 0)) for gap in gaps]
    return History({}, epochs)


@pytest.mark.parametrize(
    ("gaps", "over"),
    [
        ([0.5], False),
        ([0.5, 0.4], False),
        ([0.5, 0.4, 0.4], True),
        ([0.5, 0.5, 0.5], True),
        ([0.5, 0.4, 0.6], False),
        ([0.5, 0.6, 0.4, 0.5], True),
        ([math.nan, math.nan, math.nan], False),
    ],
)
def test_patience_ends_with_epochs_that_are_no_better(gaps: list[float], over: bool) -> None:
    config = OptimizerConfig(epochs=10, patience=2)
    assert history_of(gaps).is_over(config) == over
    assert not history_of(gaps).is_over(replace(config, patience=None))
    assert history_of(gaps).is_over(replace(config, epochs=len(gaps), patience=None))


def test_a_training_that_gets_no_better_stops_and_keeps_its_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps = iter([0.2, 0.9, 0.5, 0.6])

    def judge(*_: object, **__: object) -> RankingMetrics:
        return RankingMetrics(8, next(gaps), 0.0, 0.0, 0)

    monkeypatch.setattr("pipeline.training.loop.validate_network", judge)
    recipe = replace(RECIPE, epochs=9, patience=2)
    trained = run(tmp_path, make_images(8), make_images(8), optimizer=recipe)
    assert len(trained.epochs) == 4
    assert trained.best == 1


@pytest.mark.parametrize("kind", ["plain_bce", "linear_head", "asymmetric", "softmax"])
def test_each_kind_of_loss_trains(tmp_path: Path, kind: LossKind) -> None:
    recipe = replace(RECIPE, epochs=3)
    trained = run(
        tmp_path,
        make_images(32),
        make_images(16, seed=1),
        optimizer=recipe,
        loss=LossConfig(kind=kind),
    )
    losses = [epoch.loss for epoch in trained.epochs]
    assert losses[-1] < losses[0]
    assert trained.validation is not None
    has_tau = kind in ("asymmetric", "softmax")
    assert (
        abs(float(trained.network.mumic.tau.detach()) - (0.07 if has_tau else 1.0)) > 1e-6
    ) == has_tau
    assert (float(trained.network.mumic.bias.detach()) != 0) == (kind == "asymmetric")


def test_a_linear_head_learns_on_frozen_towers_and_leaves_them_alone(tmp_path: Path) -> None:
    recipe = replace(RECIPE, image_tower=False, head_learning_rate=0.1, epochs=4)
    loss = LossConfig(kind="linear_head")
    start = weights_before(tmp_path, loss)
    images = make_images(48)
    trained = run(tmp_path, images, images, optimizer=recipe, loss=loss, augmented=False)
    assert changed(start, weights(trained)) == set()
    head = trained.network.head
    assert head is not None
    assert float(head.linear.weight.detach().abs().max()) > 0.01
    gaps = [epoch.gap for epoch in trained.epochs]
    assert gaps[-1] > gaps[0]


def test_bf16_trains_close_to_fp32_with_weights_in_fp32(tmp_path: Path) -> None:
    batch = half_known(8)
    full, half = make_trainer(tmp_path), make_trainer(tmp_path, replace(RECIPE, precision="bf16"))
    expected, found = full.compute_gradients(*batch), half.compute_gradients(*batch)
    assert float(found) != float(expected)
    assert float(found) == pytest.approx(float(expected), rel=0.02)
    assert all(p.dtype == torch.float32 for p in half.network.parameters())
    cosine = torch.nn.functional.cosine_similarity
    for name, gradient in gradients(full).items():
        if gradient.numel() > 1000:
            of_half = gradients(half)[name]
            assert float(cosine(gradient.flatten(), of_half.flatten(), dim=0)) > 0.95, name


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_on_a_gpu_learns_in_every_precision(tmp_path: Path, precision: str) -> None:
    recipe = replace(RECIPE, epochs=4, precision=precision, ema_decay=0.5)
    options = {"device": torch.device("cuda", 0)}
    trained = run(tmp_path, make_images(96), make_images(32, seed=1), optimizer=recipe, **options)
    losses = [epoch.loss for epoch in trained.epochs]
    assert losses[-1] < losses[0]
    assert all(value.device.type == "cpu" for value in weights(trained).values())
