"""What a kind of model brings to the training loop, which knows none of them.

Shapes: N texts, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from pipeline.config import (
    CmaTrainingConfig,
    DisturbanceConfig,
    LossConfig,
    OptimizerConfig,
    TrainModelConfig,
)
from pipeline.errors import ConfigurationError
from pipeline.models.bundle import Bundle, write_bundle
from pipeline.models.cma_bundle import write_cma_clip
from pipeline.models.cma_clip import CmaClip
from pipeline.models.labels import tokenize_labels
from pipeline.models.linear_head import LinearHead
from pipeline.models.mumic import MuMIC
from pipeline.models.towers import Towers
from pipeline.taxonomy import Task, Taxonomy
from pipeline.training.checkpoint import digest_tensors
from pipeline.training.cma_network import CmaNetwork
from pipeline.training.mumic_network import MumicNetwork
from pipeline.training.network import Network
from pipeline.training.objective import (
    Objective,
    has_bias,
    make_mumic,
    make_objective,
    make_task_objective,
)
from pipeline.training.pixels import PixelSet
from pipeline.training.prior import start_at_prior
from pipeline.training.state import digest_settings
from pipeline.training.trainer import Trainer

N = TypeVar("N", bound=Network)

Start = Callable[[Trainer, PixelSet], None]


def _start_as_is(trainer: Trainer, training: PixelSet) -> None:
    """Nothing has to be known of the images first."""
    del trainer, training


@dataclass(frozen=True, kw_only=True)
class Course(Generic[N]):
    """A training, but for its images and how the weights move.

    Attributes:
        network: What is trained.
        objective: What is minimised.
        identity: What two runs must have in common beside images, weights and optimizer to be one
            training: digests, by name.
        start: Called before the first step, with the images that will be trained on.
        tasks: With their columns, where the accuracy of those with one label to an image is told.
        disturbance: How often modalities are taken away or spoilt; None: never.
    """

    network: N
    objective: Objective
    identity: Mapping[str, str]
    start: Start = _start_as_is
    tasks: Sequence[tuple[Task, slice]] = ()
    disturbance: DisturbanceConfig | None = None


def make_course(config: TrainModelConfig, towers: Towers, taxonomy: Taxonomy) -> Course[Any]:
    """The course of the kind of model that a configuration names.

    Args:
        config: The job's.
        towers: What it starts from; changed in place.
        taxonomy: Tasks and labels.

    Raises:
        ConfigurationError: The towers cannot be those of the kind.
    """
    if config.kind == "cma_clip":
        return make_cma_course(
            CmaClip(towers.model, taxonomy, config.cma_clip),
            taxonomy,
            training=config.cma_training,
            optimizer=config.optimizer,
        )
    tokens, owners = tokenize_labels(towers.tokenizer, taxonomy)
    return make_mumic_course(
        make_mumic(towers.model, config.loss),
        tokens=tokens,
        owners=owners,
        loss=config.loss,
        optimizer=config.optimizer,
    )


def write_trained(
    network: Network,
    folder: str,
    *,
    towers: Towers,
    taxonomy: Taxonomy,
    licence: str,
    training: dict[str, Any],
) -> Bundle:
    """Write the bundle of a network that was trained.

    Args:
        network: In eval mode, on the CPU.
        folder: A local folder that does not exist yet.
        towers: What it started from.
        taxonomy: Tasks and labels.
        licence: Of the weights.
        training: What the bundle remembers of the training, plain JSON data.

    Raises:
        BundleError: ``folder`` exists or cannot be written.
        ModelError: A weight is not finite.
    """
    if isinstance(network, CmaNetwork):
        return write_cma_clip(
            folder,
            model=network.model,
            towers=towers,
            taxonomy=taxonomy,
            licence=licence,
            training=training,
        )
    if not isinstance(network, MumicNetwork):
        raise TypeError(f"no bundle holds a {type(network).__name__}")
    return write_bundle(
        folder,
        mumic=network.mumic,
        towers=towers,
        taxonomy=taxonomy,
        licence=licence,
        training=training,
    )


def make_mumic_course(
    mumic: MuMIC,
    *,
    tokens: Tensor,
    owners: Tensor,
    loss: LossConfig,
    optimizer: OptimizerConfig,
) -> Course[MumicNetwork]:
    """Train MuMIC: towers, temperature and bias, whichever of them are not frozen.

    All label texts go through the text tower in every step, or once where it is frozen.

    Args:
        mumic: The model, as of :func:`pipeline.training.objective.make_mumic`; changed in place.
        tokens: Every text of every label, [N, T] int64.
        owners: Each text's label, [N] int64.
        loss: What is minimised; temperature and the form of the bias are the model's.
        optimizer: Which towers are trained, in which precision.
    """
    network = MumicNetwork(
        mumic,
        tokens=tokens,
        owners=owners,
        image_tower=optimizer.image_tower,
        text_tower=optimizer.text_tower,
        head=_make_head(mumic, tokens, owners, loss),
        precision=optimizer.precision,
    )

    def start(trainer: Trainer, training: PixelSet) -> None:
        if has_bias(loss) and loss.bias == "prior":
            start_at_prior(network, trainer, training)

    return Course(
        network=network,
        objective=make_objective(loss),
        identity={
            "loss": digest_settings(asdict(loss)),
            "label texts": digest_tensors({"tokens": tokens, "owners": owners}),
        },
        start=start,
    )


def make_cma_course(
    model: CmaClip,
    taxonomy: Taxonomy,
    *,
    training: CmaTrainingConfig,
    optimizer: OptimizerConfig,
) -> Course[CmaNetwork]:
    """Train CMA-CLIP: towers, attentions and heads, whichever of them are not frozen.

    Args:
        model: The model; changed in place.
        taxonomy: Its tasks.
        training: Weights of tasks, and how often modalities are taken away or spoilt.
        optimizer: Which towers are trained, in which precision.

    Raises:
        ConfigurationError: A weight is below 0, or of no task.
    """
    _validate_weights(training.task_weights, taxonomy)
    reads_both = model.reads_text and model.reads_image
    return Course(
        network=CmaNetwork(
            model,
            taxonomy,
            image_tower=optimizer.image_tower,
            text_tower=optimizer.text_tower,
            precision=optimizer.precision,
        ),
        objective=make_task_objective(taxonomy.columns, training.task_weights),
        identity={
            "cma_training": digest_settings(asdict(training)),
            "cma_clip": digest_settings(asdict(model.config)),
            "taxonomy": taxonomy.version,
        },
        tasks=taxonomy.columns,
        # What a model reads alone it has to trust.
        disturbance=training.disturbance if reads_both else None,
    )


def _validate_weights(weights: Mapping[str, float], taxonomy: Taxonomy) -> None:
    tasks = [task.id for task in taxonomy.tasks]
    if strange := sorted(set(weights) - set(tasks)):
        raise ConfigurationError(
            "weights of tasks that the taxonomy does not have",
            where="cma_training.task_weights",
            expected=tasks,
            got=strange,
        )
    if wrong := {task: weight for task, weight in weights.items() if not 0 <= weight < math.inf}:
        raise ConfigurationError(
            "a setting is out of range",
            where="cma_training.task_weights",
            expected="at least 0",
            got=wrong,
        )


def _make_head(mumic: MuMIC, tokens: Tensor, owners: Tensor, loss: LossConfig) -> LinearHead | None:
    if loss.kind != "linear_head":
        return None
    with torch.no_grad():
        embedding_size = mumic.encode_texts(tokens[:1]).shape[1]
    return LinearHead(embedding_size, int(owners.max()) + 1, has_bias=has_bias(loss))
