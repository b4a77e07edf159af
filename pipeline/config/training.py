"""What the jobs that make models are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.sections import (
    DecodeConfig,
    Device,
    FetchConfig,
    LogConfig,
)


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """The two towers a training starts from.

    Attributes:
        architecture: An open_clip model name (``ViT-B-32``), ``hf-hub:owner/name``, or a local
            open_clip model configuration (``.json``).
        pretrained: An open_clip pretrained tag, a local checkpoint, or nothing for random weights.
        licence: Licence of the weights, kept in the bundle.
    """

    architecture: str = "ViT-B-32"
    pretrained: str | None = None
    licence: str = "unknown"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights move.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: Peak rate of AdamW, after the warm-up, before the cosine.
        weight_decay: Of AdamW, on matrices only.
        warmup: Share of the steps with a rising rate.
        clip_norm: Largest norm of the gradient.
        image_tower: Train the image tower.
        text_tower: Train the text tower.
        seed: Of everything random in the training.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.1
    warmup: float = 0.1
    clip_norm: float = 1.0
    image_tower: bool = True
    text_tower: bool = True
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Tempered-sigmoid binary cross entropy.

    Attributes:
        tau: Temperature of the sigmoid, at the start where it is learnt.
        learn_tau: Learn the temperature.
        bias: ``none``: 0. ``prior``: start so that the first predictions equal the labels'
            prevalence, then learn. ``learnt``: start at 0, then learn.
    """

    tau: float = 0.07
    learn_tau: bool = True
    bias: Literal["none", "learnt", "prior"] = "prior"


@dataclass(frozen=True, kw_only=True)
class LabelledManifestConfig:
    """A manifest with labels.

    Attributes:
        path: A Parquet file or a folder of them.
        image_id: Column of the image's key.
        uri: Column of the image's place. Default: ``uri`` where there is one.
        content: Column of the image's bytes. Default: ``content`` where there is one.
        labels: Column with the label ids, array<string>.
        unknown: Column with label ids nobody checked, array<string>. Default: ``unknown`` where
            there is one.
        split: Column with ``train``, ``validation`` or ``test``.
    """

    path: str
    image_id: str = "image_id"
    uri: str | None = None
    content: str | None = None
    labels: str = "labels"
    unknown: str | None = None
    split: str = "split"


@dataclass(frozen=True, kw_only=True)
class TrainModelConfig:
    """Train MuMIC on a labelled manifest and write a bundle.

    Attributes:
        manifest: Images with labels.
        taxonomy: The taxonomy file (YAML).
        bundle: Folder to write the bundle to. It must not exist yet.
        towers: Where the training starts.
        optimizer: How the weights move.
        loss: What is minimised.
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        device: Where to train.
        augment: Random crops and flips.
        log: Logs and progress.
        summary: File for the summary, beside the last line of stdout.
    """

    manifest: LabelledManifestConfig
    taxonomy: str
    bundle: str
    towers: TowersConfig = field(default_factory=TowersConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    device: Device = "auto"
    augment: bool = True
    log: LogConfig = field(default_factory=LogConfig)
    summary: str | None = None
