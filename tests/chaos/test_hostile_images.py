"""Images that crash, hang and fill their decoder, under a Spark that tries no task again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_images import assert_hostile_images_cost_themselves_alone
from pyspark.sql import SparkSession


@pytest.mark.fault("images that crash, hang and fill their decoder, where no task is retried")
@pytest.mark.timeout(1800)  # all bombs twice; two minutes on an idle machine
def test_hostile_images_cost_themselves_alone_where_spark_retries_nothing(
    spark: SparkSession, tmp_path: Path, tiny_bundle: Path
) -> None:
    assert_hostile_images_cost_themselves_alone(spark, tiny_bundle, tmp_path, times=2)
