"""Plans over few rows, which take longer to compile than to run: Spark interprets them.

The first plans of a job are compiled by a JVM that is cold itself, a third of a second each. Over
some megabytes of rows an interpreter is through before. The answers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame, SparkSession

from pipeline.spark import temporary_settings

FEW_BYTES = 32 * 1024 * 1024

_INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
}


@contextmanager
def few_rows(spark: SparkSession, *sources: DataFrame) -> Iterator[None]:
    """Interpret the plans that run while the block does, where they read few rows.

    Settings are those of the session: nothing else may run in it meanwhile.

    Args:
        spark: The session.
        sources: What they read; none: it is known to be little.
    """
    if sum(_size_bytes(source) for source in sources) > FEW_BYTES:
        yield
        return
    with temporary_settings(spark, _INTERPRETED):
        yield


def _size_bytes(source: DataFrame) -> int:
    """What Spark takes a source to hold: of files, their size."""
    # The optimizer would have Delta look for files by their statistics first.
    plan = source._jdf.queryExecution().analyzed()
    return int(str(plan.stats().sizeInBytes()))
