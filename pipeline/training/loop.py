"""The training loop: epochs, validation, which weights are kept, and when it is enough.

Bit-equal from its seed on a CPU with the same number of threads, cut off and taken up again or
not; on a GPU equal up to rounding. Knows neither manifests nor bundles.

Shapes: L labels, N texts, T tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config import CheckpointConfig, LossConfig, OptimizerConfig
from pipeline.evaluation.metrics import RankingMetrics
from pipeline.images.preprocess import Preprocessing
from pipeline.models.linear_head import LinearHead
from pipeline.models.mumic import MuMIC
from pipeline.training.averaging import copy_weights, interpolate_weights
from pipeline.training.epoch import EpochProgress, measure_epoch, run_epoch
from pipeline.training.history import Epoch, History
from pipeline.training.journal import Journal, open_journal
from pipeline.training.network import Network
from pipeline.training.objective import has_bias, make_objective
from pipeline.training.pixels import PixelSet
from pipeline.training.prior import start_at_prior
from pipeline.training.processes import SINGLE, Processes
from pipeline.training.randomness import keep_reproducible
from pipeline.training.state import identify_training
from pipeline.training.trainer import Trainer
from pipeline.training.validation import validate_network

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, in eval mode, on the CPU.

    Attributes:
        mumic: The model with the best epoch's weights, mixed with those it started with where the
            configuration says so.
        epochs: What each epoch came to.
        best: Index of the epoch whose weights were kept: the best validation GAP, or the last one.
        validation: Figures of the weights that are kept; None without validation images.
        images_per_s: Training images over the seconds spent in training steps.
        network: ``mumic`` with its label texts, or with the linear head that was trained on it.
    """

    mumic: MuMIC
    epochs: tuple[Epoch, ...]
    best: int
    validation: RankingMetrics | None
    images_per_s: float
    network: Network


def train(
    mumic: MuMIC,
    *,
    tokens: Tensor,
    owners: Tensor,
    training: PixelSet,
    validation: PixelSet,
    preprocessing: Preprocessing,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    device: torch.device,
    augmented: bool = True,
    progress: bool = False,
    processes: Processes = SINGLE,
    checkpoint: CheckpointConfig | None = None,
    on_epoch: Callable[[int, Epoch], None] = lambda index, epoch: None,
) -> TrainedModel:
    """Train towers, temperature and bias, whichever of them are not frozen.

    All label texts go through the text tower in every step, or once where it is frozen.

    Args:
        mumic: The model, as of :func:`pipeline.training.objective.make_mumic`; changed in place.
        tokens: Every text of every label, [N, T] int64.
        owners: Each text's label, [N] int64.
        training: This process' images to learn from.
        validation: This process' images to choose the best epoch by; none at all may have any.
        preprocessing: The model's: size of the input, mean and standard deviation.
        optimizer: How the weights move.
        loss: What is minimised; temperature and the form of the bias are the model's.
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
            Network(
                mumic,
                tokens=tokens,
                owners=owners,
                image_tower=optimizer.image_tower,
                text_tower=optimizer.text_tower,
                head=_make_head(mumic, tokens, training, loss),
                precision=optimizer.precision,
            ),
            objective=make_objective(loss),
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
                texts={"tokens": tokens, "owners": owners},
                training=training,
                validation=validation,
                optimizer=optimizer,
                loss=loss,
                augmented=augmented,
                processes=processes,
            )
        run = _Run(trainer, training, validation, preprocessing)
        if has_bias(loss) and loss.bias == "prior":
            start_at_prior(trainer, training)
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
    network = trainer.kept.cpu().eval()
    network.mumic.clip.visual.to(memory_format=torch.contiguous_format)
    return TrainedModel(
        mumic=network.mumic,
        epochs=tuple(history.epochs),
        best=history.best,
        validation=figures,
        images_per_s=history.images / max(history.seconds, 1e-9),
        network=network,
    )


class _Run:
    """One training, epoch by epoch."""

    def __init__(
        self,
        trainer: Trainer,
        training: PixelSet,
        validation: PixelSet,
        preprocessing: Preprocessing,
    ) -> None:
        self.trainer, self.preprocessing = trainer, preprocessing
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
        )
        took = time.monotonic() - started
        trainer.processes.share(trainer.network)
        trainer.processes.share(trainer.kept)
        figures = self.validate()
        history.note(Epoch(loss, figures), trainer.kept, images=seen, seconds=took)
        journal.write(history, None)
        mumic = trainer.kept.mumic
        _LOG.info(
            "epoch %d of %d: loss %.4f, validation GAP %s, tau %.4f, bias %.2f, %.0f images/s",
            index + 1,
            trainer.config.epochs,
            loss,
            "none" if figures is None else f"{figures.gap:.4f}",
            float(mumic.tau.detach()),
            float(mumic.bias.detach()),
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
        )


def _make_head(
    mumic: MuMIC, tokens: Tensor, training: PixelSet, loss: LossConfig
) -> LinearHead | None:
    if loss.kind != "linear_head":
        return None
    with torch.no_grad():
        embedding_size = mumic.encode_texts(tokens[:1]).shape[1]
    return LinearHead(embedding_size, training.targets.shape[1], has_bias=has_bias(loss))
