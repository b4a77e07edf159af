"""kill -9 at random moments of a job: of its Python workers, its executors, its driver.

Each seed kills some times and lets the job end then; where that was an error, the same run is
started again. Whatever was killed, the tables are those of a run that nothing disturbed. Moments
are drawn over the commits of a night, since time alone would meet its start again and again. A
driver is also killed straight before or after a commit. A worker may also hang: it answers no more,
and has to be ended by Spark.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from deltalake.exceptions import TableNotFoundError
from submitted import LOCAL, draw_night, nightly, submitted
from undisturbed import Undisturbed, undisturbed_outcomes

from demo.verify import find_run, read_rows

SEEDS = {"worker": range(7), "executor": range(6), "driver": range(7)}
KILLS = 2
MOST_STARTS = 6
# Commits until a kill: the tables take six, a night that is published ends with about the
# nineteenth. Workers have nothing to do after the facts.
MOST_COMMITS = {"worker": 12, "executor": 18, "driver": 18}
# Commits of a first night, counted from the first table's creation, and whether they are made.
COMMITS = ((3, False), (8, True), (10, False), (12, True), (14, False), (15, True), (16, True))
KILLED_BEFORE, KILLED_AFTER = 2, 3
# Two executors of a core each, as two machines would be.
CLUSTER = "local-cluster[2,1,1024]"
CLUSTER_SETTINGS = (
    "spark.executor.memory=1g",
    "spark.task.maxFailures=4",
    "spark.executor.extraJavaOptions=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
)
# A worker of a tiny model that says nothing for so long is taken for hung.
IMPATIENT = ("spark.sql.execution.pyspark.udf.idleTimeoutSeconds=15",)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A longer night than the others': time to be killed in."""
    return draw_night(tmp_path_factory.mktemp("long-night"), 60)


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tiny_bundle: Path) -> Undisturbed:
    return undisturbed_outcomes(manifest, tiny_bundle)


