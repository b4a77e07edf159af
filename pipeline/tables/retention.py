"""Retention of staged facts: which runs' facts nobody needs any more, and deleting them.

A staged fact is the result, the cache and the resume point in one. Once its run is over it is only
the cache; the audit still compares with the latest published run of each job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.commit import one_commit
from pipeline.tables.lease import Lease
from pipeline.tables.schemas import TAGGING_RESULTS, TAGGING_RUNS
from pipeline.tables.store import TableSet

OVER = ("published", "discarded", "failed")
"""States after which a run's facts are only a cache."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a run's state, as the ledger tells it.

    Attributes:
        run_id: The run.
        run_seq: Its order; None in its first row.
        change: Counts its changes.
        job: The job that made it.
        state: What it became.
        at: When.
    """

    run_id: str
    run_seq: int | None
    change: int
    job: str
    state: str
    at: datetime


def read_changes(tables: TableSet) -> list[Change]:
    """Every change of every run: few and short without configuration and counts."""
    columns = ("run_id", "run_seq", "change", "job", "state")
    rows = tables.read(TAGGING_RUNS.name).select(*columns, F.unix_micros("at").alias("at_us"))
    return [
        Change(
            at=_EPOCH + timedelta(microseconds=row["at_us"]),
            **{name: row[name] for name in columns},
        )
        for row in rows.collect()
    ]


def latest_changes(changes: Iterable[Change]) -> list[Change]:
    """The latest change of each run."""
    latest: dict[str, Change] = {}
    for change in sorted(changes, key=lambda one: one.change):
        latest[change.run_id] = change
    return list(latest.values())


def published_runs(changes: Iterable[Change]) -> list[str]:
    """The runs that were published."""
    return [run.run_id for run in latest_changes(changes) if run.state == "published"]


def expired_runs(changes: Iterable[Change], *, before: datetime) -> list[str]:
    """The runs whose facts may go.

    Args:
        changes: Of all runs.
        before: A run is expired that is over and whose last change is older.

    Returns:
        Their ids. Never a run that may still be published, and never the latest published run of a
        job.
    """
    latest = latest_changes(changes)
    last_published: dict[str, Change] = {}
    for run in sorted(latest, key=lambda one: one.run_seq or -1):
        if run.state == "published":
            last_published[run.job] = run
    kept = {run.run_id for run in last_published.values()}
    return sorted(
        run.run_id
        for run in latest
        if run.state in OVER and run.at < before and run.run_id not in kept
    )


def count_facts(tables: TableSet, run_ids: Iterable[str]) -> dict[str, int]:
    """How many facts of these runs are staged; only runs with any."""
    facts = tables.read(TAGGING_RESULTS.name).where(F.col("run_id").isin(*run_ids))
    return {row["run_id"]: row["count"] for row in facts.groupBy("run_id").count().collect()}


def delete_facts(tables: TableSet, run_ids: Iterable[str], lease: Lease) -> None:
    """Delete the partitions of these runs. No file is read or rewritten for it.

    Raises:
        LeaseError: The lease was lost.
        TablesError: The storage refuses.
    """
    whole_partitions = F.col("run_id").isin(*run_ids)
    with one_commit(tables, TAGGING_RESULTS.name, note="mumic retention", lease=lease):
        tables.delta(TAGGING_RESULTS.name).delete(whole_partitions)
