"""One call that changes files fails while a run is published: not made, or its answer is lost.

A library that lets calls fail stands before the C library of the JVM. Every commit is tried, and
of all other calls the first and the last of every kind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.nights import FEW_ROWS

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "tests" / "fakes"
# A JVM that lives long enough to compile what is hot, where it tries more than the commits.
LONG = (*FEW_ROWS[1:], "spark.driver.extraJavaOptions=-XX:+UseSerialGC -Xmn600m")
# EVERY_CALL=1 tries them all, and takes hours.
EVERY = bool(os.environ.get("EVERY_CALL"))
# What a publish writes. images is the last of them, and the ledger is told before and after.
WRITTEN = {"image_embeddings": 1, "image_tags": 1, "images": 1, "tagging_runs": 2}


@dataclass(frozen=True)
class Told:
    """What ``failing_publish.py`` says of its tries.

    Attributes:
        commits: That an undisturbed publish adds to each table.
        calls: That it makes.
        kinds: Of calls.
        tries: How many of them failed on purpose, one at a time.
        errors: Of the runs that noticed.
    """

    commits: dict[str, int]
    calls: int
    kinds: int
    tries: int
    errors: list[str]

    def __str__(self) -> str:
        noticed = len(self.errors)
        return (
            f"{noticed} times one line and exit code 1, {self.tries - noticed} times unnoticed;"
            " finished by the next run"
        )


def fail_in_turn(what: str, how: str) -> list[Any]:
    return [
        pytest.param("made", marks=pytest.mark.fault(f"{what} fails, {how}")),
        pytest.param("lost", marks=pytest.mark.fault(f"{what} is made, its answer is lost, {how}")),
    ]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", fail_in_turn("a commit of publishing", "each in turn"))
def test_a_publish_with_a_failing_commit_is_finished_by_the_next(
    kind: str, failing_calls: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    told = try_calls(failing_calls, tmp_path, kind, every=True, only_commits=True)
    assert told.calls == sum(told.commits.values()), "some commits were made in another way"
    assert all(told.commits[table] >= count for table, count in WRITTEN.items()), told.commits
    if kind == "made":
        assert len(told.errors) == told.calls, "a commit that was not made went unnoticed"
    record_property("times", told.tries)
    record_property("outcome", told)


@pytest.mark.timeout(8 * 3600 if EVERY else 3000)
@pytest.mark.parametrize("kind", fail_in_turn("a file system call of publishing", "kind by kind"))
def test_a_publish_with_a_failing_call_is_finished_by_the_next(
    kind: str, failing_calls: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    told = try_calls(failing_calls, tmp_path, kind, every=EVERY)
    assert told.errors, "no call was missed"
    record_property("times", told.tries)
    record_property("outcome", f"of {told.calls} calls, {told.kinds} kinds: {told}")


def try_calls(
    library: Path, folder: Path, kind: str, *, every: bool, only_commits: bool = False
) -> Told:
    control = folder / "control"
    control.write_bytes(bytes(12))
    tables = folder / "tables"
    tables.mkdir()
    chosen = FEW_ROWS if only_commits else LONG
    settings = [part for setting in chosen for part in ("--conf", f"'{setting}'")]
    beside = {
        "LD_PRELOAD": str(library),
        "FAILING_UNDER": str(tables),
        "FAILING_CONTROL": str(control),
        "FAILING_LOG": str(folder / "calls"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{FAKES}",
        "PYSPARK_SUBMIT_ARGS": " ".join([*settings, "pyspark-shell"]),
    }
    program = [sys.executable, str(FAKES / "failing_publish.py")]
    done = subprocess.run(
        [*program, str(tables), kind, "every" if every else "kinds"],
        cwd=folder,
        env=os.environ | beside | ({"FAILING_COMMITS": "1"} if only_commits else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    head, *tries = done.stdout.splitlines()
    errors = [line for line in tries if " " in line]
    return Told(**json.loads(head), tries=len(tries), errors=errors)
