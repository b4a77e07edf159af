"""Losses against plain loops, and the tempered sigmoid against calculus and its claims."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.config import LossConfig, LossKind
from pipeline.models.linear_head import LinearHead
from pipeline.models.losses import (
    prior_bias,
    sum_asymmetric_losses,
    tempered_logits,
)
from pipeline.training.objective import make_objective


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


def tempered_sigmoid_bce(
    cosines: Tensor,
    targets: Tensor,
    known: Tensor | None = None,
    *,
    tau: Tensor | float,
    bias: Tensor | float,
) -> Tensor:
    """The loss of a step, as trainings put it together."""
    known = torch.ones_like(cosines, dtype=torch.bool) if known is None else known
    objective = make_objective(LossConfig(kind="tempered_sigmoid"))
    total = objective.total(tempered_logits(cosines, tau=tau, bias=bias), targets, known)
    return total / objective.count(targets, known).clamp(min=1)


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


# --- every kind of loss


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def cross_entropy_of(z: float, positive: bool) -> float:
    return -math.log(sigmoid(z)) if positive else -math.log(1 - sigmoid(z))


def asymmetric_of(z: float, positive: bool) -> float:
    p = sigmoid(z)
    if positive:
        return -((1 - p) ** 1) * math.log(p)
    shifted = max(p - 0.05, 0.0)
    return -(shifted**4) * math.log(1 - shifted)


def mean_over_pairs(
    of_pair: Callable[[float, bool], float], logits: Tensor, targets: Tensor, known: Tensor
) -> float:
    total, count = 0.0, 0
    for i in range(logits.shape[0]):
        for j in range(logits.shape[1]):
            if known[i, j]:
                total += of_pair(float(logits[i, j]), bool(targets[i, j]))
                count += 1
    return total / count


def softmax_reference(logits: Tensor, targets: Tensor, known: Tensor) -> float:
    losses = []
    for i in range(logits.shape[0]):
        checked = [j for j in range(logits.shape[1]) if known[i, j]]
        held = [j for j in checked if targets[i, j]]
        if held:
            everything = sum(math.exp(float(logits[i, j])) for j in checked)
            shares = [math.exp(float(logits[i, j])) / everything for j in held]
            losses.append(-sum(math.log(share) / len(held) for share in shares))
    return sum(losses) / len(losses)


def reference(kind: LossKind, logits: Tensor, targets: Tensor, known: Tensor) -> float:
    if kind == "softmax":
        return softmax_reference(logits, targets, known)
    of_pair = asymmetric_of if kind == "asymmetric" else cross_entropy_of
    return mean_over_pairs(of_pair, logits, targets, known)


def loss_of(kind: LossKind, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    objective = make_objective(LossConfig(kind=kind))
    return objective.total(logits, targets, known) / objective.count(targets, known).clamp(min=1)


KINDS: tuple[LossKind, ...] = (
    "tempered_sigmoid",
    "plain_bce",
    "linear_head",
    "asymmetric",
    "softmax",
)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(6, 5, generator=generator, dtype=torch.float64) * 3


@every_kind
def test_each_loss_equals_a_double_loop_whatever_stands_under_the_mask(
    batch: tuple[Tensor, Tensor, Tensor], logits: Tensor, kind: LossKind
) -> None:
    _, targets, known = batch
    targets[0] = False  # one image without a label
    known[1] = False  # one that nobody looked at
    strange = targets.double().masked_fill(~known, torch.nan)
    logits.requires_grad_()
    loss = loss_of(kind, logits, strange, known)
    assert float(loss.detach()) == pytest.approx(
        reference(kind, logits.detach(), targets, known), rel=1e-12
    )
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[~known] == 0).all()
    assert logits.grad[known].abs().sum() > 0
    everything = torch.ones_like(known)
    assert float(loss_of(kind, logits.detach(), targets, everything)) == pytest.approx(
        reference(kind, logits.detach(), targets, everything), rel=1e-12
    )


@every_kind
def test_each_losss_gradients_equal_finite_differences(
    batch: tuple[Tensor, Tensor, Tensor], logits: Tensor, kind: LossKind
) -> None:
    _, targets, known = batch
    assert torch.autograd.gradcheck(
        lambda z: loss_of(kind, z, targets, known), (logits.requires_grad_(),)
    )


@every_kind
def test_no_loss_of_saturated_logits_is_infinite(kind: LossKind) -> None:
    logits = torch.tensor([[1000.0, -1000.0, 1000.0, -1000.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    loss = loss_of(kind, logits, targets, torch.ones_like(targets, dtype=torch.bool))
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@every_kind
def test_no_loss_learns_from_a_batch_that_nobody_checked(kind: LossKind) -> None:
    logits = torch.rand(2, 3, requires_grad=True)
    loss = loss_of(kind, logits, torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@every_kind
def test_totals_and_counts_of_parts_add_up(
    batch: tuple[Tensor, Tensor, Tensor], logits: Tensor, kind: LossKind
) -> None:
    _, targets, known = batch
    objective = make_objective(LossConfig(kind=kind))
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    total = sum(objective.total(logits[p], targets[p], known[p]) for p in parts)
    count = sum(objective.count(targets[p], known[p]) for p in parts)
    assert float(total / count) == pytest.approx(float(loss_of(kind, logits, targets, known)))


def test_an_asymmetric_loss_without_asymmetry_is_the_binary_cross_entropy(
    batch: tuple[Tensor, Tensor, Tensor], logits: Tensor
) -> None:
    _, targets, known = batch
    plain = sum_asymmetric_losses(
        logits, targets, known, gamma_negative=0.0, gamma_positive=0.0, margin=0.0
    )
    assert float(plain / known.sum()) == pytest.approx(
        float(loss_of("plain_bce", logits, targets, known))
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
def test_a_negative_within_the_margin_costs_next_to_nothing(gamma: float) -> None:
    logits = torch.tensor([[-4.0, 2.0]], requires_grad=True)  # p = 0.018, 0.88
    loss = sum_asymmetric_losses(
        logits,
        torch.zeros(1, 2),
        torch.ones(1, 2, dtype=torch.bool),
        gamma_negative=gamma,
        gamma_positive=1.0,
        margin=0.05,
    )
    loss.backward()
    assert logits.grad is not None
    assert abs(float(logits.grad[0, 0])) < 1e-3 * float(logits.grad[0, 1])


def test_a_linear_head_starts_at_the_prevalence_of_each_label() -> None:
    head = LinearHead(4, 3)
    head.start_at_prior(torch.tensor([0.0, 0.2, 1.0]))
    probabilities = torch.sigmoid(head(torch.randn(2, 4))).detach()
    torch.testing.assert_close(probabilities[0], torch.tensor([1e-6, 0.2, 1 - 1e-6]))
    assert torch.equal(probabilities[0], probabilities[1])
