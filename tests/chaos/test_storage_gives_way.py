"""Full disks, a torn commit, and tasks that Spark runs twice: one line, exit code 1, and on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from submitted import nightly, submitted
from undisturbed import Undisturbed, assert_as_undisturbed

from demo.verify import read_rows, verify_run

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
    """Exit code, and what was written to stderr."""
    log = folder / "stderr.log"
    log.unlink(missing_ok=True)
    with submitted(distribution, folder, arguments, **options) as job:
        job.communicate(timeout=400)
    return job.returncode, log.read_text()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("what", "left_kb"),
    [
        pytest.param(what, left_kb, marks=pytest.mark.fault(f"disk full: {what}"))
        for what, left_kb in (
            *(("tables", left_kb) for left_kb in (4, 100, 300)),
            ("local dir", 2_000),
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
    undisturbed: Undisturbed,
    tiny_bundle: Path,
    tmp_path: Path,
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
    if what == "tables":
        assert code == 1
        (told,) = (line for line in log.splitlines() if line.startswith("mumic-tag-nightly: error"))
        assert "No space left" in told
    record_property("outcome", f"exit code {code}, then 0 with space")
    ballast.unlink()
    code, log = submit(distribution, tmp_path, arguments, **options)
    assert code == 0, log[-3000:]
    assert verify_run(tables, manifest, "night-1").broken == ()
    assert_as_undisturbed(tables, undisturbed)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "table",
    [
        pytest.param(table, marks=pytest.mark.fault(f"the last commit of {table} is torn"))
        for table in ("images", "image_tags", "tagging_runs")
    ],
)
def test_a_torn_commit_is_told_in_one_line(
    table: str,
    *,
    distribution: Path,
    manifest: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    tables = tmp_path / "tables"
    arguments = nightly(tables, manifest, tiny_bundle)
    code, log = submit(distribution, tmp_path, arguments)
    assert code == 0, log[-3000:]
    before = read_rows(tables, "images")
    commits = tables / table / "_delta_log"
    last = max(commits.glob("*.json"))
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    for sums in commits.glob(f".{last.name}.crc"):
        sums.unlink()

    again = [f"{one}b" if one.startswith("--run_id") else one for one in arguments]
    code, log = submit(distribution, tmp_path, again)
    assert code == 1, log[-3000:]
    (told,) = (line for line in log.splitlines() if line.startswith("mumic-tag-nightly: error"))
    assert table in told
    record_property("outcome", "exit code 1 and the table's name; whole again: 0")

    last.write_bytes(whole)
    code, log = submit(distribution, tmp_path, again)
    assert code == 0, log[-3000:]
    assert read_rows(tables, "images") == before


@pytest.mark.fault("speculation: tasks run twice at a time")
@pytest.mark.timeout(900)
def test_tasks_that_run_twice_leave_nothing_twice(
    *,
    distribution: Path,
    manifest: Path,
    undisturbed: Undisturbed,
    tiny_bundle: Path,
    spark_home: Path,
    tmp_path: Path,
) -> None:
    tables = tmp_path / "tables"
    code, log = submit(
        distribution,
        tmp_path,
        nightly(tables, manifest, tiny_bundle),
        master="local-cluster[2,1,1024]",
        settings=SPECULATION,
        environment={"SPARK_HOME": str(spark_home)},
    )
    assert code == 0, log[-3000:]
    assert verify_run(tables, manifest, "night-1").broken == ()
    assert_as_undisturbed(tables, undisturbed)
