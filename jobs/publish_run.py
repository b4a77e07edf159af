"""Look at a run that the audit held; publish it, discard it, or abandon one that was cut off."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline.audit_sheet import draw_sheet, load_pictures, sheet_place
from pipeline.audit_text import write_audit
from pipeline.cli import run_job
from pipeline.config import PublishRunConfig
from pipeline.spark import open_session
from pipeline.storage import validate_writable, write_bytes
from pipeline.tables.store import open_tables
from pipeline.tagging.request import Summary, summarise_recorded
from pipeline.tagging.resolution import find_run, resolve_run
from pipeline.tagging.review import read_review

JOB = "publish_run"


def publish_run(config: PublishRunConfig) -> Summary:
    """The job. What the audit saw is shown, and drawn, before anything is done."""
    spark = open_session(f"mumic {JOB}")
    tables = open_tables(spark, config.tables)
    run = find_run(tables, config.run_id)
    if config.report is not None or config.action == "show":
        sheet = sheet_place(config.report, run.run_id) if config.report is not None else None
        if sheet is not None:
            validate_writable(sheet)
        review = read_review(tables, run, samples=config.samples if sheet is not None else 0)
        write_audit(review, sys.stdout)
        if sheet is not None:
            pictures = load_pictures(review.uris, config.fetch, config.decode)
            write_bytes(sheet, draw_sheet(review, pictures))
    if config.action != "show":
        run = resolve_run(
            tables, run, config.action, lease=config.lease, now=lambda: datetime.now(UTC)
        )
    return summarise_recorded(run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit code."""
    return run_job(JOB, PublishRunConfig, publish_run, argv)


if __name__ == "__main__":
    sys.exit(main())
