"""What the jobs are told about MLflow, and what register_model is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.sections import DecodeConfig, Device, FetchConfig, LogConfig, Precision


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where MLflow keeps runs and models. Nothing else of MLflow's is ever called.

    Attributes:
        enabled: Keep a run of the job: settings, curves, figures, files. register_model needs it.
        uri: A tracking server (``https://...``) or a database (``sqlite:///path/mlflow.db``,
            ``postgresql://...``). Default: ``MLFLOW_TRACKING_URI``, else, for jobs that write an
            output, ``mlflow.db`` beside it.
        experiment: The experiment that runs go to; made where it is missing.
        artifacts: Folder or URI for the files of an experiment that is made. Default: a server's
            own; with SQLite ``mlflow-artifacts`` beside the database. Other databases need it.
        run_name: Name of the run. Default: made up by MLflow.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "mumic"
    artifacts: str | None = None
    run_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How a model is run where it is compared, and how the registered one runs by default.

    Attributes:
        device: ``auto`` takes the first GPU, else the CPU. ``cuda`` refuses to run without one.
        precision: Arithmetic of the image tower. Scores are always float32. ``bf16`` and ``fp16``
            are for GPUs, ``int8`` for CPUs.
        scaled_decoding: Decode JPEGs at the smallest DCT scale that covers the model's input.
        batch_size: Images per forward pass.
        threads: Torch threads on a CPU. Default: as torch chooses.
        cache_dir: Where bundles from elsewhere are kept. Default: a folder in the system's temp
            folder.
    """

    device: Device = "auto"
    precision: Precision = "fp32"
    scaled_decoding: bool = True
    batch_size: int = 32
    threads: int | None = None
    cache_dir: str | None = None


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The images that two models are compared on, with labels or without.

    Attributes:
        path: A Parquet file or a folder of them.
        image_id: Column of the image's key.
        uri: Column of the image's place. Default: ``uri`` where there is one.
        content: Column of the image's bytes. Default: ``content`` where there is one.
        text: Column of what stands beside the image, for CMA-CLIP. Default: ``text`` where there is
            one.
        labels: Column with the ids of the labels that hold, array<string>. Default: ``labels``
            where there is one; without it nobody knows what the images show.
        unknown: Column with label ids nobody checked, array<string>. Default: ``unknown`` where
            there is one.
        split: Column with ``train``, ``validation`` or ``test``. Default: ``split`` where there is
            one; without it every image may be taken.
        use: Which split is taken.
        images: Images taken at most, the same ones each time.
    """

    path: str
    image_id: str = "image_id"
    uri: str | None = None
    content: str | None = None
    text: str | None = None
    labels: str | None = None
    unknown: str | None = None
    split: str | None = None
    use: Literal["train", "validation", "test"] = "test"
    images: int = 2000


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What a candidate may look like beside the champion. Beyond a limit it is refused.

    A loss counts where it is more than chance: the whole bootstrap interval (95 %) is a loss.

    Attributes:
        min_images: Images of the sample, read by both, below which nothing can be said.
        min_agreement: Tags that both publish, of those that either does.
        max_labels_gone: Labels the candidate does not have, of the champion's.
        min_gap: GAP of the candidate. Only with labels.
        max_gap_loss: GAP that is lost. Only with labels.
        max_label_loss: Average precision that any one label loses. Only with labels.
        min_label_positives: Images that show a label below which its loss is not judged.
        max_rate_change: Change of the share of images that have a label, of the greater of the
            two shares. 0.5: half as many, or twice. Only without labels.
        min_label_images: Images that either model tags with a label below which its rate is not
            judged.
        min_speed: Speed of the candidate, of the champion's.
    """

    min_images: int = 100
    min_agreement: float = 0.5
    max_labels_gone: float = 0.2
    min_gap: float = 0.0
    max_gap_loss: float = 0.02
    max_label_loss: float = 0.2
    min_label_positives: int = 20
    max_rate_change: float = 0.5
    min_label_images: int = 50
    min_speed: float = 0.5


@dataclass(frozen=True, kw_only=True)
class RegisterModelConfig:
    """Compare a candidate with the champion, register it, and move the alias; or move it back.

    Attributes:
        name: Of the registered model.
        alias: What production asks for: ``models:/NAME@ALIAS``.
        candidate: A bundle: a folder, a URI, or ``models:/NAME/VERSION``. With ``rollback``: the
            version to go back to.
        taxonomy: A taxonomy file (YAML): the candidate is the champion with this one instead of
            its own. The model_version stays, so stored embeddings are scored again.
        rollback: Let the alias stand for the version before. Compares nothing.
        sample: What they are compared on. Not needed while there is no champion.
        limits: What refuses a candidate.
        inference: How models are run.
        tracking: Where the registry is.
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        resamples: Of the bootstrap intervals.
        details: File (local path or URI) for the comparison label by label, as CSV.
        dry_run: Compare, and change nothing.
        log: Logs and progress.
        summary: File (local path or URI) for the summary, beside the last line of stdout.
    """

    name: str = "mumic"
    alias: str = "champion"
    candidate: str | None = None
    taxonomy: str | None = None
    rollback: bool = False
    sample: SampleConfig | None = None
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    resamples: int = 500
    details: str | None = None
    dry_run: bool = False
    log: LogConfig = field(default_factory=LogConfig)
    summary: str | None = None
