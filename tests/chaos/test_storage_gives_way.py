"""Full disks, torn commits, and tasks that Spark runs twice: one line, exit code 1, and on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from submitted import nightly, submitted

from jobs.tag_nightly import main

DISK_MB = 64
# Every second task runs twice where there are two executors: nothing is too quick for it.
SPECULATION = (
    "spark.speculation=true",
    "spark.speculation.interval=50ms",
    "spark.speculation.multiplier=1.01",
    "spark.speculation.quantile=0.1",
    "spark.speculation.minTaskRuntime=1ms",
    "spark.executor.memory=1g",
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_MB}m", "mumic-test", str(place)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, *, left_kb: int) -> Path:
    """A file that takes all space but a little."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left_kb * 1024)
    return ballast


def submit(
    distribution: Path, folder: Path, arguments: list[str], **options: Any
) -> tuple[int, str]:
    """Exit code, and what was written: spark-submit sends Python's stderr to stdout."""
    log = folder / "stderr.log"
    log.unlink(missing_ok=True)
    with submitted(distribution, folder, arguments, **options) as job:
        told, _ = job.communicate(timeout=400)
    return job.returncode, log.read_text() + told


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("what", "left_kb"),
    [
        pytest.param(what, left_kb, marks=pytest.mark.fault(f"disk full: {what}"))
        for what, left_kb in (
            *(("tables", left_kb) for left_kb in (4, 100, 300)),
            *(("local dir", left_kb) for left_kb in (2_000, 40_000)),
            ("event log", 30),
        )
    ],
)
def test_a_full_disk_costs_a_run_and_nothing_else(
    what: str,
    left_kb: int,
    *,
    disk: Path,
    distribution: Path,
    manifest: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    assert_promise_kept: Callable[[Path], None],
    record_property: Callable[[str, object], None],
) -> None:
    tables = (disk if what == "tables" else tmp_path) / "tables"
    events = (disk if what == "event log" else tmp_path) / "events"
    local = (disk if what == "local dir" else tmp_path) / "local"
    for folder in (events, local):
        folder.mkdir()
    arguments = nightly(tables, manifest, tiny_bundle)
    settings = ("spark.eventLog.enabled=true", f"spark.eventLog.dir=file://{events}")
    options: dict[str, Any] = {"settings": (*settings, f"spark.local.dir={local}")}
    ballast = fill(disk, left_kb=left_kb)
    code, log = submit(distribution, tmp_path, arguments, **options)
    assert code in (0, 1), log[-3000:]
    if what == "tables" or left_kb == 2_000:
        assert code == 1
        (told,) = (line for line in log.splitlines() if line.startswith("mumic-tag-nightly: error"))
        assert "No space left" in told
    # Spark says so where it goes on without: what it would have kept, it makes again.
    assert "No space left" in log, log[-3000:]
    record_property("outcome", f"exit code {code}, then 0 with space")
    ballast.unlink()
    code, log = submit(distribution, tmp_path, arguments, **options)
    assert code == 0, log[-3000:]
    assert_promise_kept(tables)


# Of the bytes of a commit. A line is cut by all but the first, which leaves nothing.
CUTS = {"to nothing": 0.0, "in its first line": 0.02, "in its middle": 0.5, "at its end": -3}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "table",
    [
        pytest.param(table, marks=pytest.mark.fault(f"the last commit of {table} is cut off"))
        for table in ("images", "image_tags", "tagging_runs")
    ],
)
def test_a_torn_commit_is_told_in_one_line(
    table: str,
    *,
    spark: SparkSession,
    manifest: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    assert_promise_kept: Callable[[Path], None],
    record_property: Callable[[str, object], None],
) -> None:
    tables = tmp_path / "tables"
    arguments = nightly(tables, manifest, tiny_bundle)
    assert main(arguments) == 0
    commits = tables / table / "_delta_log"
    last = max(commits.glob("*.json"))
    whole = last.read_bytes()
    sums = commits / f".{last.name}.crc"
    kept = sums.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in tables.rglob("*") if path.is_file()}

    again = [f"{one}b" if one.startswith("--run_id") else one for one in arguments]
    for cut in CUTS.values():
        last.write_bytes(whole[: round(cut * len(whole))] if cut >= 0 else whole[: round(cut)])
        sums.unlink(missing_ok=True)
        capsys.readouterr()
        assert main(again) == 1
        told = capsys.readouterr().err.splitlines()
        (line,) = (one for one in told if one.startswith("mumic-tag-nightly: error"))
        assert f"/{table}/" in line
    record_property("times", len(CUTS))
    record_property("outcome", "exit code 1 and the file's name, nothing changed; whole again: 0")

    last.write_bytes(whole)
    sums.write_bytes(kept)
    after = {path: path.stat().st_mtime_ns for path in tables.rglob("*") if path.is_file()}
    for path in (last, sums):
        del before[path], after[path]
    assert after == before
    assert_promise_kept(tables)


@contextmanager
def two_machines(spark_home: Path, folder: Path) -> Iterator[str]:
    """A standalone cluster of two workers under two addresses.

    Spark runs the copy of a task on another host only; executors of a local cluster share one.

    Yields:
        Its master.
    """
    launch = [str(spark_home / "bin" / "spark-class"), "org.apache.spark.deploy"]
    master = "spark://127.0.0.1:17077"
    roles = [
        ("127.0.0.1", "master.Master", ["--port", "17077", "--webui-port", "0"]),
        *(
            (host, "worker.Worker", ["--cores", "1", "--memory", "1g", "--webui-port", "0", master])
            for host in ("127.0.0.2", "127.0.0.3")
        ),
    ]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "cluster.log").open("w"))
        for host, role, options in roles:
            placed = {
                "SPARK_HOME": str(spark_home),
                "SPARK_LOCAL_IP": host,
                "SPARK_WORKER_DIR": str(folder / f"work-{host}"),
                "SPARK_DAEMON_MEMORY": "512m",
            }
            command = [launch[0], f"{launch[1]}.{role}", "--host", host, *options]
            process = subprocess.Popen(
                command, env=os.environ | placed, stdout=log, stderr=log, start_new_session=True
            )
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
        yield master


@pytest.mark.fault("speculation: tasks run twice at a time, on two workers")
@pytest.mark.timeout(900)
def test_tasks_that_run_twice_leave_nothing_twice(
    *,
    distribution: Path,
    manifest: Path,
    tiny_bundle: Path,
    spark_home: Path,
    tmp_path: Path,
    assert_promise_kept: Callable[[Path], None],
    record_property: Callable[[str, object], None],
) -> None:
    tables, events = tmp_path / "tables", tmp_path / "events"
    events.mkdir()
    with two_machines(spark_home, tmp_path) as master:
        code, log = submit(
            distribution,
            tmp_path,
            nightly(tables, manifest, tiny_bundle, "--stage.partition_rows=4"),
            master=master,
            settings=(
                *SPECULATION,
                "spark.driver.host=127.0.0.1",
                "spark.eventLog.enabled=true",
                f"spark.eventLog.dir=file://{events}",
                "spark.eventLog.compress=false",
            ),
            environment={"SPARK_HOME": str(spark_home)},
        )
    assert code == 0, log[-3000:]
    copies = [
        event["Task Info"]
        for path in events.rglob("events*")
        for event in map(json.loads, path.read_text().splitlines())
        if event["Event"] == "SparkListenerTaskEnd" and event["Task Info"]["Speculative"]
    ]
    assert copies, "no task ran twice"
    record_property("times", len(copies))
    record_property("outcome", "tasks that ran twice; the promise held")
    assert_promise_kept(tables)
