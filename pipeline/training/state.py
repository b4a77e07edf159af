"""Between a training and its checkpoint: what has to be kept, and what it must belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import OptimizerConfig
from pipeline.evaluation.metrics import RankingMetrics
from pipeline.training.checkpoint import Saved, digest_tensors
from pipeline.training.epoch import EpochProgress
from pipeline.training.history import Epoch, History
from pipeline.training.pixels import PixelSet
from pipeline.training.processes import Processes
from pipeline.training.trainer import Trainer

# Pixels are memory-mapped: so many images at a time.
_IMAGES_PER_READ = 256


def identify_training(
    weights: Mapping[str, Tensor],
    *,
    of_kind: Mapping[str, str],
    training: PixelSet,
    validation: PixelSet,
    optimizer: OptimizerConfig,
    augmented: bool,
    processes: Processes,
) -> dict[str, str]:
    """What two runs must have in common to be one training: digests, by name.

    Not the number of threads, nor the device: they change roundings, not what is trained.

    Args:
        weights: What the training starts from.
        of_kind: What the kind of model adds: digests, by name.
        training: This process' images to learn from.
        validation: This process' images to validate with.
        optimizer: How the weights move.
        augmented: Random crops and flips.
        processes: Who trains together: images of all of them count.
    """
    return {
        "optimizer": digest_settings(asdict(optimizer)),
        "augment": str(augmented),
        "distribution.processes": str(processes.count),
        "starting weights": digest_tensors(weights),
        **of_kind,
        "training images": _digest_of_all(training, processes),
        "validation images": _digest_of_all(validation, processes),
    }


def collect_state(trainer: Trainer, history: History, done: EpochProgress | None) -> Saved:
    """Everything a training needs to go on to the bit; random states follow from the place.

    Args:
        trainer: Between two steps.
        history: The epochs that ended.
        done: How far the epoch after them got; None between epochs.
    """
    state = {f"network.{name}": value for name, value in trainer.network.state_dict().items()}
    for name, parameter in trainer.network.named_parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            state[f"optimizer.{key}.{name}"] = value
    if trainer.average is not None:
        average = trainer.average.state_dict()
        state |= {f"average.{name}": value for name, value in average.items()}
    if done is not None:
        state["epoch.loss"] = done.loss
    facts = {
        "step": 0 if done is None else done.step,
        "epochs": [
            {"loss": epoch.loss, "validation": _figures_to_json(epoch.validation)}
            for epoch in history.epochs
        ],
        "best": history.best,
        "images": history.images,
        "seconds": history.seconds,
        "scaler": trainer.scaler.state_dict(),
    }
    best_epoch = history.best if history.epochs else -1
    return Saved(facts=facts, state=state, best=history.best_weights, best_epoch=best_epoch)


def restore_state(saved: Saved, trainer: Trainer) -> tuple[History, EpochProgress | None]:
    """Put a training where it was; the inverse of :func:`collect_state`."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value
            for name, value in saved.state.items()
            if name.startswith(prefix)
        }

    trainer.network.load_state_dict(part("network."))
    if trainer.average is not None:
        trainer.average.load_state_dict(part("average."))
    parameters = dict(trainer.network.named_parameters())
    for name, value in part("optimizer.").items():
        key, _, of = name.partition(".")
        parameter = parameters[of]
        # Laid out in memory as the parameter is: fused kernels walk through both at once.
        like = parameter if value.shape == parameter.shape else value.to(parameter.device)
        trainer.optimizer.state[parameter][key] = torch.empty_like(like).copy_(value)
    facts = saved.facts
    trainer.scaler.load_state_dict(facts["scaler"])
    history = History(
        best_weights=saved.best,
        epochs=[
            Epoch(epoch["loss"], _figures_from_json(epoch["validation"]))
            for epoch in facts["epochs"]
        ],
        best=facts["best"],
        images=facts["images"],
        seconds=facts["seconds"],
    )
    if "epoch.loss" not in saved.state:
        return history, None
    return history, EpochProgress(facts["step"], saved.state["epoch.loss"].to(trainer.device))


def _figures_to_json(figures: RankingMetrics | None) -> dict[str, Any] | None:
    return None if figures is None else figures.to_dict()


def _figures_from_json(told: dict[str, Any] | None) -> RankingMetrics | None:
    return None if told is None else RankingMetrics.from_dict(told)


def digest_settings(data: Mapping[str, Any]) -> str:
    """sha256 (hex) of plain data, whatever order its keys are in."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _digest_of_all(images: PixelSet, processes: Processes) -> str:
    """Of ids, labels, texts and pixels of every process."""
    digest = hashlib.sha256(json.dumps(images.ids).encode())
    for marks in (images.targets, images.known):
        digest.update(np.packbits(marks).tobytes())
    if images.texts is not None:
        digest.update(np.ascontiguousarray(images.texts.tokens).data)
        digest.update(np.packbits(images.texts.present).tobytes())
    for start in range(0, len(images), _IMAGES_PER_READ):
        pixels = images.pixels[start : start + _IMAGES_PER_READ]
        digest.update(np.ascontiguousarray(pixels).data)
    own = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
    return hashlib.sha256(processes.gather(own).numpy().tobytes()).hexdigest()
