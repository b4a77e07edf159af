"""Training in several processes that Spark starts: on GPU executors, or all on one machine.

Spark knows where the GPUs are and its TorchDistributor starts torchrun there; the training room
knows neither. Each process decodes a share of the images and runs the same training; process 0
writes. On executors the processes are children of Spark's workers and import the product
themselves, which ``--py-files`` alone does not give them: it must be installed there, or on the
PYTHONPATH of executors (``spark.executorEnv.PYTHONPATH``). Manifest,
images, checkpoint and bundle must be where all of them can read, and process 0 can write.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import SparkSession

import pipeline.errors
from pipeline.config import TrainModelConfig
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.logs import configure_logging

# A process tells an expected error in a line of its own: all that comes back is its output.
_TOLD = "train_model told:"


def launch_training(spark: SparkSession, config: TrainModelConfig) -> Mapping[str, object]:
    """Train as configured, in ``distribution.processes`` processes.

    Args:
        spark: Starts them: for ``executors`` a cluster with a task slot (and GPU) for each.
        config: The job's.

    Returns:
        The summary of process 0.

    Raises:
        PipelineError: What a process raised, or Spark cannot start so many.
    """
    count, on_driver = config.distribution.processes, config.distribution.place == "driver"
    use_gpu = config.device == "cuda" or (config.device == "auto" and _has_gpus(spark, on_driver))
    try:
        distributor = TorchDistributor(count, local_mode=on_driver, use_gpu=use_gpu)
    except RuntimeError as error:
        raise ConfigurationError(
            "Spark cannot start the processes", where="distribution", got=error
        ) from error
    if distributor.num_processes != count:
        raise ConfigurationError(
            "there are fewer GPUs than processes",
            where="distribution.processes",
            expected=f"at most {distributor.num_processes}",
            got=count,
        )
    told = replace(config, device="cuda" if use_gpu else "cpu")
    listener = _Listener()
    try:
        with _importable(), contextlib.redirect_stdout(listener):
            summary = distributor.run(train_in_process, told)
    except Exception as error:
        expected = _find_told(listener.told)
        if expected is None:
            raise
        raise expected from error
    return cast("dict[str, Any]", summary)


def train_in_process(config: TrainModelConfig) -> dict[str, Any]:
    """What each process does; torchrun has told it in the environment which one it is."""
    from pipeline.training.launch import run_training  # noqa: PLC0415  (torch)
    from pipeline.training.processes import told_index  # noqa: PLC0415
    from pipeline.training.recording import JOB  # noqa: PLC0415

    # A bar would arrive as one endless line; the log has lines instead. One process tells.
    level = config.log.level if told_index() == 0 else "ERROR"
    log = replace(config.log, progress=False, level=level)
    configure_logging(log, job=JOB)
    try:
        return run_training(replace(config, log=log))
    except PipelineError as error:
        told = {"kind": type(error).__name__, "message": str(error)}
        sys.stderr.write(f"{_TOLD} {json.dumps(told)}\n")
        sys.stderr.flush()
        raise


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Let children on this machine import the product from where this process has it."""
    before = os.environ.get("PYTHONPATH")
    own = str(Path(pipeline.errors.__file__).parents[1])
    os.environ["PYTHONPATH"] = own if before is None else os.pathsep.join([own, before])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class _Listener(io.TextIOBase):
    """Sends the processes' output on to stderr, and keeps the error that one of them told.

    Spark prints it on stdout, where only the summary belongs, and its own error says nothing.
    """

    told = ""

    def write(self, text: str) -> int:
        if _TOLD in text:
            self.told = text
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _find_told(output: str) -> PipelineError | None:
    """The expected error in the output of processes, as the error it was."""
    found = re.search(rf"{re.escape(_TOLD)} (\{{.*\}})", output)
    if found is None:
        return None
    told = json.loads(found[1])
    kind: type[PipelineError] = getattr(pipeline.errors, told["kind"], PipelineError)
    return kind(told["message"])


def _has_gpus(spark: SparkSession, on_driver: bool) -> bool:
    key = "spark.driver.resource.gpu.amount" if on_driver else "spark.task.resource.gpu.amount"
    return float(spark.conf.get(key, "0") or "0") >= 1
