"""The tempered-sigmoid loss against plain loops, calculus, and the claims made for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.models.losses import prior_bias, tempered_logits, tempered_sigmoid_bce


def loop_reference(
    cosines: Tensor, targets: Tensor, known: Tensor, tau: float, bias: float
) -> float:
    """Mean binary cross entropy over known pairs, one pair at a time, from its definition."""
    losses = []
    for i in range(cosines.shape[0]):
        for j in range(cosines.shape[1]):
            if known[i, j]:
                logit = float(cosines[i, j]) / tau + bias
                # -log p of a positive, -log(1 - p) of a negative
                losses.append(math.log1p(math.exp(-logit if targets[i, j] else logit)))
    return sum(losses) / len(losses)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(6, 5, generator=generator, dtype=torch.float64) * 2 - 1
    targets = torch.rand(6, 5, generator=generator) < 0.3
    known = torch.rand(6, 5, generator=generator) < 0.7
    return cosines, targets, known


@pytest.mark.parametrize(("tau", "bias"), [(1.0, 0.0), (0.07, 0.0), (0.07, -3.9), (0.02, 2.0)])
def test_the_loss_equals_a_double_loop(
    batch: tuple[Tensor, Tensor, Tensor], tau: float, bias: float
) -> None:
    cosines, targets, known = batch
    everything = torch.ones_like(known)
    loss = tempered_sigmoid_bce(cosines, targets, tau=tau, bias=bias)
    assert float(loss) == pytest.approx(loop_reference(cosines, targets, everything, tau, bias))
    loss = tempered_sigmoid_bce(cosines, targets, known, tau=tau, bias=bias)
    assert float(loss) == pytest.approx(loop_reference(cosines, targets, known, tau, bias))


def test_targets_of_unknown_pairs_do_not_matter_not_even_nan(
    batch: tuple[Tensor, Tensor, Tensor],
) -> None:
    cosines, targets, known = batch
    cosines.requires_grad_()
    strange = targets.double().masked_fill(~known, torch.nan)
    loss = tempered_sigmoid_bce(cosines, strange, known, tau=0.07, bias=0.0)
    loss.backward()
    plain = tempered_sigmoid_bce(cosines, targets, known, tau=0.07, bias=0.0)
    assert loss.item() == plain.item()
    assert (cosines.grad[~known] == 0).all()
    assert (cosines.grad[known] != 0).all()


def test_a_batch_where_nothing_is_known_costs_nothing_and_moves_nothing() -> None:
    cosines = torch.rand(2, 3, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    loss = tempered_sigmoid_bce(cosines, torch.ones(2, 3), nothing, tau=0.07, bias=0.0)
    loss.backward()
    assert loss.item() == 0
    assert (cosines.grad == 0).all()


def test_the_loss_stays_finite_where_the_sigmoid_is_saturated() -> None:
    cosines = torch.tensor([[1.0, -1.0]])
    loss = tempered_sigmoid_bce(cosines, torch.tensor([[0, 1]]), tau=0.001, bias=0.0)
    assert float(loss) == pytest.approx(1000)


def test_gradients_of_cosines_temperature_and_bias_equal_finite_differences(
    batch: tuple[Tensor, Tensor, Tensor],
) -> None:
    cosines, targets, known = batch
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)

    def loss(cosines: Tensor, tau: Tensor, bias: Tensor) -> Tensor:
        return tempered_sigmoid_bce(cosines, targets, known, tau=tau, bias=bias)

    assert torch.autograd.gradcheck(loss, (cosines.requires_grad_(), tau, bias))


def negative_gradients(cosines: list[float], tau: float, bias: float) -> Tensor:
    """dL/ds of negatives, times their number: the mean's divisor taken out."""
    s = torch.tensor([cosines], dtype=torch.float64, requires_grad=True)
    tempered_sigmoid_bce(s, torch.zeros_like(s), tau=tau, bias=bias).backward()
    return s.grad[0] * len(cosines)


@pytest.mark.parametrize(("tau", "bias"), [(1.0, 0.0), (0.1, -2.0), (0.02, -3.9)])
def test_a_negative_pulls_with_its_probability_over_tau(tau: float, bias: float) -> None:
    cosines = [-0.5, 0.0, 0.1, 0.3]
    expected = [1 / (1 + math.exp(-(s / tau + bias))) / tau for s in cosines]
    assert negative_gradients(cosines, tau, bias).tolist() == pytest.approx(expected)


def test_far_below_zero_hard_negatives_weigh_exponentially_more() -> None:
    easy, hard = negative_gradients([-0.8, -0.7], tau=0.05, bias=0.0)
    assert float(hard / easy) == pytest.approx(math.exp(0.1 / 0.05), rel=1e-5)


def test_far_above_zero_every_negative_weighs_the_same() -> None:
    easy, hard = negative_gradients([0.6, 0.9], tau=0.05, bias=0.0)
    assert float(hard / easy) == pytest.approx(1, rel=1e-4)


def test_a_bias_brings_back_the_order_that_saturation_took() -> None:
    bias = prior_bias(0.02, 0.75, 0.05)
    easy, hard = negative_gradients([0.6, 0.9], tau=0.05, bias=bias)
    assert float(hard / easy) > 10


def test_without_temperature_and_bias_probabilities_are_squeezed() -> None:
    ends = torch.sigmoid(tempered_logits(torch.tensor([-1.0, 1.0]), tau=1.0, bias=0.0))
    assert ends.tolist() == pytest.approx([0.2689, 0.7311], abs=1e-4)


@pytest.mark.parametrize("tau", [1.0, 0.07, 0.01])
def test_the_prior_bias_predicts_the_prevalence_for_the_mean_negative(tau: float) -> None:
    bias = prior_bias([0.01, 0.05, 0.03], 0.2, tau)
    assert 1 / (1 + math.exp(-(0.2 / tau + bias))) == pytest.approx(0.03)


def test_the_prior_bias_of_the_derived_prevalence() -> None:
    # 2.33 positives on 120 classes at most, from what the paper states: see its derivation
    assert prior_bias(2.33 / 120, 0.0, 0.07) == pytest.approx(-3.92, abs=0.005)


@pytest.mark.parametrize("prevalence", [0.0, 1.0])
def test_the_prior_bias_is_finite_for_labels_that_never_or_always_hold(prevalence: float) -> None:
    assert math.isfinite(prior_bias(prevalence, 0.1, 0.07))
