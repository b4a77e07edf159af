"""What the nights of the demo must have done, beyond the promise that every run makes.

The second night sends what is new or changed to the model, and failures that are due again; a
repeated delivery sends nothing; a run that is started again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from demo.verify import (
    KEYS,
    Row,
    Wanted,
    find_run,
    read_rows,
    read_versions,
    read_wanted,
)

_UNEXPECTED_SHOWN = 5


def check_second_night(
    tables: Path, *, first: Path, second: Path, run_ids: tuple[str, str]
) -> list[str]:
    """Only what is new, changed, or failed and due went to the model, and all of it did.

    Args:
        tables: Folder of the table set.
        first: Manifest of the night before.
        second: Manifest of the night.
        run_ids: Of both nights.

    Returns:
        What is wrong, a sentence each.
    """
    before, night = run_ids
    run = find_run(read_rows(tables, "tagging_runs"), before)
    if run is None:
        return [f"the ledger does not know {before}"]
    standing = read_rows(tables, "images", version=dict(run["table_versions"])["images"])
    wanted = read_wanted(second)
    new = find_new(read_wanted(first), wanted)
    # A day lies between the nights: every failure that may pass is due.
    due = {
        row["image_id"]
        for row in standing
        if row["status"] == "failed"
        and row["retriable"]
        and row["image_id"] in wanted
        and wanted[row["image_id"]].version is not None
    }
    own = [row for row in read_rows(tables, "tagging_results") if row["run_id"] == night]
    return check_work(own, new=new, due=due)


def find_new(before: Mapping[str, Wanted], after: Mapping[str, Wanted]) -> set[str]:
    """Images that a model has to look at: another version than before, or none before."""
    return {
        image_id
        for image_id, want in after.items()
        if want.version is not None
        and (image_id not in before or before[image_id].version != want.version)
    }


def check_work(facts: Iterable[Row], *, new: set[str], due: set[str]) -> list[str]:
    """Whether a run tagged what is new, tried again what is due, and nothing else."""
    called = {row["image_id"] for row in facts if row["origin"] == "model"}
    broken = []
    if left := new - called:
        broken.append(f"new or changed, but not tagged: {_some(left)}")
    if forgotten := due - called:
        broken.append(f"failed and due, but not tried again: {_some(forgotten)}")
    if idle := called - new - due:
        broken.append(f"tagged again, although neither new nor changed: {_some(idle)}")
    return broken


def check_repeated_delivery(tables: Path, *, run_ids: tuple[str, str]) -> list[str]:
    """Nothing was staged by the second of two runs, no model was called, no table changed.

    Args:
        tables: Folder of the table set.
        run_ids: The run that delivered first, and the one that delivered the same again.
    """
    changes = read_rows(tables, "tagging_runs")
    before, again = (find_run(changes, run_id) for run_id in run_ids)
    if before is None or again is None:
        return [f"the ledger does not know both of {', '.join(run_ids)}"]
    facts = [row for row in read_rows(tables, "tagging_results") if row["run_id"] == run_ids[1]]
    counts = dict(again["counts"])
    broken = []
    if facts:
        broken.append(f"a repeated delivery staged {len(facts)} facts")
    if counts.get("scored") != 0:
        broken.append(f"a repeated delivery called the model for {counts.get('scored')} images")
    versions = [dict(run["table_versions"]) for run in (before, again)]
    for table in KEYS:
        if versions[0][table] != versions[1][table]:
            broken.append(f"a repeated delivery changed {table}")
    return broken


def check_started_again(
    tables: Path,
    *,
    versions: Mapping[str, int],
    summaries: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> list[str]:
    """A finished run that was started again wrote to no table and told the same.

    Args:
        tables: Folder of the table set.
        versions: Of all tables, before it was started again.
        summaries: What it told the first time, and then.
    """
    now = read_versions(tables)
    broken = [f"{name} was written to" for name in versions if now[name] != versions[name]]
    first, second = summaries
    broken += [f"it tells another {name}" for name in first if first[name] != second.get(name)]
    return broken


def _some(image_ids: set[str]) -> str:
    shown = ", ".join(sorted(image_ids)[:_UNEXPECTED_SHOWN])
    return shown if len(image_ids) <= _UNEXPECTED_SHOWN else f"{shown} and others"
