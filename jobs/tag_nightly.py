"""Tag what is new or changed in a manifest, and failures that are due for a retry."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline.cli import run_job
from pipeline.config import TagNightlyConfig
from pipeline.redaction import redacted
from pipeline.spark import open_session, parallelism
from pipeline.tagging.estimate import estimate_run
from pipeline.tagging.progress import TaskProgress
from pipeline.tagging.request import RunRequest, Summary, make_run_id, parse_as_of
from pipeline.tagging.run import run_tagging
from udfs.preflight import run_preflight
from udfs.tagger import read_tagger

JOB = "tag_nightly"


def tag_nightly(config: TagNightlyConfig) -> Summary:
    """The job: check the model here and on executors, then run, or only estimate."""
    as_of = parse_as_of(config.as_of)
    run_id = make_run_id(JOB, config.run_id, now=datetime.now(UTC))
    settings, tagger = read_tagger(
        config.model, config.fetch, config.decode, score_floor=config.stage.score_floor
    )
    spark = open_session(f"mumic {JOB}")
    run_preflight(spark, settings)
    request = RunRequest(
        job=JOB,
        run_id=run_id,
        tables=config.tables,
        manifest=config.manifest,
        stage=config.stage,
        retry=config.retry,
        audit=config.audit,
        lease=config.lease,
        cost=config.cost,
        as_of=as_of,
        limit=config.limit,
        force=config.force,
        ids=config.ids,
        slots=parallelism(spark),
        config=json.dumps(redacted(config)),
    )
    if config.dry_run:
        return estimate_run(spark, request, tagger)
    progress = TaskProgress(spark, run_id) if config.log.progress else None
    return run_tagging(spark, request, tagger, progress=progress)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit code."""
    return run_job(JOB, TagNightlyConfig, tag_nightly, argv)


if __name__ == "__main__":
    sys.exit(main())
