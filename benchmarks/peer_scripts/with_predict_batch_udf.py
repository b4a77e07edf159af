"""Spark's ``predict_batch_udf``, as its reference has it.

The function that it asks for loads the model once for each Python worker and returns one that
takes batches; here of paths, so that no image passes between Spark and Python. Two tasks at a time,
a thread each; two to three tasks for each core, as Spark's guide to tuning says.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType
from tower import BATCH, read_arguments

TASKS = 6


def make_embed(bundle: str, times: str) -> Callable[[], Callable[[np.ndarray], np.ndarray]]:
    """The function that each worker calls once."""

    def load() -> Callable[[np.ndarray], np.ndarray]:
        from tower import Tower, working  # noqa: PLC0415 - in the worker

        tower = Tower(bundle)

        def predict(uris: np.ndarray) -> np.ndarray:
            with working(times, len(uris)):
                return tower.embed_files(list(uris))

        return predict

    return load


def main() -> None:
    """Manifest in, rows out."""
    asked = read_arguments()
    spark = SparkSession.builder.master("local[2]").getOrCreate()
    embed = predict_batch_udf(
        make_embed(asked.bundle, asked.times),
        return_type=ArrayType(FloatType()),
        batch_size=BATCH,
    )
    images = spark.read.parquet(asked.manifest).select("image_id", "uri").repartition(TASKS)
    embedded = images.select("image_id", embed("uri").alias("embedding"))
    embedded.write.parquet(asked.output)
    spark.stop()


if __name__ == "__main__":
    main()
