"""The Spark session of a job: opened, checked, measured, and its errors told in our words.

Under spark-submit all settings are Spark's own (``conf/spark/*.conf``, ``--conf``). Under plain
Python (console commands, tests) the session is a laptop's, with Delta's jar from Maven Central.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from delta import configure_spark_with_delta_pip
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkRuntimeError
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

import pipeline.errors
from pipeline.errors import ConfigurationError, PipelineError

log = logging.getLogger(__name__)

DELTA_SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}

DELTA_NEEDS_SPARK_HAS = (
    "org.apache.hadoop:hadoop-client-api",
    "org.apache.hadoop:hadoop-client-runtime",
    "org.apache.parquet:*",
    "com.fasterxml.jackson.core:*",
    "org.apache.logging.log4j:*",
    "org.slf4j:*",
    "com.github.luben:*",
    "org.xerial.snappy:*",
)

HIDDEN_SETTINGS = (
    "(?i)secret|passw|token|access[.]?key|account[.]?key|private[.]?key|credential|signature"
)

# The same as conf/spark/laptop.conf, which says why (a test compares them).
LAPTOP_SETTINGS = {
    "spark.master": "local[*,3]",
    "spark.driver.memory": "4g",
    **DELTA_SETTINGS,
    "spark.jars.excludes": ",".join(DELTA_NEEDS_SPARK_HAS),
    "spark.databricks.delta.commit.idempotencyCheck.enabled": "true",
    "spark.redaction.regex": HIDDEN_SETTINGS,
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.codegen.hugeMethodLimit": "8000",
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
    "spark.sql.maxConcurrentOutputFileWriters": "4",
    "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold": "16m",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "16m",
    "spark.sql.adaptive.coalescePartitions.initialPartitionNum": "32",
    "spark.sql.shuffle.partitions": "8",
    "spark.databricks.delta.snapshotPartitions": "4",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "128",
    "spark.sql.execution.pyspark.udf.idleTimeoutSeconds": "1800",
    "spark.sql.execution.pyspark.udf.killOnIdleTimeout": "true",
    "spark.sql.execution.pyspark.udf.faulthandler.enabled": "true",
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.python.worker.reuse": "true",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "WARN",
}

_DISKS = (
    "look at the disks of spark.local.dir and spark.eventLog.dir first: they must exist, be "
    "writable, and have space left"
)

# What results, safety and speed rest on is set where the user's settings say nothing.
_DEFAULTS_AT_RUN_TIME = (
    # A commit whose answer was lost is recognised as our own instead of made twice.
    "spark.databricks.delta.commit.idempotencyCheck.enabled",
    # Rows flow in small batches, so that the idle timeout means something.
    "spark.sql.execution.arrow.maxRecordsPerBatch",
    "spark.sql.execution.pyspark.udf.idleTimeoutSeconds",
    "spark.sql.execution.pyspark.udf.killOnIdleTimeout",
    # The JVM never compiles methods above 8,000 bytes, and Spark writes larger ones for rows as
    # wide as ours: in two smaller parts they run two to three times as fast.
    "spark.sql.codegen.hugeMethodLimit",
    # What is kept is read once or twice: packing it takes longer than it saves.
    "spark.sql.inMemoryColumnarStorage.compressed",
    # A MERGE writes rows and the change feed side by side, instead of sorting them apart first.
    "spark.sql.maxConcurrentOutputFileWriters",
    # Large sides whose parts fit in memory are hashed instead of sorted.
    "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes",
)


def open_session(app_name: str) -> SparkSession:
    """The session to work in.

    Args:
        app_name: Name shown in Spark's own pages.

    Raises:
        ConfigurationError: No Java, a JVM that does not start, or Delta not configured.
        PipelineError: Spark does not start in its JVM.
    """
    builder = SparkSession.builder.appName(app_name)
    if not _has_session() and not _under_spark_submit():
        validate_java(os.environ)
        # Workers started as "python3" would be another interpreter with other libraries.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        for key, value in LAPTOP_SETTINGS.items():
            builder = builder.config(key, value)
        builder = configure_spark_with_delta_pip(builder)
    try:
        spark: SparkSession = builder.getOrCreate()
    except PySparkRuntimeError as error:
        raise ConfigurationError(
            "Spark's Java process did not start",
            got=str(error),
            todo="see its own message above; Spark 4.2 needs Java 17 or newer, and Delta's jar "
            "comes from Maven Central at the first start",
        ) from error
    except Py4JJavaError as error:
        causes = [line[2:] for line in str(error).splitlines() if line.startswith(": ")]
        got = causes[0] if causes else str(error)
        raise PipelineError(
            "Spark did not start", got=got, todo=_DISKS if "IOException" in got else None
        ) from error
    # PySpark would tell every error of a query on stderr as well, as JSON, beside our one line.
    PySparkLogger.getLogger("SQLQueryContextLogger").setLevel("CRITICAL")
    validate_delta(spark)
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    for key in _DEFAULTS_AT_RUN_TIME:
        if spark.conf.get(key, None) is None:
            spark.conf.set(key, LAPTOP_SETTINGS[key])
    log.info("the Spark session is up: %s on %s", spark.version, spark.sparkContext.master)
    return spark


@contextmanager
def temporary_settings(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Settings of the session while a block runs; afterwards those of before.

    For one thread of a session at a time.
    """
    before = {name: spark.conf.get(name, None) for name in settings}
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, was in before.items():
            if was is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, was)


