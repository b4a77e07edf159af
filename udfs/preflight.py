"""One row for each task slot before the run: is every executor what the driver thinks it is?

Other libraries make other pixels and other vectors, silently. A missing GPU, a bundle that differs
or an interpreter without our libraries is one line here instead of a trace in the middle of a run.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.types import MapType, StringType, StructField, StructType

import pipeline
import pipeline.errors
from pipeline.errors import PipelineError, PreflightError
from pipeline.few_rows import few_rows
from pipeline.spark import explain, parallelism
from udfs.settings import TaggerSettings
from udfs.worker import get_engine

if TYPE_CHECKING:
    from pipeline.models.engine import Engine

log = logging.getLogger(__name__)

_LIBRARIES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "pillow",
    "pyarrow",
    "pandas",
    "numpy",
)

_REPORT = StructType(
    [
        StructField("host", StringType()),
        StructField("device", StringType()),
        StructField("versions", MapType(StringType(), StringType())),
        StructField("error_kind", StringType()),
        StructField("error", StringType()),
    ]
)


@dataclass(frozen=True)
class Slot:
    """A task slot as it reported itself.

    Attributes:
        host: The machine.
        device: In torch's words.
    """

    host: str
    device: str


def read_versions() -> dict[str, str]:
    """Versions of all that changes results, in this process."""
    major, minor, _ = platform.python_version_tuple()
    versions = {"python": f"{major}.{minor}", "mumic-spark": pipeline.__version__}
    for library in _LIBRARIES:
        try:
            # without the local part: a driver may hold torch's CPU build (2.14.1+cpu)
            versions[library] = importlib.metadata.version(library).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "missing"
    return versions


def run_preflight(
    spark: SparkSession,
    settings: TaggerSettings,
    *,
    engine_of: Callable[[TaggerSettings], Engine] = get_engine,
    versions_of: Callable[[], dict[str, str]] = read_versions,
) -> list[Slot]:
    """Load the model in every task slot and compare what runs there with the driver.

    Workers are reused: what is loaded here is not loaded again by the run that follows at once.

    Args:
        spark: The session.
        settings: What will run.
        engine_of: Where workers get their engine; tests put a fake here.
        versions_of: What workers say of themselves; tests put a fake here.

    Returns:
        The slots that answered.

    Raises:
        PreflightError: Executors differ from the driver, or cannot run our code.
        DeviceError: A GPU was asked for and an executor has none.
        BundleError: The bundle on an executor is not the driver's.
    """

    def report(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for _ in batches:
            row = {"host": socket.gethostname(), "versions": versions_of()}
            try:
                row["device"] = str(engine_of(settings).predictor.device)
            except Exception as error:  # noqa: BLE001  told by the driver, with the host's name
                row["error_kind"], row["error"] = type(error).__name__, str(error)
            yield pd.DataFrame([row], columns=_REPORT.names, dtype=object)

    n_slots = parallelism(spark)
    rows = spark.range(0, n_slots, 1, n_slots).mapInPandas(report, _REPORT)
    try:
        with few_rows(spark):
            reports = rows.collect()
    except PySparkException as error:
        raise _cannot_run(error) from error
    expected = read_versions()
    for one in reports:
        _validate_versions(one["host"], one["versions"], expected)
        if one["error_kind"] is not None:
            raise _remote_error(one["host"], one["error_kind"], one["error"])
    slots = [Slot(one["host"], one["device"]) for one in reports]
    log.info("preflight: %d slots answer: %s", len(slots), describe_slots(slots))
    return slots


def describe_slots(slots: list[Slot]) -> str:
    """Slots in a few words: how many of which device on which host."""
    counted = {slot: slots.count(slot) for slot in slots}
    return ", ".join(f"{n} x {slot.device} on {slot.host}" for slot, n in counted.items())


def _validate_versions(host: str, found: dict[str, str], expected: dict[str, str]) -> None:
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        raise PreflightError(
            "an executor runs other versions than the driver",
            where=host,
            expected=", ".join(f"{name} {expected[name]}" for name in differing),
            got=", ".join(f"{name} {found.get(name)}" for name in differing),
            todo="install the same requirements.lock on every machine",
        )


def _remote_error(host: str, kind: str, message: str) -> PipelineError:
    known = getattr(pipeline.errors, kind, None)
    if isinstance(known, type) and issubclass(known, PipelineError):
        return known(f"{message} (on {host})")
    return PreflightError("the model cannot be loaded", where=host, got=f"{kind}: {message}")


def _cannot_run(error: PySparkException) -> PipelineError:
    """Our code did not even start: told from Spark's text."""
    known = explain(error)
    if known is not None:
        return known
    text = str(error)
    if missing := re.search(r"ModuleNotFoundError: No module named '([^']+)'", text):
        return PreflightError(
            "executors cannot import what they need",
            where=missing[1],
            todo="ship the product with --py-files, and set spark.pyspark.python to an "
            "environment made from requirements.lock",
        )
    if "PYTHON_VERSION_MISMATCH" in text:
        return PreflightError(
            "executors run another Python than the driver",
            expected=platform.python_version(),
            todo="set PYSPARK_PYTHON, or spark.pyspark.python, to the same interpreter",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return PreflightError("executors cannot run Python code", got=lines[-1] if lines else error)
