"""The configuration of every job: names, types, defaults and their meaning, in one place.

The command line, the YAML files, ``--help`` and the errors for unknown keys are made from these
dataclasses by :mod:`pipeline.cli`. Nothing here reads a file or the environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class TablesConfig:
    """Where the tables are.

    Attributes:
        location: Folder of the table set, a local path or any URI Spark can write (s3a://, gs://,
            abfss://, hdfs://). Each table is one folder in it.
    """

    location: str


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig:
    """Names of the manifest's columns. A column that is named here must exist.

    Attributes:
        image_id: The key of an image, string or integer.
        uri: Where the image is. Default: the column ``uri`` where there is one.
        content: The image's bytes. Default: the column ``content`` where there is one.
        version: What changes when the image changes (etag, update time). Default: the column
            ``version`` where there is one; without it the uri or the content decides.
        deleted: True where the image left the catalogue. Default: the column ``deleted`` where
            there is one.
        text: Title or description for models that read text. Not used unless named; then a
            changed text is a changed image.
    """

    image_id: str = "image_id"
    uri: str | None = None
    content: str | None = None
    version: str | None = None
    deleted: str | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class ManifestConfig:
    """The manifest of images.

    Attributes:
        path: A Parquet file, a folder or glob of them, or a Delta table.
        format: ``auto`` takes Delta where the folder holds a ``_delta_log``, else Parquet.
        source: Name of the feed, kept with every image.
        columns: Names of its columns.
    """

    path: str
    format: Literal["auto", "parquet", "delta"] = "auto"
    source: str = "default"
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model and how it runs. All but device, batch size and threads is part of model_version.

    Attributes:
        uri: The bundle: a folder every executor can read, or any URI pyarrow can read (it is then
            copied once to ``cache_dir`` of each machine).
        device: ``auto`` takes the GPU Spark assigned to the task, else the first GPU, else the CPU.
            ``cuda`` refuses to run without one.
        precision: Arithmetic of the image tower. Scores are always float32.
        scaled_decoding: Decode JPEGs at the smallest DCT scale that covers the model's input.
            Faster; embeddings differ slightly from a full decode.
        batch_size: Images per forward pass.
        threads: Torch threads of one worker on a CPU. Default: the task's cores.
        cache_dir: Where remote bundles are kept. Default: a folder in the system's temp folder.
    """

    uri: str
    device: Device = "auto"
    precision: Precision = "fp32"
    scaled_decoding: bool = True
    batch_size: int = 32
    threads: int | None = None
    cache_dir: str | None = None


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """How image bytes are fetched.

    Attributes:
        threads: Fetches in flight in one worker.
        connect_timeout_s: Seconds until a connection must stand.
        read_timeout_s: Seconds between two pieces of an answer.
        total_timeout_s: Seconds for one attempt as a whole.
        attempts: Tries in all for failures that may pass.
        backoff_s: Pause before the second attempt; doubled for each further one, with jitter.
        max_bytes: Larger files become failures.
        allowed_roots: Folders and URI prefixes that files may come from. Empty: anywhere.
        allowed_hosts: Host names for http and https; ``*.example.com`` takes subdomains, ``*``
            any. Empty: no http at all.
    """

    threads: int = 16
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 15.0
    total_timeout_s: float = 60.0
    attempts: int = 3
    backoff_s: float = 0.5
    max_bytes: int = 64 * 1024 * 1024
    allowed_roots: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How bytes become pixels.

    Attributes:
        threads: Decoders of one worker. Default: the task's cores.
        max_pixels: Images with more pixels become failures before they are decoded.
        prefetch_images: Decoded images that may wait for the model in one worker.
    """

    threads: int | None = None
    max_pixels: int = 150_000_000
    prefetch_images: int = 128


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How tagged images reach ``tagging_results``.

    Attributes:
        chunk_rows: Images per commit. A killed run loses at most the chunk it was in.
        partition_rows: Images per Spark task, about. Fewer where cores would idle.
        score_floor: Scores below it are not staged. No threshold may lie below it.
    """

    chunk_rows: int = 50_000
    partition_rows: int = 2_000
    score_floor: float = 0.01


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """When failures that may pass are tried again.

    Attributes:
        distance_h: Hours (of ``as_of``) between the first failure and the next try.
        factor: The distance grows by it with every further failure.
        max_attempts: Failures in a row after which only a new version or ``--force`` helps.
    """

    distance_h: float = 20.0
    factor: float = 2.0
    max_attempts: int = 8


@dataclass(frozen=True, kw_only=True)
class LeaseConfig:
    """The lease of the tables: one job at a time publishes.

    Attributes:
        wait_s: Seconds to wait for a job that publishes to the same tables before giving up.
    """

    wait_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    """What a run costs. Used for the estimate of ``--dry_run`` and the ``cost`` of a summary.

    Attributes:
        device_hour: Price of one hour of one task slot (a GPU, or a core), in your currency.
        images_per_s: Expected speed of one slot, for ``--dry_run`` on tables without history.
    """

    device_hour: float = 0.0
    images_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Logs and progress, both on stderr.

    Attributes:
        level: Least severe level that is written.
        format: ``text`` for people, ``json`` for one JSON object a line.
        progress: Show progress with images/s and time left.
    """

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["text", "json"] = "text"
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class TagNightlyConfig:
    """Tag what is new or changed in a manifest, and failures that are due for a retry.

    Attributes:
        tables: Where the tables are.
        manifest: What to tag.
        model: What to tag with.
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        stage: How results are staged.
        retry: When failures are tried again.
        lease: How long to wait for another job that publishes.
        cost: What a device hour costs.
        log: Logs and progress.
        as_of: The moment of the catalogue the manifest speaks for (ISO 8601; UTC without an
            offset). Give the scheduler's logical date. Default: commit time of a Delta manifest,
            else the newest file's time.
        run_id: Name of the run. The same name again resumes it. Default: made from job and time.
        dry_run: Check everything, say what would be tagged, how long and at what cost; write
            nothing.
        limit: Tag at most so many images.
        force: Tag again what is published or staged already. With ``ids`` only those.
        ids: Only these image ids.
        summary: File (local path or URI) for the summary, beside the last line of stdout.
    """

    tables: TablesConfig
    manifest: ManifestConfig
    model: ModelConfig
    fetch: FetchConfig = field(default_factory=FetchConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    log: LogConfig = field(default_factory=LogConfig)
    as_of: str | None = None
    run_id: str | None = None
    dry_run: bool = False
    limit: int | None = None
    force: bool = False
    ids: tuple[str, ...] = ()
    summary: str | None = None


@dataclass(frozen=True, kw_only=True)
class QueryTagsConfig:
    """Run SQL over the tables, with the model's functions registered.

    Attributes:
        tables: Where the tables are.
        sql: The statement. One of ``sql`` and ``file`` is needed.
        file: A file with the statement.
        model: Bundle for ``tag_image``, ``embed_image``, ``embed_text`` and ``zero_shot_score``.
            Without it only ``cosine_similarity`` is registered.
        fetch: How image bytes are fetched by ``tag_image`` and ``embed_image``.
        decode: How bytes become pixels.
        format: How rows are printed.
        max_rows: Rows printed at most.
        log: Logs and progress.
    """

    tables: TablesConfig
    sql: str | None = None
    file: str | None = None
    model: ModelConfig | None = None
    fetch: FetchConfig = field(default_factory=FetchConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    format: Literal["table", "csv", "json"] = "table"
    max_rows: int = 1000
    log: LogConfig = field(default_factory=LogConfig)


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
