"""kill -9 at random moments of a job: of its Python workers, its executors, its driver.

Each seed kills some times and lets the job end then; where that was an error, the same run is
started again. Whatever was killed, the tables are those of a run that nothing disturbed. A worker
may also be stopped for good: it answers no more, and has to be ended by Spark. A driver is also
killed straight before or after a commit.
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
import pytest
from deltalake.exceptions import TableNotFoundError
from submitted import LOCAL, draw_night, nightly, submitted
from undisturbed import Undisturbed, undisturbed_outcomes

from demo.verify import find_run, read_rows

SEEDS = {"worker": range(7), "executor": range(6), "driver": range(7), "hung worker": range(2)}
KILLS = 2
MOST_STARTS = 6
# Commits of a first night, counted from the first table's creation, and whether they are made. The
# tables take six; a run that is published ends with about the eighteenth.
COMMITS = ((3, False), (8, True), (10, False), (12, True), (14, False), (15, True), (16, True))
KILLED_BEFORE, KILLED_AFTER = 2, 3
# Two executors of a core each, as two machines would be.
CLUSTER = "local-cluster[2,1,1024]"
CLUSTER_SETTINGS = (
    "spark.executor.memory=1g",
    "spark.task.maxFailures=4",
    "spark.executor.extraJavaOptions=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
)
SETTINGS = {
    "executor": CLUSTER_SETTINGS,
    # A worker of a tiny model that says nothing for so long is taken for hung.
    "hung worker": ("spark.sql.execution.pyspark.udf.idleTimeoutSeconds=15",),
}


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


def kill_worker(
    job: subprocess.Popen[str], chance: random.Random, how: int = signal.SIGKILL
) -> bool:
    """One that the daemon forked; not the daemon."""
    daemons = find(job, "pyspark.daemon")
    workers = [one for one in daemons if one.ppid() in {daemon.pid for daemon in daemons}]
    return kill(chance.choice(workers), how) if workers else False


def stop_worker(job: subprocess.Popen[str], chance: random.Random) -> bool:
    return kill_worker(job, chance, signal.SIGSTOP)


def kill_executor(job: subprocess.Popen[str], chance: random.Random) -> bool:
    executors = find(job, "CoarseGrainedExecutorBackend")
    return kill(chance.choice(executors)) if executors else False


def kill_driver(job: subprocess.Popen[str], chance: random.Random) -> bool:
    """With all that it started; at once, or its children would see it die."""
    del chance
    os.killpg(job.pid, signal.SIGKILL)
    return True


def kill(process: psutil.Process, how: int = signal.SIGKILL) -> bool:
    try:
        process.send_signal(how)
    except psutil.NoSuchProcess:
        return False
    return True


KILLERS: dict[str, Callable[[subprocess.Popen[str], random.Random], bool]] = {
    "worker": kill_worker,
    "executor": kill_executor,
    "driver": kill_driver,
    "hung worker": stop_worker,
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
    # A start takes ten seconds, and a driver killed in it was never worth a test.
    pause = chance.uniform(8, 30) if what == "driver" else chance.uniform(0.1, 4)
    while len(hits) < kills:
        try:
            job.wait(pause)
        except subprocess.TimeoutExpired:
            state = state_of(tables)
            if KILLERS[what](job, chance):
                hits.append(state)
            pause = chance.uniform(0.1, 4)
        else:
            break
    return hits


def seeds() -> Iterator[Any]:
    for what, numbers in SEEDS.items():
        deed = "SIGSTOP of a worker" if what == "hung worker" else f"kill -9 of a random {what}"
        mark = pytest.mark.fault(f"{deed} at random moments")
        for seed in numbers:
            yield pytest.param(what, seed, marks=mark, id=f"{what.replace(' ', '-')}-{seed}")


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
            settings=SETTINGS.get(what, ()),
            environment={"SPARK_HOME": str(spark_home)},
        ) as job:
            hits += disturb(job, what, chance, KILLS - len(hits), tables)
            told, _ = job.communicate(timeout=400)
            code = job.returncode
        # Killed, or an error in one line; nothing else.
        assert code in (0, 1, -signal.SIGKILL), told[-3000:]
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