def family_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(job.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def find(job: subprocess.Popen[str], said: str) -> list[psutil.Process]:
    """Processes of a job whose command line says it."""
    found = []
    for process in family_of(job):
        try:
            if any(said in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_worker(job: subprocess.Popen[str], chance: random.Random) -> bool:
    """One that the daemon forked; not the daemon."""
    daemons = find(job, "pyspark.daemon")
    workers = [one for one in daemons if one.ppid() in {daemon.pid for daemon in daemons}]
    return kill(chance.choice(workers)) if workers else False


def kill_executor(job: subprocess.Popen[str], chance: random.Random) -> bool:
    executors = find(job, "CoarseGrainedExecutorBackend")
    return kill(chance.choice(executors)) if executors else False


def kill_driver(job: subprocess.Popen[str], chance: random.Random) -> bool:
    """With all that it started; at once, or its children would see it die."""
    del chance
    os.killpg(job.pid, signal.SIGKILL)
    return True


def kill(process: psutil.Process) -> bool:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


KILLERS: dict[str, Callable[[subprocess.Popen[str], random.Random], bool]] = {
    "worker": kill_worker,
    "executor": kill_executor,
    "driver": kill_driver,
}


def state_of(tables: Path) -> str:
    """What the job is doing, as its ledger says."""
    with suppress(TableNotFoundError):
        run = find_run(read_rows(tables, "tagging_runs"), "night-1")
        return "before it starts" if run is None else str(run["state"])
    return "before there are tables"


def disturb(
    job: subprocess.Popen[str], what: str, chance: random.Random, kills: int, tables: Path
) -> list[str]:
    """Kill at random moments until the job ends or it was enough; what it was doing."""
    hits: list[str] = []
    while len(hits) < kills:
        commits = chance.randint(0, MOST_COMMITS[what])
        if not goes_so_far(job, tables, commits, pause_s=chance.uniform(0, 2)):
            break
        state = state_of(tables)
        if KILLERS[what](job, chance):
            hits.append(state)
    return hits


def goes_so_far(job: subprocess.Popen[str], tables: Path, commits: int, *, pause_s: float) -> bool:
    """Whether a job goes on for a while after so many commits."""
    while len([*tables.glob("*/_delta_log/*.json")]) < commits:
        if job.poll() is not None:
            return False
        time.sleep(0.05)
    try:
        job.wait(pause_s)
    except subprocess.TimeoutExpired:
        return True
    return False


def seeds() -> Iterator[Any]:
    for what, numbers in SEEDS.items():
        mark = pytest.mark.fault(f"kill -9 of a random {what} at random moments")
        for seed in numbers:
            yield pytest.param(what, seed, marks=mark, id=f"{what}-{seed}")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("what", "seed"), list(seeds()))
def test_whatever_is_killed_the_tables_end_as_undisturbed_ones(
    what: str,
    seed: int,
    *,
    distribution: Path,
    manifest: Path,
    tiny_bundle: Path,
    spark_home: Path,
    tmp_path: Path,
    assert_promise_kept: Callable[[Path], None],
    record_property: Callable[[str, object], None],
) -> None:
    chance = random.Random(f"{what} {seed}")
    tables, starts = tmp_path / "tables", 0
    hits: list[str] = []
    code, told = None, ""
    while code != 0:
        starts += 1
        assert starts <= MOST_STARTS, told[-3000:]
        with submitted(
            distribution,
            tmp_path,
            nightly(tables, manifest, tiny_bundle),
            master=CLUSTER if what == "executor" else LOCAL,
            settings=CLUSTER_SETTINGS if what == "executor" else (),
            environment={"SPARK_HOME": str(spark_home)},
        ) as job:
            hits += disturb(job, what, chance, KILLS - len(hits), tables)
            told, _ = job.communicate(timeout=400)
            code = job.returncode
        # An error in one line, or the driver was killed; nothing else.
        assert code in ((0, 1, -signal.SIGKILL) if what == "driver" else (0, 1)), told[-3000:]
    assert hits, "nothing was killed"
    record_property("times", len(hits))
    record_property("outcome", f"the promise held; starts needed: {starts}")
    for hit in hits:
        record_property("hit", hit)
    assert_nobody_left(job.pid)
    assert_promise_kept(tables)


@pytest.mark.fault("kill -9 of the driver straight before or after a commit")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "made"), COMMITS)
def test_a_driver_killed_at_a_commit_leaves_what_the_next_start_ends(
    number: int,
    *,
    made: bool,
    failing_calls: Path,
    distribution: Path,
    manifest: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    assert_promise_kept: Callable[[Path], None],
    record_property: Callable[[str, object], None],
) -> None:
    tables, control = tmp_path / "tables", tmp_path / "control"
    control.write_bytes(struct.pack("=3i", 0, number, KILLED_AFTER if made else KILLED_BEFORE))
    armed = {
        "LD_PRELOAD": str(failing_calls),
        "FAILING_UNDER": str(tables),
        "FAILING_CONTROL": str(control),
        "FAILING_COMMITS": "1",
    }
    arguments = nightly(tables, manifest, tiny_bundle)
    for environment, code in ((armed, -signal.SIGKILL), ({}, 0)):
        with submitted(distribution, tmp_path, arguments, environment=environment) as job:
            told, _ = job.communicate(timeout=400)
        assert job.returncode == code, told[-3000:]
        if environment:
            record_property("hit", state_of(tables))
    assert_promise_kept(tables)


@pytest.mark.fault("a worker hangs for ever while it opens an image")
@pytest.mark.timeout(900)
def test_a_worker_that_hangs_is_ended_and_its_task_tried_again(
    *,
    hanging_open: Path,
    distribution: Path,
    manifest: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    assert_promise_kept: Callable[[Path], None],
) -> None:
    tables = tmp_path / "tables"
    image = next(row["uri"] for row in pq.read_table(manifest).to_pylist()[3:])
    mark = Path(f"{image}.hung")
    try:
        with submitted(
            distribution,
            tmp_path,
            nightly(tables, manifest, tiny_bundle),
            settings=IMPATIENT,
            environment={"LD_PRELOAD": str(hanging_open), "HANGING_OPEN": image},
        ) as job:
            told, _ = job.communicate(timeout=400)
        assert job.returncode == 0, told[-3000:]
        assert mark.exists(), "nobody hung"
    finally:
        mark.unlink(missing_ok=True)
    assert_nobody_left(job.pid)
    assert_promise_kept(tables)


def assert_nobody_left(session: int) -> None:
    """Whoever a job started ends soon after it. The job led a session of its own."""
    deadline = time.monotonic() + 20
    while (left := members_of(session)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, "somebody outlived the job"


def members_of(session: int) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (ProcessLookupError, psutil.Error):
            continue
    return found
