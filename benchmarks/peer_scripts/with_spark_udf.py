"""MLflow's ``spark_udf``, as its documentation of batch inference has it.

The model is an MLflow model of the Python flavour, saved beforehand by ``save_spark_udf.py``; its
preprocessing lies with it. It takes a column of paths, so that no image passes between Spark and
Python, and cuts what it gets into batches of the model. Two tasks at a time, a thread each.
"""

from __future__ import annotations

import mlflow
from pyspark.sql import SparkSession
from pyspark.sql.functions import struct
from tower import read_arguments

TASKS = 6


def main() -> None:
    """Manifest in, rows out."""
    asked = read_arguments("model")
    spark = SparkSession.builder.master("local[2]").getOrCreate()
    embed = mlflow.pyfunc.spark_udf(
        spark, asked.model, result_type="array<float>", params={"times": asked.times}
    )
    images = spark.read.parquet(asked.manifest).select("image_id", "uri").repartition(TASKS)
    embedded = images.select("image_id", embed(struct("uri")).alias("embedding"))
    embedded.write.parquet(asked.output)
    spark.stop()


if __name__ == "__main__":
    main()
