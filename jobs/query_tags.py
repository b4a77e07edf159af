"""Run SQL over the tables, with the model's functions registered."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import run_job
from pipeline.config import QueryTagsConfig
from pipeline.errors import ConfigurationError
from pipeline.query import register_tables, run_query, write_answer
from pipeline.spark import open_session
from pipeline.tables.store import open_tables
from udfs.functions import register_functions, uses_model

JOB = "query_tags"

log = logging.getLogger(__name__)


def query_tags(config: QueryTagsConfig) -> None:
    """The job. Rows go to stdout and nothing else does: there is no summary."""
    sql = read_statement(config)
    model = config.model if uses_model(sql) else None  # a bundle nobody asks is not read
    if uses_model(sql) and model is None:
        raise ConfigurationError("the statement needs a model", todo="give --model.uri")
    spark = open_session(f"mumic {JOB}")
    views = register_tables(open_tables(spark, config.tables), sql)
    log.info("tables and views: %s", ", ".join(views))
    register_functions(spark, model, config.fetch, config.decode)
    answer = run_query(spark, sql, max_rows=config.max_rows)
    write_answer(answer, sys.stdout, format=config.format)
    if answer.is_cut:
        log.warning("only the first %d rows: see --max_rows", config.max_rows)


def read_statement(config: QueryTagsConfig) -> str:
    """The statement, from the one place that names it.

    Raises:
        ConfigurationError: None or both of ``sql`` and ``file`` are given.
    """
    if (config.sql is None) == (config.file is None):
        raise ConfigurationError("give one statement", expected="one of --sql and --file")
    if config.sql is not None:
        return config.sql
    try:
        return Path(str(config.file)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "the statement cannot be read", where=config.file, got=error
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit code."""
    return run_job(JOB, QueryTagsConfig, query_tags, argv)


if __name__ == "__main__":
    sys.exit(main())
