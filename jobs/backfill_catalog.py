"""Bring a catalogue to one bundle with the least work, in runs that are published one by one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline.cli import run_job
from pipeline.config import BackfillCatalogConfig
from pipeline.redaction import redacted
from pipeline.spark import open_session, parallelism
from pipeline.tagging.backfill import run_backfill
from pipeline.tagging.estimate import estimate_run
from pipeline.tagging.facts import Tagger
from pipeline.tagging.pace import BackfillPace
from pipeline.tagging.progress import TaskProgress
from pipeline.tagging.request import RunRequest, Summary, make_run_id, parse_as_of
from udfs.preflight import run_preflight
from udfs.tagger import read_tagger

JOB = "backfill_catalog"


def backfill_catalog(config: BackfillCatalogConfig) -> Summary:
    """The job: check the model here and on executors, then run after run, or only estimate."""
    as_of, now = parse_as_of(config.as_of), datetime.now(UTC)
    pace = BackfillPace(config.pace, now=lambda: datetime.now(UTC))
    settings, tagger = read_tagger(
        config.model, config.fetch, config.decode, score_floor=config.stage.score_floor
    )
    backfill_id = make_run_id(JOB, config.backfill_id or _name(tagger), now=now)
    spark = open_session(f"mumic {JOB}")
    run_preflight(spark, settings)
    request = RunRequest(
        job=JOB,
        run_id=backfill_id,
        tables=config.tables,
        manifest=config.manifest,
        selection="backfill",
        backfill_id=backfill_id,
        stage=config.stage,
        retry=config.retry,
        audit=config.audit,
        lease=config.lease,
        cost=config.cost,
        as_of=as_of,
        limit=config.limit,
        ids=config.ids,
        slots=parallelism(spark),
        config=json.dumps(redacted(config)),
    )
    if config.dry_run:
        return estimate_run(spark, request, tagger)
    return run_backfill(
        spark,
        request,
        tagger,
        publish_every=config.publish_every,
        pace=pace,
        progress=TaskProgress(spark, backfill_id) if config.log.progress else None,
    )


def _name(tagger: Tagger) -> str:
    """The same for the same target, so that the same command goes on where it was."""
    return f"backfill-{tagger.model_version[:12]}-{tagger.taxonomy.version[:12]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit code."""
    return run_job(JOB, BackfillCatalogConfig, backfill_catalog, argv)


if __name__ == "__main__":
    sys.exit(main())
