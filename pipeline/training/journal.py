"""When a training writes its checkpoint, who does, and whether all agree where it goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from pipeline.config import CheckpointConfig
from pipeline.errors import CheckpointError
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.epoch import EpochProgress
from pipeline.training.history import History
from pipeline.training.state import collect_state, restore_state
from pipeline.training.trainer import Trainer

_LOG = logging.getLogger(__name__)


class Journal:
    """A trainer with its checkpoint, or without one.

    Args:
        trainer: Whose state is kept.
        checkpoint: Where; None: nowhere.
    """

    def __init__(self, trainer: Trainer, checkpoint: Checkpoint | None) -> None:
        self._trainer, self._checkpoint = trainer, checkpoint

    def read(self) -> tuple[History, EpochProgress | None] | None:
        """Put the trainer where the checkpoint says; None where there is none.

        Raises:
            CheckpointError: It is damaged or of another training, or the processes do not all see
                the same one.
        """
        if self._checkpoint is None:
            return None
        saved = self._checkpoint.read()
        found = None if saved is None else restore_state(saved, self._trainer)
        self._refuse_disagreement(found)
        if found is not None:
            history, done = found
            _LOG.info(
                "going on after %d epochs and %d steps",
                len(history.epochs),
                0 if done is None else done.step,
            )
        return found

    def write(self, history: History, done: EpochProgress | None) -> None:
        """Write a checkpoint if it is time; process 0 does, for all of them.

        Args:
            history: The epochs that ended.
            done: How far the epoch after them got; None at the end of one: then it is time.
        """
        if self._checkpoint is None or not self._trainer.processes.leads:
            return
        if done is None or self._checkpoint.is_due():
            self._checkpoint.write(collect_state(self._trainer, history, done))

    def _refuse_disagreement(self, found: tuple[History, EpochProgress | None] | None) -> None:
        place = [-1, -1]
        if found is not None:
            history, done = found
            place = [len(history.epochs), 0 if done is None else done.step]
        places = self._trainer.processes.gather(torch.tensor([place]))
        if len(set(map(tuple, places.tolist()))) > 1:
            raise CheckpointError(
                "the processes see different checkpoints",
                where="checkpoint.folder",
                expected="a folder that all of them see",
                got=f"epochs and steps {places.tolist()}",
            )


@contextmanager
def open_journal(
    trainer: Trainer, config: CheckpointConfig, identity: Mapping[str, str]
) -> Iterator[Journal]:
    """A trainer's journal, in a folder that no other training uses meanwhile.

    Args:
        trainer: Whose state is kept.
        config: Where and how often.
        identity: What the checkpoint must agree with to be of this training.

    Raises:
        CheckpointError: The folder cannot be used, or another training is using it.
    """
    if config.folder is None:
        yield Journal(trainer, None)
        return
    checkpoint = Checkpoint(
        config.folder, identity, every_s=config.every_s, writes=trainer.processes.leads
    )
    try:
        yield Journal(trainer, checkpoint)
    finally:
        checkpoint.close()
