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