def validate_java(environment: Mapping[str, str]) -> None:
    """Refuse to go on without Java.

    Args:
        environment: The process environment: JAVA_HOME and PATH count.

    Raises:
        ConfigurationError: There is none.
    """
    home = environment.get("JAVA_HOME")
    if home:
        if Path(home, "bin", "java").exists():
            return
        raise ConfigurationError(
            "there is no Java where JAVA_HOME points",
            where=home,
            todo="correct it, or unset it to use the java on the PATH",
        )
    if shutil.which("java", path=environment.get("PATH")) is None:
        raise ConfigurationError(
            "Java was not found",
            expected="Java 17 or newer on the PATH or in JAVA_HOME",
            todo="install it, for instance with: apt-get install openjdk-17-jre-headless",
        )


def validate_delta(spark: SparkSession) -> None:
    """Refuse a session that cannot read and write Delta tables.

    Raises:
        ConfigurationError: With the lines to add.
    """
    missing = [
        f"--conf {key}={value}"
        for key, value in DELTA_SETTINGS.items()
        if value not in str(spark.conf.get(key, ""))
    ]
    if missing:
        raise ConfigurationError(
            "Spark runs without Delta", todo="add to spark-submit: " + " ".join(missing)
        )
    try:
        spark.read.format("delta").load("/")
    except AnalysisException as error:
        if error.getCondition() == "DATA_SOURCE_NOT_FOUND":
            raise ConfigurationError(
                "Delta's jar is not on Spark's class path",
                todo="add to spark-submit: --packages io.delta:delta-spark_4.2_2.13:4.4.0",
            ) from error


def parallelism(spark: SparkSession) -> int:
    """Tasks that can run at a time: by cores, and by GPUs where tasks ask for them.

    On a cluster it counts the executors that have registered; call it after a first job.
    """
    context = spark.sparkContext
    settings = context.getConf()
    cores = context.defaultParallelism
    slots = cores // int(settings.get("spark.task.cpus", "1"))
    gpus_of_task = float(settings.get("spark.task.resource.gpu.amount", "0"))
    cores_of_executor = int(settings.get("spark.executor.cores", "0"))
    if gpus_of_task > 0 and cores_of_executor > 0:
        gpus_of_executor = float(settings.get("spark.executor.resource.gpu.amount", "1"))
        executors = max(1, cores // cores_of_executor)
        slots = min(slots, executors * math.floor(gpus_of_executor / gpus_of_task + 1e-9))
    return max(1, slots)


def explain(error: BaseException) -> PipelineError | None:
    """The expected error that Python code on an executor raised, if Spark's error carries one.

    Spark delivers it as text: a Java exception whose message holds the remote traceback.
    """
    found = _REMOTE_ERROR.findall(str(error))
    for name, message in reversed(found):
        kind = getattr(pipeline.errors, name, None)
        if isinstance(kind, type) and issubclass(kind, PipelineError):
            return kind(message)
    return None


_REMOTE_ERROR = re.compile(r"^(?:.*: )?pipeline\.errors\.(\w+): (.+)$", re.MULTILINE)


def _has_session() -> bool:
    return SparkSession.getActiveSession() is not None


def _under_spark_submit() -> bool:
    # Spark's Python runner hands the address of its JVM over in this variable.
    return "PYSPARK_GATEWAY_PORT" in os.environ
