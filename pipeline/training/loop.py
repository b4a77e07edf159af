"""The training loop: epochs, validation, which weights are kept, and when it is enough.

Bit-equal from its seed on a CPU with the same number of threads, cut off and taken up again or
not; on a GPU equal up to rounding. Knows neither manifests nor bundles, nor kinds of models.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch

from pipeline.config import CheckpointConfig, OptimizerConfig
from pipeline.evaluation.metrics import RankingMetrics
from pipeline.images.preprocess import Preprocessing
from pipeline.training.averaging import copy_weights, interpolate_weights
from pipeline.training.course import Course
from pipeline.training.epoch import EpochProgress, measure_epoch, run_epoch
from pipeline.training.history import Epoch, History
from pipeline.training.journal import Journal, open_journal
from pipeline.training.network import Network
from pipeline.training.pixels import PixelSet
from pipeline.training.processes import SINGLE, Processes
from pipeline.training.randomness import keep_reproducible
from pipeline.training.state import identify_training
from pipeline.training.trainer import Trainer
from pipeline.training.validation import validate_network

_LOG = logging.getLogger(__name__)

N = TypeVar("N", bound=Network)


@dataclass(frozen=True)
class TrainedModel(Generic[N]):
    """A trained model, in eval mode, on the CPU.

    Attributes:
        network: With the best epoch's weights, mixed with those it started with where the
            configuration says so.
        epochs: What each epoch came to.
        best: Index of the epoch whose weights were kept: the best validation GAP, or the last one.
        validation: Figures of the weights that are kept; None without validation images.
        images_per_s: Training images over the seconds spent in training steps.
    """

    network: N
    epochs: tuple[Epoch, ...]
    best: int
    validation: RankingMetrics | None
    images_per_s: float


def train(
    course: Course[N],
    *,
    training: PixelSet,
    validation: PixelSet,
    preprocessing: Preprocessing,
    optimizer: OptimizerConfig,
    device: torch.device,
    augmented: bool = True,
    progress: bool = False,
    processes: Processes = SINGLE,
    checkpoint: CheckpointConfig | None = None,
    on_epoch: Callable[[int, Epoch], None] = lambda index, epoch: None,
) -> TrainedModel[N]:
    """Train what a course is about, towers and all else that is not frozen.

    Args:
        course: What is trained, and what is minimised; its network is changed in place.
        training: This process' images to learn from.
        validation: This process' images to choose the best epoch by; none at all may have any.
        preprocessing: The model's: size of the input, mean and standard deviation.
        optimizer: How the weights move.
        device: Where to train.
        augmented: Random crops and flips.
        progress: Show progress on stderr.
        processes: Who trains together.
        checkpoint: Where to go on from, and to write to; nowhere without a folder.
        on_epoch: Hears of each epoch, those before an interruption too: its index and what it
            came to.

    Raises:
        ManifestError: There is no image to learn from.
        ConfigurationError: Nothing is left to train.
        CheckpointError: The checkpoint is damaged, or of another training.
        ModelError: The loss is not finite any more.
    """
    with keep_reproducible(device):
        trainer = Trainer(
            course.network,
            objective=course.objective,
            preprocessing=preprocessing,
            config=optimizer,
            device=device,
            augmented=augmented,
            processes=processes,
        )
        identity = {}
        if checkpoint is not None and checkpoint.folder is not None:
            identity = identify_training(
                trainer.network.state_dict(),
                of_kind=course.identity,
                training=training,
                validation=validation,
                optimizer=optimizer,
                augmented=augmented,
                processes=processes,
            )
        run = _Run(trainer, course, training, validation, preprocessing)
        course.start(trainer, training)
        start = copy_weights(trainer.network)
        with open_journal(trainer, checkpoint or CheckpointConfig(), identity) as journal:
            history, done = journal.read() or (History(best_weights=start), None)
            for index, epoch in enumerate(history.epochs):
                on_epoch(index, epoch)
            while not history.is_over(optimizer):
                run.run_next_epoch(history, done, journal, progress=progress)
                on_epoch(len(history.epochs) - 1, history.epochs[-1])
                done = None
        trainer.kept.load_state_dict(
            interpolate_weights(start, history.best_weights, optimizer.interpolation)
        )
        figures = history.epochs[history.best].validation
        if optimizer.interpolation < 1:
            figures = run.validate()
    network = cast("N", trainer.kept.cpu().eval())
    network.clip.visual.to(memory_format=torch.contiguous_format)
    return TrainedModel(
        network=network,
        epochs=tuple(history.epochs),
        best=history.best,
        validation=figures,
        images_per_s=history.images / max(history.seconds, 1e-9),
    )


class _Run:
    """One training, epoch by epoch."""

    def __init__(
        self,
        trainer: Trainer,
        course: Course[Any],
        training: PixelSet,
        validation: PixelSet,
        preprocessing: Preprocessing,
    ) -> None:
        self.trainer, self.course, self.preprocessing = trainer, course, preprocessing
        self.training, self.validation = training, validation
        self.size = measure_epoch(trainer, training)
        # A share may be empty where another one is not.
        counts = trainer.processes.add_up(torch.tensor(len(validation)))
        self.validates = int(counts) > 0

    def run_next_epoch(
        self, history: History, done: EpochProgress | None, journal: Journal, *, progress: bool
    ) -> None:
        """Train for an epoch, look at the validation images, and note what came of it."""
        trainer, index = self.trainer, len(history.epochs)
        seen = self.size.images - (0 if done is None else done.step * self.size.per_step)
        started = time.monotonic()
        loss = run_epoch(
            trainer,
            index,
            self.training,
            done=done,
            after_step=lambda now: journal.write(history, now),
            progress=progress,
            disturbance=self.course.disturbance,
        )
        took = time.monotonic() - started
        trainer.processes.share(trainer.network)
        trainer.processes.share(trainer.kept)
        figures = self.validate()
        history.note(Epoch(loss, figures), trainer.kept, images=seen, seconds=took)
        journal.write(history, None)
        told = {} if figures is None else {f"accuracy {n}": v for n, v in figures.accuracy.items()}
        told |= trainer.kept.describe()
        _LOG.info(
            "epoch %d of %d: loss %.4f, validation GAP %s, %s%.0f images/s",
            index + 1,
            trainer.config.epochs,
            loss,
            "none" if figures is None else f"{figures.gap:.4f}",
            "".join(f"{name} {value:.4f}, " for name, value in told.items()),
            seen / took,
        )

    def validate(self) -> RankingMetrics | None:
        """Figures of the weights that would be kept now; None without validation images."""
        if not self.validates:
            return None
        return validate_network(
            self.trainer.kept,
            self.validation,
            preprocessing=self.preprocessing,
            batch_size=self.trainer.micro_batch,
            processes=self.trainer.processes,
            tasks=self.course.tasks,
        )
