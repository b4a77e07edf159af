"""What the jobs that make models are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.cma_clip import CmaClipConfig
from pipeline.config.cma_training import CmaTrainingConfig
from pipeline.config.registry import TrackingConfig
from pipeline.config.sections import (
    DecodeConfig,
    Device,
    FetchConfig,
    FloatPrecision,
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
        batch_size: Images per step, over all processes.
        micro_batch_size: Images that go through the towers at once, in one process; gradients of
            a step are added up over them. Default: all of the step's.
        learning_rate: Peak rate of AdamW, after the warm-up, before the cosine.
        image_learning_rate: Peak rate of the image tower. Default: ``learning_rate``.
        text_learning_rate: Peak rate of the text tower. Default: ``learning_rate``.
        head_learning_rate: Peak rate of all that is no tower: MuMIC's temperature, bias and
            linear head, CMA-CLIP's attentions and heads. Default: ``learning_rate``.
        weight_decay: Of AdamW, on matrices only.
        warmup: Share of the steps with a rising rate.
        clip_norm: Largest norm of the gradient.
        ema_decay: Share of the averaged weights that a step keeps; the averaged ones are validated
            and kept. 0: none are averaged.
        patience: Epochs without a better validation GAP after which the training stops. Default:
            it never does.
        interpolation: Share of the trained weights in those that are kept; the rest comes from the
            weights the training started with, which keeps zero-shot ability. 1: trained ones only.
        precision: Arithmetic of the towers; weights stay float32. Less than fp32 is for GPUs.
        image_tower: Train the image tower.
        text_tower: Train the text tower.
        seed: Of everything random in the training.
    """

    epochs: int = 10
    batch_size: int = 64
    micro_batch_size: int | None = None
    learning_rate: float = 1e-4
    image_learning_rate: float | None = None
    text_learning_rate: float | None = None
    head_learning_rate: float | None = None
    weight_decay: float = 0.1
    warmup: float = 0.1
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    patience: int | None = None
    interpolation: float = 1.0
    precision: FloatPrecision = "fp32"
    image_tower: bool = True
    text_tower: bool = True
    seed: int = 0


LossKind = Literal["tempered_sigmoid", "plain_bce", "linear_head", "asymmetric", "softmax"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised.

    Attributes:
        kind: ``tempered_sigmoid``: binary cross entropy of sigmoid(cosine / tau + bias).
            ``plain_bce``: the same at tau 1 without bias. ``asymmetric``: the asymmetric loss of
            the same logits. ``softmax``: cross entropy of softmax(cosine / tau) over the labels.
            ``linear_head``: binary cross entropy of a linear layer on the image tower, for
            comparison: it knows its own labels only, so a bundle cannot hold it.
        tau: Temperature, at the start where it is learnt; ``plain_bce`` and ``linear_head`` have
            none.
        learn_tau: Learn the temperature.
        bias: ``none``: 0. ``prior``: start so that the first predictions equal the labels'
            prevalence, then learn. ``learnt``: start at 0, then learn. A linear head has one for
            each label; ``plain_bce`` has none, and a softmax would not notice it.
        gamma_negative: Asymmetric loss: how much less easy negatives weigh.
        gamma_positive: Asymmetric loss: how much less easy positives weigh.
        margin: Asymmetric loss: a negative of a smaller probability costs nothing.
    """

    kind: LossKind = "tempered_sigmoid"
    tau: float = 0.07
    learn_tau: bool = True
    bias: Literal["none", "learnt", "prior"] = "prior"
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    margin: float = 0.05


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Where a training that was cut off goes on from.

    Attributes:
        folder: A local folder; with several processes one that all of them see. A finished
            training leaves nothing in it. Default: a training that is cut off starts again.
        every_s: Least seconds between two checkpoints within an epoch; each epoch ends with one.
    """

    folder: str | None = None
    every_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class DistributionConfig:
    """How many processes train together.

    Attributes:
        processes: 1 starts no Spark. More are started by Spark, each with a share of the images.
        place: ``executors``: one for each task of a Spark cluster. ``driver``: all on this machine.
    """

    processes: int = 1
    place: Literal["executors", "driver"] = "executors"


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
        text: Column of what stands beside the image (a title), for CMA-CLIP. Default: ``text``
            where there is one.
        attributes: Column with the label of each single_label task, map<string,string> from task
            id to label id; a task that is missing was not checked. Default: ``attributes`` where
            there is one.
        split: Column with ``train``, ``validation`` or ``test``.
        group: Column of what images belong to (a product, a hotel), string or integer: a group is
            never torn apart by a split. Read where it is named, or instead of a split column that
            is not there. Default: ``group`` then.
        validation_share: Share of the groups that become the validation split.
        test_share: Share of the groups that become the test split.
    """

    path: str
    image_id: str = "image_id"
    uri: str | None = None
    content: str | None = None
    labels: str = "labels"
    unknown: str | None = None
    text: str | None = None
    attributes: str | None = None
    split: str = "split"
    group: str | None = None
    validation_share: float = 0.1
    test_share: float = 0.1


@dataclass(frozen=True, kw_only=True)
class SuspectsConfig:
    """Labels of training and validation images that are left out since they are probably wrong.

    Attributes:
        table: label_errors.parquet of an evaluate_model; labels it is confident about count as
            ones nobody checked. Default: none is left out.
        kinds: ``wrong``: labels that were given and should not be; ``missing``: the others.
    """

    table: str | None = None
    kinds: tuple[Literal["wrong", "missing"], ...] = ("wrong", "missing")


@dataclass(frozen=True, kw_only=True)
class TrainModelConfig:
    """Train a model on a labelled manifest and write a bundle.

    Attributes:
        kind: ``mumic``: images alone, scored against label texts. ``cma_clip``: images and texts
            together, several tasks; it knows the labels it was trained on only.
        manifest: Images with labels.
        taxonomy: The taxonomy file (YAML).
        bundle: Folder to write the bundle to. It must not exist yet.
        suspects: Labels that are left out.
        towers: Where the training starts.
        optimizer: How the weights move.
        loss: What is minimised, with MuMIC.
        cma_clip: Parts of CMA-CLIP beside its towers.
        cma_training: How CMA-CLIP learns its tasks.
        checkpoint: Where a training that was cut off goes on from.
        distribution: How many processes train together.
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        device: Where to train.
        augment: Random crops and flips.
        tracking: Where MLflow keeps a run of it.
        log: Logs and progress.
        summary: File for the summary, beside the last line of stdout.
    """

    manifest: LabelledManifestConfig
    taxonomy: str
    bundle: str
    suspects: SuspectsConfig = field(default_factory=SuspectsConfig)
    kind: Literal["mumic", "cma_clip"] = "mumic"
    towers: TowersConfig = field(default_factory=TowersConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    cma_clip: CmaClipConfig = field(default_factory=CmaClipConfig)
    cma_training: CmaTrainingConfig = field(default_factory=CmaTrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    distribution: DistributionConfig = field(default_factory=DistributionConfig)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    device: Device = "auto"
    augment: bool = True
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    log: LogConfig = field(default_factory=LogConfig)
    summary: str | None = None
