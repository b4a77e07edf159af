"""What is compared: losses, temperatures, biases and tuned parts, and who goes to the finals.

That MuMIC has a tempered sigmoid is its paper's; temperatures, biases and all rivals are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config import LossConfig, OptimizerConfig
from pipeline.errors import ConfigurationError

Parts = Literal["both", "image", "neither"]

PLAIN, FIXED, LEARNT = "plain BCE", "tempered sigmoid, fixed", "tempered sigmoid, learnt"
LINEAR, ASYMMETRIC, SOFTMAX = "linear head", "asymmetric", "softmax"
# Where time is short the last ones do not go to the finals.
FAMILIES = (PLAIN, FIXED, LEARNT, LINEAR, ASYMMETRIC, SOFTMAX)

TAUS = (0.1, 0.07, 0.05, 0.02, 0.01)
# Where a learnt temperature starts: CLIP's (arXiv 2103.00020, section 2.5).
START_TAU = 0.07
_BIASES: tuple[Literal["none", "learnt", "prior"], ...] = ("none", "learnt", "prior")
_TUNED: tuple[Parts, ...] = ("both", "image")

# Temperature and bias are two numbers that have to travel by whole units in a few hundred steps of
# AdamW, each of about the rate: at the towers' 1e-3 a "learnt" bias would stay where it started.
_SCALAR_RATE = 3e-2
# Of a linear head on towers that do not move.
_PROBE_RATE = 1e-2


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train.

    Attributes:
        family: One of ``FAMILIES``: each sends its best variant to the finals.
        loss: What is minimised.
        parts: Towers that are tuned. A linear head has no text tower.
    """

    family: str
    loss: LossConfig
    parts: Parts

    @property
    def tau(self) -> str:
        """The temperature, or ``learnt``; a dash where there is none."""
        if self.family in (PLAIN, LINEAR):
            return "-"
        return "learnt" if self.loss.learn_tau else f"{self.loss.tau:g}"

    @property
    def bias(self) -> str:
        """How the bias comes about; a dash where the loss has none."""
        return "-" if self.family in (PLAIN, SOFTMAX) else self.loss.bias

    @property
    def name(self) -> str:
        """Names the variant in tables and files."""
        words = (self.loss.kind, self.tau, self.bias, self.parts)
        return "-".join(word for word in words if word != "-")

    def make_optimizer(
        self, *, epochs: int, batch_size: int, learning_rate: float, seed: int
    ) -> OptimizerConfig:
        """The recipe: the same for all variants but for the rate of what is no tower."""
        head_rate = learning_rate if self.family == LINEAR else _SCALAR_RATE
        return OptimizerConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            head_learning_rate=_PROBE_RATE if self.parts == "neither" else head_rate,
            weight_decay=0.05,
            image_tower=self.parts != "neither",
            text_tower=self.parts == "both",
            seed=seed,
        )


def make_grid(taus: Sequence[float] = TAUS) -> tuple[Variant, ...]:
    """Everything that is screened.

    With both towers frozen only a linear head is worth training: one temperature and one bias
    for all labels change no order of scores, and GAP and mAP see nothing but the order.

    Args:
        taus: Fixed temperatures of the tempered sigmoid.
    """
    grid = [
        Variant(family=PLAIN, loss=LossConfig(kind="plain_bce", learn_tau=False), parts=parts)
        for parts in _TUNED
    ]
    for tau, bias, parts in itertools.product((*taus, None), _BIASES, _TUNED):
        loss = LossConfig(
            kind="tempered_sigmoid", tau=tau or START_TAU, learn_tau=tau is None, bias=bias
        )
        grid.append(Variant(family=LEARNT if tau is None else FIXED, loss=loss, parts=parts))
    for bias in ("none", "prior"):
        linear = LossConfig(kind="linear_head", learn_tau=False, bias=bias)
        grid.append(Variant(family=LINEAR, loss=linear, parts="image"))
    grid.append(Variant(family=LINEAR, loss=linear, parts="neither"))
    for bias, parts in itertools.product(("none", "prior"), _TUNED):
        loss = LossConfig(kind="asymmetric", tau=START_TAU, bias=bias)
        grid.append(Variant(family=ASYMMETRIC, loss=loss, parts=parts))
    for learn_tau, parts in itertools.product((False, True), _TUNED):
        loss = LossConfig(kind="softmax", tau=START_TAU, learn_tau=learn_tau, bias="none")
        grid.append(Variant(family=SOFTMAX, loss=loss, parts=parts))
    return tuple(grid)


def pick_variants(grid: Sequence[Variant], names: Sequence[str]) -> tuple[Variant, ...]:
    """Some variants of a grid, in its order.

    Args:
        grid: What there is.
        names: Of those that are wanted; empty: all of them.

    Raises:
        ConfigurationError: There is no variant of such a name.
    """
    if strange := sorted(set(names) - {variant.name for variant in grid}):
        raise ConfigurationError(
            "there are no such variants",
            where="--variants",
            expected=f"names such as {grid[0].name} and {grid[-1].name}",
            got=strange,
        )
    return tuple(variant for variant in grid if not names or variant.name in names)


def choose_finalists(screened: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """Names of each family's best variant by validation GAP: the test images choose nobody.

    Args:
        screened: Results of the screening; trainings that diverged are passed over.
        most: Finalists at most.
    """
    best: dict[str, Mapping[str, Any]] = {}
    for result in screened:
        family = result["family"]
        if "failed" not in result and (
            family not in best or result["validation"]["gap"] > best[family]["validation"]["gap"]
        ):
            best[family] = result
    return [best[family]["variant"] for family in FAMILIES if family in best][:most]
