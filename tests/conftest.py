"""What all tests share: one lazy Spark session, and the skipping of tests that need a GPU.

Nothing here imports pyspark or torch before a test asks for it: ``tests/unit`` needs neither Java
nor a second of waiting.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One Spark session with Delta for the whole run; starts with the first test that asks."""
    # Workers would otherwise run whatever python3 is first on PATH, without our libraries.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    # Some other Spark on this machine is not the one that is tested.
    os.environ.pop("SPARK_HOME", None)
    # Machines whose own name does not resolve, or resolves to a network that filters, work too.
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"

    # Where Spark's workers find the process they are forked from.
    os.environ["PYTHONPATH"] = str(ROOT / "tests" / "fakes")

    from delta import configure_spark_with_delta_pip
    from pyspark.sql import SparkSession

    from pipeline.spark import LAPTOP_SETTINGS

    folder = tmp_path_factory.mktemp("spark")
    settings = {
        # Two tasks at a time is the least that shows what parallel tasks break.
        "spark.master": "local[2]",
        # 1g is short for a session that lives for hundreds of tests.
        "spark.driver.memory": "2g",
        # Each worker process would import torch for itself.
        "spark.python.daemon.module": "preloaded_daemon",
        # A web server nobody looks at.
        "spark.ui.enabled": "false",
        # Hundreds of queries over a few rows: what counts is how soon code runs, not how fast.
        # The JVM compiles to the end only what is hottest, collects garbage seldom and with one
        # thread, ...
        "spark.driver.extraJavaOptions": (
            "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000"
            " -XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000"
            " -XX:+UseSerialGC -Xmn600m"
        ),
        # ... plans are interpreted instead of compiled, ...
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        # ... and are not planned again between their stages.
        "spark.sql.adaptive.enabled": "false",
        # As in production: nobody looks up which line of Python built a column.
        "spark.python.sql.dataFrameDebugging.enabled": "false",
        # Delta: its SQL, and its tables in the catalog.
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        # Tables of a few rows: 200 shuffle partitions would be all there is to wait for,
        "spark.sql.shuffle.partitions": "2",
        # and so would the 50 partitions Delta reads its log with.
        "spark.databricks.delta.snapshotPartitions": "1",
        # As in production: Delta's jars only, ...
        "spark.jars.excludes": LAPTOP_SETTINGS["spark.jars.excludes"],
        # ... and times are UTC wherever the test runs.
        "spark.sql.session.timeZone": "UTC",
        # Small batches, so that tests of a few rows see more than one.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "8",
        # A hung Python worker fails its test instead of the whole run ...
        "spark.sql.execution.pyspark.udf.idleTimeoutSeconds": "120",
        # ... by being killed,
        "spark.sql.execution.pyspark.udf.killOnIdleTimeout": "true",
        # and one that crashes says where.
        "spark.sql.execution.pyspark.udf.faulthandler.enabled": "true",
        # Nothing is left in the working folder.
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        # The same, for shuffles and spilled blocks.
        "spark.local.dir": str(folder / "local"),
        # The progress bar would run through pytest's lines.
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.appName("tests")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = configure_spark_with_delta_pip(builder).getOrCreate()
    # Failures on purpose (a killed worker, a conflict) would fill the report with Java traces.
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Jobs that tests run in this process set up logging for a process of their own."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if type(handler).__name__ == "StderrHandler" and handler not in handlers:
            root.removeHandler(handler)
    logging.captureWarnings(capture=False)


@pytest.fixture(scope="session")
def tiny_models() -> ModuleType:
    """``tests/unit/tiny_models.py``, for the tests that stand in other folders."""
    path = ROOT / "tests" / "unit" / "tiny_models.py"
    spec = importlib.util.spec_from_file_location("tiny_models_of_unit_tests", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_bundle(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle of a tiny model. Tests that change it copy it first."""
    path: Path = tiny_models.make_bundle(tmp_path_factory.mktemp("model")).path
    return path


@pytest.fixture(scope="session")
def tiny_cma_bundle(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``tiny_bundle``, of a model that reads images and texts."""
    path: Path = tiny_models.make_cma_bundle(tmp_path_factory.mktemp("cma-model")).path
    return path


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store of MLflow in a SQLite file. Tests copy it: making one takes seconds."""
    from pipeline.config import TrackingConfig
    from pipeline.registry.connection import DATABASE_NAME, connect

    folder = tmp_path_factory.mktemp("mlflow")
    connect(TrackingConfig(uri=f"sqlite:///{folder / DATABASE_NAME}"))
    return folder / DATABASE_NAME


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what ``make build`` makes: wheel, sdist, and the zip for ``--py-files``.

    Built from a copy: a build writes into the tree it builds from.
    """
    folder = tmp_path_factory.mktemp("distribution")
    ignored = shutil.ignore_patterns(
        ".git", ".fuzz", ".uv", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info",
        "build", "dist", "demo-output", "spark-warehouse", "artifacts",
    )  # fmt: skip
    shutil.copytree(ROOT, folder / "tree", ignore=ignored)
    built = subprocess.run(
        [folder / "tree" / "scripts" / "build.sh", folder / "dist"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder / "dist"


@cache
def gpu() -> str | None:
    """What NVIDIA's driver says its GPUs are; None where there is none."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What stands in ``tests/chaos`` is chaos."""
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "chaos"):
            item.add_marker("chaos")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``gpu`` where there is none; ``-ra`` shows the reason."""
    if item.get_closest_marker("gpu") and gpu() is None:
        pytest.skip("needs an NVIDIA GPU; nvidia-smi names none on this machine")
