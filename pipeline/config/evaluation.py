"""What the job that evaluates models is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.registry import TrackingConfig
from pipeline.config.sections import DecodeConfig, FetchConfig, LogConfig, ModelConfig
from pipeline.config.training import LabelledManifestConfig


@dataclass(frozen=True, kw_only=True)
class FiguresConfig:
    """What is measured.

    Attributes:
        majority_positives: Positives in the evaluated split from which on a label is one of the
            majority labels.
        precision: Recall is told at a threshold of this precision.
        calibration_bins: Bins of equal mass of the calibration error.
        resamples: Bootstrap resamples of the images.
        confidence: Share of the resamples within an interval.
        seed: Of the resamples.
    """

    majority_positives: int = 50
    precision: float = 0.9
    calibration_bins: int = 15
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How thresholds are chosen, on the validation images alone.

    Attributes:
        goal: ``precision``: most recall at the precision. ``f1``: best F1.
        precision: What a label's tags should reach, for the goal ``precision``.
        prior_positives: A label with so many positives trusts its own validation images half, and
            the curve pooled over labels half. 0: its own alone.
        least: No threshold is lower. A taxonomy with one below ``stage.score_floor`` cannot tag.
    """

    goal: Literal["precision", "f1"] = "precision"
    precision: float = 0.9
    prior_positives: float = 10.0
    least: float = 0.01


@dataclass(frozen=True, kw_only=True)
class LabelErrorsConfig:
    """The table of probably wrong labels.

    Attributes:
        splits: Whose labels are looked at; embeddings of all of them are made. Empty: no table.
        folds: Parts of the cross-validation.
        max_rows: Rows of the table at most.
        seed: Of the folds.
    """

    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation")
    folds: int = 5
    max_rows: int = 100_000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report shows.

    Attributes:
        mistakes: Worst mistakes shown with pictures.
        label_errors: Probable label errors shown with pictures.
        pairs: Pairs of labels in the tables of confusions and of labels that stand together.
        thumbnail_pixels: Longer side of a picture.
        explanations: Images explained by the attention between words and patches, for models that
            read both; those named in ``explained`` first, then those of the worst mistakes.
        explained: Ids of images to explain.
    """

    mistakes: int = 36
    label_errors: int = 60
    pairs: int = 20
    thumbnail_pixels: int = 160
    explanations: int = 12
    explained: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The noise protocol, for models that read images and texts.

    Attributes:
        enabled: Run it.
        rates: Shares of the images whose text or picture is spoilt, each 0 to 1.
        images: Images of the evaluated split it takes at most; each is predicted five times.
        seed: Of the choice of images, and of what they get instead.
    """

    enabled: bool = True
    rates: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    images: int = 500
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class EvaluateModelConfig:
    """Evaluate a bundle on a labelled manifest; with ``calibrate``, choose its thresholds first.

    Attributes:
        manifest: Images with labels.
        model: The bundle and how it runs.
        output: Folder for metrics.json, report.html and label_errors.parquet; made where it is
            missing, files of an earlier evaluation are replaced.
        split: Which images the figures are of.
        calibrate: Folder to write the bundle with calibrated thresholds to; it must not exist. The
            figures are then those of the new thresholds. Default: thresholds stay as they are.
        unseen_labels: Ids of labels that the training left out, for zero-shot figures. Default:
            those that the bundle does not remember from its training.
        figures: What is measured.
        calibration: How thresholds are chosen.
        label_errors: The table of probably wrong labels.
        noise: What becomes of the figures when texts or pictures are spoilt.
        report: What the report shows.
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        tracking: Where MLflow keeps a run of it.
        log: Logs and progress.
        summary: File for the summary, beside the last line of stdout.
    """

    manifest: LabelledManifestConfig
    model: ModelConfig
    output: str
    split: Literal["train", "validation", "test"] = "test"
    calibrate: str | None = None
    unseen_labels: tuple[str, ...] | None = None
    figures: FiguresConfig = field(default_factory=FiguresConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    label_errors: LabelErrorsConfig = field(default_factory=LabelErrorsConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    log: LogConfig = field(default_factory=LogConfig)
    summary: str | None = None
