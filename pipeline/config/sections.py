"""The sections of a configuration that jobs share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import ConfigurationError

FloatPrecision = Literal["fp32", "bf16", "fp16"]
Precision = Literal[FloatPrecision, "int8"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class TablesConfig:
    """Where the tables are: in a folder, or in a schema of a catalog.

    Attributes:
        location: Folder of the table set, a local path or any URI Spark can write (s3a://, gs://,
            abfss://, hdfs://). Each table is one folder in it.
        schema: Schema of a catalog that Spark knows, such as ``tagging`` or ``main.tagging``; it
            must exist. Each table is one of its tables. Where both are given, the schema counts.
    """

    location: str | None = None
    schema: str | None = None

    def __post_init__(self) -> None:
        if self.location is None and self.schema is None:
            raise ConfigurationError(
                "it is not said where the tables are",
                expected="tables.location (a folder) or tables.schema (a schema of a catalog)",
            )


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
        complete: The manifest names every image of the feed: count those it does not name.
        retire_missing: Delete images of the feed that the manifest does not name. Not with a limit
            or listed ids. The audit limits how many.
    """

    path: str
    format: Literal["auto", "parquet", "delta"] = "auto"
    source: str = "default"
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    complete: bool = False
    retire_missing: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model and how it runs.

    Bundle, precision and scaled decoding make the model_version.

    Attributes:
        uri: The bundle: a folder every executor can read, or any URI pyarrow can read (it is then
            copied once to ``cache_dir`` of each machine).
        device: ``auto`` takes the GPU Spark assigned to the task, else the first GPU, else the CPU.
            ``cuda`` refuses to run without one.
        precision: Arithmetic of the image tower. Scores are always float32. ``bf16`` and ``fp16``
            are for GPUs, ``int8`` for CPUs: faster there, and slightly different.
        scaled_decoding: Decode JPEGs at the smallest DCT scale that covers the model's input.
            Faster; embeddings differ slightly from a full decode.
        batch_size: Images per forward pass.
        threads: Torch threads of one worker on a CPU. Default: the task's cores.
        cache_dir: Where remote bundles are kept. Default: a folder in the system's temp folder.
        tag_without_image: Where an image cannot be read, tag it by its text, if the model reads
            texts and the row has one. Its tags have the source ``text``; it keeps its failure.
        remember_images: Images whose results each executor keeps in its local folder while it runs:
            an image with the same bytes as one of them is neither decoded nor encoded. Of 512
            floats and a hundred labels 3 kB each. 0: none, nor is what the tables know of an
            image's bytes made use of; within a batch the same bytes are encoded once all the same.
    """

    uri: str
    device: Device = "auto"
    precision: Precision = "fp32"
    scaled_decoding: bool = True
    batch_size: int = 32
    threads: int | None = None
    cache_dir: str | None = None
    tag_without_image: bool = False
    remember_images: int = 200_000


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
        max_bytes: Larger files become failures, also where the manifest holds their bytes.
        allowed_roots: Folders and URI prefixes that files may come from. Empty: anywhere.
        allowed_hosts: Host names for http and https; ``*.example.com`` takes subdomains, ``*``
            any. Empty: no http at all.
        allowed_networks: Networks that allowed hosts may lead to beside public addresses, as
            ``10.0.0.0/8``. Empty: no private, loopback or link-local address is dialled, unless
            ``allowed_hosts`` names the address itself.
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
    allowed_networks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How bytes become pixels.

    Attributes:
        threads: Decoders of one worker. Default: the task's cores.
        max_pixels: Images with more pixels become failures before they are decoded.
        prefetch_images: Decoded images that may wait for the model in one worker.
        cage: Decode in processes beside the worker, which an image may crash, hang or fill: it
            costs that image a failure, and the worker keeps its model.
        timeout_s: Seconds for one image in the cage.
        memory_mb: Memory for one image in the cage, beside what the idle decoder has, in MiB.
    """

    threads: int | None = None
    max_pixels: int = 150_000_000
    prefetch_images: int = 128
    cage: bool = True
    timeout_s: float = 10.0
    memory_mb: int = 3072


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
class AuditConfig:
    """What a run may look like to be published by itself. Beyond a limit it is held, exit code 3.

    Attributes:
        min_images: Images below which nothing is judged.
        max_failed_share: Failed images, of all that were tried.
        max_untagged_share: Images without a tag, of all that were tagged.
        max_removed_share: Images to be deleted, of those of the feed that stand.
        min_label_images: Images with a label below which the label is not judged.
        max_rate_change: Change of the share of images that have a label, of the greater of the
            shares before and now. 0.5: half as many, or twice.
        max_score_change: Change of the mean score of a label where images have it.
    """

    min_images: int = 200
    max_failed_share: float = 0.2
    max_untagged_share: float = 0.5
    max_removed_share: float = 0.2
    min_label_images: int = 50
    max_rate_change: float = 0.5
    max_score_change: float = 0.2


@dataclass(frozen=True, kw_only=True)
class PaceConfig:
    """How fast a backfill goes, and when.

    Attributes:
        rows_per_s: Images per second at most, on average over a minute. Default: as fast as it
            goes.
        window: Hours of the day in which it works, UTC, such as ``22:00-06:00``. At their end it
            publishes what is staged and stops; outside of them it does nothing. Default: always.
    """

    rows_per_s: float | None = None
    window: str | None = None


@dataclass(frozen=True, kw_only=True)
class LeaseConfig:
    """The lease of the tables: one job at a time publishes.

    Attributes:
        wait_s: Seconds to wait for a job that publishes to the same tables before giving up.
        expiry_s: Seconds after which a job that was killed, or cannot reach the storage, no longer
            counts as publishing. Its lease is renewed three times as often. Only in object stores:
            on a file system the lease ends with the process.
    """

    wait_s: float = 600.0
    expiry_s: float = 300.0


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
