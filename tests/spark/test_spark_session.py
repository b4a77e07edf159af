"""The session a job works in. What needs no JVM is tested without one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession
from session_settings import COMPILED

from pipeline.errors import BundleError, ConfigurationError, PipelineError
from pipeline.few_rows import few_rows
from pipeline.spark import (
    DELTA_SETTINGS,
    LAPTOP_SETTINGS,
    explain,
    open_session,
    parallelism,
    temporary_settings,
    validate_delta,
    validate_java,
)

ROOT = Path(__file__).parents[2]


def test_a_session_that_is_there_is_taken_and_keeps_its_settings(spark: SparkSession) -> None:
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    batch = spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch")

    opened = open_session("another name")

    assert opened.sparkContext is spark.sparkContext
    assert opened.conf.get("spark.sql.session.timeZone") == "UTC"
    assert opened.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch") == batch


def test_what_safety_rests_on_is_set_where_nobody_set_it(spark: SparkSession) -> None:
    key = "spark.databricks.delta.commit.idempotencyCheck.enabled"
    spark.conf.unset(key)

    assert open_session("tests").conf.get(key) == "true"


def test_plans_over_few_rows_are_interpreted_and_no_others(spark: SparkSession) -> None:
    def seen() -> dict[str, str | None]:
        return {name: spark.conf.get(name, None) for name in COMPILED}

    with temporary_settings(spark, COMPILED):
        with few_rows(spark), few_rows(spark):
            assert not seen().items() & COMPILED.items()
        assert seen() == COMPILED
        with few_rows(spark, are_few=False):
            assert seen() == COMPILED
        with suppress(ValueError), few_rows(spark):
            raise ValueError
        assert seen() == COMPILED
        spark.conf.unset("spark.sql.codegen.factoryMode")
        before = seen()
        with few_rows(spark):
            pass
        assert seen() == before


def test_plain_python_runs_with_the_settings_of_laptop_conf() -> None:
    lines = (ROOT / "conf" / "spark" / "laptop.conf").read_text().splitlines()
    settings = dict(line.split() for line in lines if line and not line.startswith("#"))

    jar = settings.pop("spark.jars.packages")  # plain Python adds it by delta's own means

    assert settings == LAPTOP_SETTINGS
    assert jar.startswith("io.delta:delta-spark_4.2_2.13:")


class Settings(dict[str, Any]):
    """A session's or a context's settings."""


def fake_session(settings: dict[str, Any], cores: int = 8) -> Any:
    conf = Settings(settings)
    context = SimpleNamespace(defaultParallelism=cores, getConf=lambda: conf)
    return SimpleNamespace(conf=conf, sparkContext=context)


def test_a_session_without_delta_is_told_which_lines_to_add() -> None:
    spark = fake_session({"spark.sql.extensions": "org.example.Other"})

    with pytest.raises(ConfigurationError, match="Spark runs without Delta") as caught:
        validate_delta(spark)

    for key, value in DELTA_SETTINGS.items():
        assert f"--conf {key}={value}" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "slots"),
    [
        ({}, 8),
        ({"spark.task.cpus": "3"}, 2),
        ({"spark.task.cpus": "16"}, 1),
        # 2 executors of 4 cores with a GPU each
        ({"spark.executor.cores": "4", "spark.task.resource.gpu.amount": "1"}, 2),
        # half a GPU for a task
        ({"spark.executor.cores": "4", "spark.task.resource.gpu.amount": "0.5"}, 4),
        (
            {
                "spark.executor.cores": "8",
                "spark.executor.resource.gpu.amount": "4",
                "spark.task.resource.gpu.amount": "1",
                "spark.task.cpus": "2",
            },
            4,
        ),
    ],
)
def test_slots_are_limited_by_cores_and_by_gpus(settings: dict[str, str], slots: int) -> None:
    assert parallelism(fake_session(settings)) == slots


def test_slots_of_a_local_session_are_its_cores(spark: SparkSession) -> None:
    assert parallelism(spark) == 2


def test_java_is_found_on_the_path_or_in_java_home(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.touch(mode=0o755)

    validate_java({"PATH": str(java.parent)})
    validate_java({"PATH": "", "JAVA_HOME": str(tmp_path)})


def test_a_missing_java_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="install it, for instance with: apt-get"):
        validate_java({"PATH": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="where JAVA_HOME points"):
        validate_java({"PATH": str(tmp_path), "JAVA_HOME": str(tmp_path)})


REMOTE = """Job aborted due to stage failure: Task 0 in stage 1.0 failed 1 times
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/opt/udfs/worker.py", line 90, in get_engine
    raise BundleError("a file was changed")
pipeline.errors.BundleError: a file was changed [weights: all]; expected a; got b

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException
"""


def test_an_expected_error_is_read_from_sparks_text() -> None:
    known = explain(RuntimeError(REMOTE))

    assert type(known) is BundleError
    assert str(known) == "a file was changed [weights: all]; expected a; got b"


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: wrong",
        "pipeline.errors.NoSuchError: x",
        "said pipeline.errors.annotations: x",
        "no pipeline.errors.BundleError here",
    ],
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert explain(RuntimeError(text)) is None


def test_every_expected_error_survives_the_way_through_spark() -> None:
    def kinds(of: type[PipelineError]) -> list[type[PipelineError]]:
        return [of, *(kind for below in of.__subclasses__() for kind in kinds(below))]

    for kind in kinds(PipelineError):
        if kind.__module__ == "pipeline.errors":
            known = explain(RuntimeError(f"x\n{kind.__module__}.{kind.__name__}: what\n\tat y"))
            assert type(known) is kind
