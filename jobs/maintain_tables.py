"""Create, migrate and tidy up the tables: small files, old facts, old versions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pipeline.cli import run_job
from pipeline.config import MaintainTablesConfig
from pipeline.spark import open_session
from pipeline.tables.maintain import Maintenance, validate_retention

JOB = "maintain_tables"


def maintain_tables(config: MaintainTablesConfig) -> Mapping[str, object]:
    """The job. What is wrong with the command line is told before Spark starts."""
    validate_retention(config)
    spark = open_session(f"mumic {JOB}")
    return Maintenance(spark=spark, config=config, now=datetime.now(UTC)).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit code."""
    return run_job(JOB, MaintainTablesConfig, maintain_tables, argv)


if __name__ == "__main__":
    sys.exit(main())
