"""GPU scheduling without a GPU: executors are told made-up addresses, tasks ask for what they got.

``local-cluster`` runs real executor processes, and only they have resources. It cannot share the
other tests' JVM, so the test runs this very file in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyspark
from pyspark import TaskContext
from pyspark.sql import SparkSession

from pipeline.config import ModelConfig
from udfs import worker
from udfs.settings import TaggerSettings

ROOT = Path(__file__).parents[2]
ADDRESSES = ("3", "GPU-5f2a", "7")

DISCOVERY = """#!/bin/sh
# Both executors of a local cluster run on one machine: each takes the next address.
n=$(cd "$(dirname "$0")" && mkdir -p taken && ls taken | wc -l)
while ! mkdir "$(dirname "$0")/taken/$n" 2>/dev/null; do n=$((n + 1)); done
set -- {addresses}
shift $n
echo "{{\\"name\\": \\"gpu\\", \\"addresses\\": [\\"$1\\"]}}"
"""


def ask(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """In each task: what it was given, and for which device its worker loads the model."""
    for _ in batches:
        before = set(worker._engines)
        engine = worker.get_engine(SETTINGS, choose=name_device, load=FakeEngine)
        time.sleep(0.5)  # long enough for the other executor to take its share
        context = TaskContext.get()
        assert context is not None
        yield pd.DataFrame(
            {
                "given": ",".join(context.resources()["gpu"].addresses),
                "used": engine.device,
                "loads": len(set(worker._engines) - before),
                "worker": os.getpid(),
                "cores": worker.task_cores(),
            },
            index=[0],
        )


def name_device(device: str, addresses: Sequence[str]) -> str:
    """Stands for torch, which knows no such GPUs."""
    return f"{device}:{','.join(addresses)}"


SETTINGS = TaggerSettings(
    model=ModelConfig(uri="/bundle", device="cuda"), model_version="m", taxonomy_version="t"
)


class FakeEngine:
    """Remembers for which device it was loaded."""

    def __init__(self, settings: TaggerSettings, device: str) -> None:
        self.device = device
        self.predictor = self
        self.model_version, self.taxonomy_version = "m", "t"


def run_cluster(folder: Path) -> list[dict[str, object]]:
    """Two executors of one core and one made-up GPU each, eight tasks."""
    script = folder / "discover.sh"
    script.write_text(DISCOVERY.format(addresses=" ".join(ADDRESSES)))
    script.chmod(0o755)
    settings = {
        "spark.master": "local-cluster[2,1,1024]",
        "spark.executor.memory": "512m",
        "spark.ui.enabled": "false",
        "spark.local.dir": str(folder),
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": str(script),
        "spark.executor.resource.gpu.amount": "1",
        "spark.task.resource.gpu.amount": "1",
        # wait for both executors, or the first takes all tasks
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.appName("gpus")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    schema = "given string, used string, loads int, worker int, cores int"
    rows = spark.range(0, 8, 1, 8).mapInPandas(ask, schema).collect()
    spark.stop()
    return [row.asDict() for row in rows]


def test_each_task_asks_for_the_device_it_was_given(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "SPARK" not in name}

    found = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={
            **environment,
            "SPARK_HOME": str(Path(pyspark.__file__).parent),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            # JVMs that live for seconds
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC "
            + os.environ.get("SPARK_SUBMIT_OPTS", ""),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 0, found.stderr[-3000:]
    tasks = json.loads(found.stdout.splitlines()[-1])
    given = {task["given"] for task in tasks}
    assert len(tasks) == 8
    assert len(given) == 2
    assert given <= set(ADDRESSES)
    assert [task["used"] for task in tasks] == [f"cuda:{task['given']}" for task in tasks]
    assert {task["cores"] for task in tasks} == {1}
    # a worker process loads with its first task only
    loads = Counter({task["worker"]: 0 for task in tasks})
    for task in tasks:
        loads[task["worker"]] += task["loads"]
    assert set(loads.values()) == {1}


if __name__ == "__main__":
    print(json.dumps(run_cluster(Path(sys.argv[1]))))  # noqa: T201
