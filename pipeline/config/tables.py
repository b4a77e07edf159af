"""What the jobs over the tables are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.sections import (
    AuditConfig,
    CostConfig,
    DecodeConfig,
    FetchConfig,
    LeaseConfig,
    LogConfig,
    ManifestConfig,
    ModelConfig,
    PaceConfig,
    RetryConfig,
    StageConfig,
    TablesConfig,
)


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
        audit: What may be published without being looked at.
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
    audit: AuditConfig = field(default_factory=AuditConfig)
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
class BackfillCatalogConfig:
    """Bring a catalogue to one bundle with the least work, in runs that are published one by one.

    Images of another model are tagged, those of only another taxonomy are scored again from their
    stored embeddings, the rest is left alone. Started again with its backfill_id it goes on.

    Attributes:
        tables: Where the tables are.
        model: The bundle to bring the catalogue to.
        manifest: The whole catalogue. Default: what the tables know; then images are fetched from
            the stored uri, where nothing was cut from it.
        fetch: How image bytes are fetched.
        decode: How bytes become pixels.
        stage: How results are staged.
        retry: When failures are tried again.
        audit: What may be published without being looked at.
        lease: How long to wait for another job that publishes.
        pace: How fast it goes, and when.
        cost: What a device hour costs.
        log: Logs and progress.
        publish_every: Chunks of a run. Each run is audited and published by itself.
        backfill_id: Name of the backfill. The same name again resumes it. Default: made from the
            versions of model and taxonomy, so that the same command goes on.
        as_of: The moment of the catalogue the manifest speaks for, as for tag_nightly.
        dry_run: Say what would be done, how long and at what cost; write nothing.
        limit: Do at most so many images now.
        ids: Only these image ids.
        summary: File (local path or URI) for the summary, beside the last line of stdout.
    """

    tables: TablesConfig
    model: ModelConfig
    manifest: ManifestConfig | None = None
    fetch: FetchConfig = field(default_factory=FetchConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    pace: PaceConfig = field(default_factory=PaceConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    log: LogConfig = field(default_factory=LogConfig)
    publish_every: int = 10
    backfill_id: str | None = None
    as_of: str | None = None
    dry_run: bool = False
    limit: int | None = None
    ids: tuple[str, ...] = ()
    summary: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishRunConfig:
    """Look at a run that the audit held, publish it or discard it.

    Attributes:
        tables: Where the tables are.
        run_id: The run.
        action: ``show``: what the audit saw, nothing changes. ``publish``: publish it all the
            same. ``discard``: give it up; what it staged is never used. ``abandon``: give up a run
            whose publishing was cut off and cannot be finished, and put the tables back to before
            it.
        report: Folder for a picture of the labels that drift, with sample images.
        samples: Images of a label in the picture.
        fetch: How sample images are fetched.
        decode: How they are decoded.
        lease: How long to wait for another job that publishes.
        log: Logs and progress.
        summary: File (local path or URI) for the summary, beside the last line of stdout.
    """

    tables: TablesConfig
    run_id: str
    action: Literal["show", "publish", "discard", "abandon"] = "show"
    report: str | None = None
    samples: int = 8
    fetch: FetchConfig = field(default_factory=FetchConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    log: LogConfig = field(default_factory=LogConfig)
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
class MaintainTablesConfig:
    """Create, migrate and tidy up the tables: small files, old facts, old versions.

    Attributes:
        tables: Where the tables are.
        lease: How long to wait for a job that publishes.
        log: Logs and progress.
        migrate: Create the tables that are missing and bring those of an older product to this
            one's schema version.
        retain: Delete what nobody needs any more of the staged facts, see ``keep_facts_days``, and
            what was staged of erased images.
        keep_facts_days: Days since the last change of a run that was published, discarded or
            failed, after which its staged facts are deleted. Younger ones spare a model call where
            another run asks the same. Never deleted: those of runs that may still be published,
            and of the latest published run of each job.
        optimize: Bring small files together.
        cluster: Sort ``images``, ``image_tags`` and ``image_embeddings`` anew for queries by image,
            label and day, where they changed since. Writes these tables whole: once a week will do.
        vacuum: Delete the files of versions older than ``retention_h``.
        retention_h: Hours for which old versions, and readers that began with one, go on working.
            An erased image is in old versions until then.
        assume_idle: Allow a ``retention_h`` below 168. Nothing may use the tables then: files of
            runs that stage and of queries that read are deleted under their hands.
        dry_run: Say what would be done; write nothing.
        summary: File (local path or URI) for the summary, beside the last line of stdout.
    """

    tables: TablesConfig
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    log: LogConfig = field(default_factory=LogConfig)
    migrate: bool = True
    retain: bool = True
    keep_facts_days: float = 30.0
    optimize: bool = True
    cluster: bool = True
    vacuum: bool = True
    retention_h: float = 168.0
    assume_idle: bool = False
    dry_run: bool = False
    summary: str | None = None


@dataclass(frozen=True, kw_only=True)
class EraseImagesConfig:
    """Remove images from every table for good.

    Attributes:
        tables: Where the tables are.
        lease: How long to wait for a job that publishes.
        log: Logs and progress.
        ids: The images. One of ``ids`` and ``ids_file`` is needed.
        ids_file: A text file with one id a line, or Parquet with a column image_id.
        as_of: The moment of the erasure (ISO 8601; UTC without an offset). Default: now.
        allow_again: Do the opposite: forget that these images were erased, so that a later manifest
            may bring them back. Nothing of what was erased returns.
        retention_h: The ``retention_h`` that maintain_tables vacuums with, to say when history is
            gone.
        dry_run: Say what would be done; write nothing.
        summary: File (local path or URI) for the summary, beside the last line of stdout.
    """

    tables: TablesConfig
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    log: LogConfig = field(default_factory=LogConfig)
    ids: tuple[str, ...] = ()
    ids_file: str | None = None
    as_of: str | None = None
    allow_again: bool = False
    retention_h: float = 168.0
    dry_run: bool = False
    summary: str | None = None
