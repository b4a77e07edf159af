"""The training loop on a handful of tiny pictures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny_models import TAXONOMY, make_towers
from tiny_trainings import CPU, NONE, RECIPE, SIDE, changed, make_images, run, weights

from pipeline.config import LossConfig
from pipeline.errors import ConfigurationError, ManifestError, ModelError
from pipeline.evaluation.metrics import RankingMetrics, gap, label_frequencies
from pipeline.models.bundle import read_bundle, write_bundle
from pipeline.models.labels import embed_labels, tokenize_labels
from pipeline.models.mumic import MuMIC
from pipeline.training.loop import TrainedModel
from pipeline.training.mumic_network import MumicNetwork
from pipeline.training.optimizer import learning_rate_factor, make_optimizer
from pipeline.training.pixels import PixelSet, augment, cut_centre, draw_cuts
from pipeline.training.validation import make_normaliser, score_with_network


def test_training_learns_what_pictures_show(tmp_path: Path) -> None:
    training, validation = make_images(96), make_images(40, seed=1)
    recipe = replace(RECIPE, epochs=7, learning_rate=3e-3)
    trained = run(tmp_path, training, validation, optimizer=recipe, augmented=False)
    losses = [epoch.loss for epoch in trained.epochs]
    assert losses[-1] < 0.6 * losses[0]
    figures = trained.epochs[trained.best].validation
    assert figures is not None
    guess = np.tile(label_frequencies(training.targets), (len(validation), 1))
    assert figures.gap > 0.5 + 0.5 * gap(guess, validation.targets)
    assert trained.images_per_s > 0


def test_the_same_seed_gives_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    images = make_images(16, side=72)
    first = weights(run(tmp_path, images, kind="resnet"))
    assert changed(first, weights(run(tmp_path, images, kind="resnet"))) == set()
    other = replace(RECIPE, seed=4)
    assert changed(first, weights(run(tmp_path, images, kind="resnet", optimizer=other)))


def test_labels_nobody_checked_do_not_move_a_weight(tmp_path: Path) -> None:
    images = make_images(24)
    known = np.random.default_rng(7).random(images.targets.shape) < 0.6
    masked = replace(images, known=known)
    flipped_unknown = replace(masked, targets=np.where(known, images.targets, ~images.targets))
    flipped_known = replace(masked, targets=np.where(known, ~images.targets, images.targets))
    before = weights(run(tmp_path, masked))
    assert changed(before, weights(run(tmp_path, flipped_unknown))) == set()
    assert changed(before, weights(run(tmp_path, flipped_known)))


def test_frozen_towers_keep_every_weight_and_statistic(tmp_path: Path) -> None:
    images = make_images(8, side=64)
    start = make_towers(tmp_path, "resnet").model.state_dict()
    frozen = replace(RECIPE, image_tower=False)
    moved = changed(start, towers_of(run(tmp_path, images, kind="resnet", optimizer=frozen)))
    assert moved
    assert not any(name.startswith("visual.") for name in moved)
    frozen = replace(RECIPE, text_tower=False)
    moved = changed(start, towers_of(run(tmp_path, images, kind="resnet", optimizer=frozen)))
    assert "visual.bn1.running_mean" in moved
    assert all(name.startswith("visual.") for name in moved)
    frozen = replace(RECIPE, image_tower=False, text_tower=False)
    trained = run(tmp_path, images, kind="resnet", optimizer=frozen)
    assert changed(start, towers_of(trained)) == set()
    assert float(trained.network.mumic.tau.detach()) != pytest.approx(LossConfig().tau, abs=1e-6)


def towers_of(trained: TrainedModel) -> dict[str, torch.Tensor]:
    return dict(trained.network.mumic.clip.state_dict())


def test_nothing_to_train_is_a_configuration_error(tmp_path: Path) -> None:
    frozen = replace(RECIPE, image_tower=False, text_tower=False)
    loss = LossConfig(learn_tau=False, bias="none")
    with pytest.raises(ConfigurationError, match="nothing is left to train"):
        run(tmp_path, make_images(8), optimizer=frozen, loss=loss)


def test_a_prior_bias_starts_at_the_share_of_positives(tmp_path: Path) -> None:
    images = make_images(64)
    still = replace(RECIPE, epochs=1, learning_rate=1e-12)
    trained = run(tmp_path, images, optimizer=still, augmented=False)
    logits = score_with_network(
        trained.network,
        images,
        preprocessing=make_towers(tmp_path).preprocessing,
        batch_size=16,
    )
    negatives = logits[~images.targets].mean()
    prevalence = images.targets.mean()
    assert negatives == pytest.approx(np.log(prevalence / (1 - prevalence)), abs=1e-3)


def test_tau_and_bias_move_only_where_they_are_learnt(tmp_path: Path) -> None:
    fixed = run(
        tmp_path, make_images(16), loss=LossConfig(learn_tau=False, bias="none")
    ).network.mumic
    assert float(fixed.tau) == pytest.approx(0.07)
    assert float(fixed.bias) == 0.0
    learnt = run(tmp_path, make_images(16), loss=LossConfig(bias="learnt")).network.mumic
    assert float(learnt.tau.detach()) != pytest.approx(0.07, abs=1e-5)
    assert 0 < abs(float(learnt.bias.detach())) < 1


def test_the_epoch_with_the_best_validation_gap_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps = iter([0.2, 0.9, 0.5])
    seen: list[dict[str, torch.Tensor]] = []

    def judge(network: MumicNetwork, images: PixelSet, **_: object) -> RankingMetrics:
        seen.append({name: value.clone() for name, value in network.mumic.state_dict().items()})
        return RankingMetrics(len(images), next(gaps), 0.0, 0.0, 0)

    monkeypatch.setattr("pipeline.training.loop.validate_network", judge)
    trained = run(tmp_path, make_images(16), make_images(8), optimizer=replace(RECIPE, epochs=3))
    assert trained.best == 1
    assert changed(weights(trained), seen[1]) == set()
    assert changed(weights(trained), seen[2])


def test_without_validation_images_the_last_epoch_is_kept(tmp_path: Path) -> None:
    trained = run(tmp_path, make_images(16))
    assert trained.best == 1
    assert trained.epochs[-1].validation is None


def test_fewer_images_than_a_batch_are_still_trained_on(tmp_path: Path) -> None:
    few = run(tmp_path, make_images(5))
    assert changed(weights(few), weights(run(tmp_path, make_images(5, seed=2))))


def test_a_bundle_predicts_what_the_trained_model_predicts(tmp_path: Path) -> None:
    images = make_images(12, side=64)
    trained = run(tmp_path, images, kind="resnet")
    towers = replace(make_towers(tmp_path, "resnet"), model=trained.network.mumic.clip)
    write_bundle(
        tmp_path / "bundle",
        mumic=trained.network.mumic,
        towers=towers,
        taxonomy=TAXONOMY,
        licence="CC0-1.0",
    )
    bundle = read_bundle(tmp_path / "bundle")

    def logits(mumic: MuMIC, label_embeddings: torch.Tensor) -> npt.NDArray[np.float32]:
        pixels, _, _ = images.batch(np.arange(len(images)))
        size = (bundle.preprocessing.height, bundle.preprocessing.width)
        planes = make_normaliser(bundle.preprocessing, CPU)(cut_centre(pixels, size))
        with torch.inference_mode():
            return mumic.eval().logits(mumic.encode_images(planes), label_embeddings).numpy()

    np.testing.assert_allclose(
        logits(bundle.load_model(), torch.from_numpy(bundle.label_embeddings)),
        logits(
            trained.network.mumic, embed_labels(trained.network.mumic, towers.tokenizer, TAXONOMY)
        ),
        atol=1e-5,
    )


def test_a_diverging_training_says_so(tmp_path: Path) -> None:
    wild = replace(RECIPE, learning_rate=1e30, clip_norm=1e30, warmup=0.0)
    with pytest.raises(ModelError, match=r"diverged.*learning_rate"):
        run(tmp_path, make_images(24), make_images(8), optimizer=wild)


def test_no_readable_image_is_a_manifest_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no training image"):
        run(tmp_path, NONE)


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1.0
    assert all(b < a for a, b in pairwise(factors[10:]))
    assert 0 < factors[-1] < 1e-3
    assert learning_rate_factor(0, 1, 0.0) == 1.0


def test_weights_decay_on_matrices_only(tmp_path: Path) -> None:
    towers = make_towers(tmp_path, "resnet")
    tokens, owners = tokenize_labels(towers.tokenizer, TAXONOMY)
    mumic = MuMIC(towers.model, tau=0.07, learn_tau=True, learn_bias=True)
    made = make_optimizer(MumicNetwork(mumic, tokens=tokens, owners=owners), RECIPE)
    decay = {
        id(parameter): group["weight_decay"]
        for group in made.param_groups
        for parameter in group["params"]
    }
    for name, parameter in mumic.named_parameters():
        if name == "clip.logit_scale":  # not used: MuMIC has its own
            assert id(parameter) not in decay
            continue
        assert decay[id(parameter)] == (0.05 if parameter.ndim > 1 else 0.0), name


def test_augmentation_follows_its_generator_and_keeps_the_range() -> None:
    pixels = torch.from_numpy(make_images(16, side=36).pixels)

    def cut(seed: int) -> torch.Tensor:
        cuts = draw_cuts(len(pixels), torch.Generator().manual_seed(seed))
        return augment(pixels, (SIDE, SIDE), cuts)

    first = cut(1)
    assert first.shape == (16, 3, SIDE, SIDE)
    assert first.dtype == torch.float32
    assert torch.equal(first, cut(1))
    assert not torch.equal(first, cut(2))
    assert 0 <= float(first.min()) <= float(first.max()) <= 255
    flat = torch.full((4, 36, 36, 3), 77, dtype=torch.uint8)
    even = augment(flat, (SIDE, SIDE), draw_cuts(4, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(even, torch.full_like(even, 77.0))


def test_a_whole_cut_is_the_picture_or_its_mirror_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.pixels.CROP_AREA", (1.0, 1.0))
    monkeypatch.setattr("pipeline.training.pixels.CROP_ASPECT", (1.0, 1.0))
    pixels = torch.from_numpy(make_images(32).pixels)
    planes = pixels.permute(0, 3, 1, 2).float()
    same = 0
    cuts = draw_cuts(32, torch.Generator().manual_seed(5))
    for cut, whole in zip(augment(pixels, (SIDE, SIDE), cuts), planes, strict=True):
        unmirrored = torch.allclose(cut, whole, atol=1e-2)
        assert unmirrored or torch.allclose(cut, whole.flip(-1), atol=1e-2)
        same += unmirrored
    assert 8 <= same <= 24


def test_the_centre_is_cut_from_the_middle() -> None:
    pixels = torch.zeros(1, 6, 8, 3, dtype=torch.uint8)
    pixels[0, 1:5, 2:6] = 9
    assert torch.equal(cut_centre(pixels, (4, 4)), torch.full((1, 3, 4, 4), 9.0))
