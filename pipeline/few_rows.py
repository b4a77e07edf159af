"""Plans over few rows, which take longer to compile than to run: Spark interprets them.

The first plans of a job are compiled by a JVM that is cold itself, a third of a second each. Over
some megabytes of rows an interpreter is through before. The answers are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from pyspark.sql import SparkSession

from pipeline.spark import temporary_settings

FEW_ROWS = 50_000
FEW_BYTES = 32 * 1024 * 1024

_INTERPRETED: Mapping[str, str] = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
}


def few_rows(spark: SparkSession, *, are_few: bool = True) -> AbstractContextManager[None]:
    """Interpret the plans that run while a block does, if they read few rows.

    Settings are those of the session: nothing else may run in it meanwhile.
    """
    return temporary_settings(spark, _INTERPRETED if are_few else {})
