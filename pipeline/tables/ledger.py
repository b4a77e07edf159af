"""The ledger of runs: every change of a run's state is one appended row of ``tagging_runs``.

States: started -> staged | failed; staged -> publishing | held | failed; held -> publishing |
discarded; publishing -> published | discarded. A failed run goes on where it was when it is started
again, as started. Discarded while it published: abandoned, its tables put back to before it.

``run_seq`` orders runs by the log alone, not by the clock: it is the Delta version of the commit
that wrote the run's first row, found by that commit's note and copied into every later row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F  # noqa: N812  (Spark's own convention)

from pipeline import __version__
from pipeline.errors import TablesError
from pipeline.few_rows import few_rows
from pipeline.tables.schemas import TAGGING_RUNS
from pipeline.tables.store import TableSet

State = Literal["started", "staged", "held", "publishing", "published", "failed", "discarded"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run in its latest state.

    Attributes:
        run_id: Name of the run.
        run_seq: Order of the run among all runs of the table set.
        change: How often its state was written.
        job: The job that made it.
        state: Where it stands.
        as_of: The moment of the catalogue it speaks for, UTC.
        manifest_digest: Digest of the manifest's rows.
        model_version: The model it tags with.
        taxonomy_version: The taxonomy it tags with.
        config: Resolved configuration without secrets, JSON.
        counts: Images by outcome, once known.
        timings: Seconds by step, once known.
        table_versions: Versions of all tables: before the first change while it publishes, after
            the last one when it is published; else empty.
        backfill_id: The backfill it is part of; None: none.
        audit: What the audit saw, JSON; None before it looked.
    """

    run_id: str
    run_seq: int
    change: int
    job: str
    state: State
    as_of: datetime
    manifest_digest: str
    model_version: str
    taxonomy_version: str
    config: str
    counts: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    table_versions: Mapping[str, int] = field(default_factory=dict)
    backfill_id: str | None = None
    audit: str | None = None


class Ledger:
    """Reads and appends the states of runs.

    Args:
        tables: The table set; its ``tagging_runs`` must exist.
    """

    def __init__(self, tables: TableSet) -> None:
        self._tables = tables

    def find(self, run_id: str) -> Run | None:
        """The run of that name in its latest state, or None."""
        with few_rows(self._tables.spark):
            latest = _latest(self._changes(F.col("run_id") == run_id).collect())
            return self._run(latest[run_id]) if latest else None

    def in_state(self, *states: State) -> list[Run]:
        """The runs whose latest state is one of these, by run_seq."""
        # The rows of all runs without their configuration are few and short: no need to shuffle.
        rows = self._tables.read(TAGGING_RUNS.name).select("run_id", "change", "state").collect()
        wanted = [row["run_id"] for row in _latest(rows).values() if row["state"] in states]
        if not wanted:
            return []
        there = F.col("run_id").isin(wanted) & F.col("state").isin(*states)
        latest = _latest(self._changes(there).collect())
        return sorted((self._run(row) for row in latest.values()), key=lambda run: run.run_seq)

    def of_backfill(self, backfill_id: str) -> list[Run]:
        """The runs of a backfill in their latest state, by run_seq."""
        latest = _latest(self._changes(F.col("backfill_id") == backfill_id).collect())
        return sorted((self._run(row) for row in latest.values()), key=lambda run: run.run_seq)

    def latest_run_ids(self, count: int) -> list[str]:
        """The runs that were started last, the latest first."""
        started = self._tables.read(TAGGING_RUNS.name).where(F.col("change") == 1)
        latest = started.orderBy(F.col("at").desc(), "run_id").limit(count)
        return [row["run_id"] for row in latest.select("run_id").collect()]

    def start(
        self,
        *,
        run_id: str,
        job: str,
        as_of: datetime,
        manifest_digest: str,
        model_version: str,
        taxonomy_version: str,
        config: str,
        at: datetime,
        backfill_id: str | None = None,
    ) -> Run:
        """Append a new run's first row and learn its run_seq."""
        run = Run(
            run_id=run_id,
            run_seq=-1,
            change=1,
            job=job,
            state="started",
            as_of=as_of,
            manifest_digest=manifest_digest,
            model_version=model_version,
            taxonomy_version=taxonomy_version,
            config=config,
            backfill_id=backfill_id,
        )
        with few_rows(self._tables.spark):
            self._append(run, run_seq=None, at=at)
            return replace(run, run_seq=self._sequence(run_id))

    def advance(
        self,
        run: Run,
        state: State,
        *,
        at: datetime,
        counts: Mapping[str, int] | None = None,
        timings: Mapping[str, float] | None = None,
        table_versions: Mapping[str, int] | None = None,
        detail: str | None = None,
        audit: str | None = None,
    ) -> Run:
        """Append the run's next state."""
        moved = replace(
            run,
            state=state,
            change=run.change + 1,
            counts=dict(counts if counts is not None else run.counts),
            timings=dict(timings if timings is not None else run.timings),
            table_versions=dict(table_versions or {}),
            audit=audit if audit is not None else run.audit,
        )
        with few_rows(self._tables.spark):
            self._append(moved, run_seq=run.run_seq, at=at, detail=detail)
        return moved

    def _append(
        self,
        run: Run,
        *,
        run_seq: int | None,
        at: datetime,
        detail: str | None = None,
    ) -> None:
        row = {
            "run_id": run.run_id,
            "run_seq": run_seq,
            "change": run.change,
            "job": run.job,
            "state": run.state,
            "as_of": run.as_of,
            "manifest_digest": run.manifest_digest,
            "config": run.config,
            "counts": dict(run.counts),
            "model_version": run.model_version,
            "taxonomy_version": run.taxonomy_version,
            "table_versions": dict(run.table_versions),
            "timings": dict(run.timings),
            "product_version": __version__,
            "detail": detail,
            "backfill_id": run.backfill_id,
            "audit": run.audit,
            "at": at,
        }
        schema = TAGGING_RUNS.columns
        rows = self._tables.spark.createDataFrame(
            [tuple(row[column] for column in schema.names)], schema
        )
        note = _note(run.run_id, run.state)
        self._tables.append(TAGGING_RUNS.name, rows, commit_note=note, computed=True)

    def _changes(self, which: Column) -> DataFrame:
        """Rows of the ledger, and as_of in microseconds as ``as_of_us``."""
        rows = self._tables.read(TAGGING_RUNS.name).where(which)
        return rows.withColumn("as_of_us", F.unix_micros("as_of"))

    def _run(self, row: Row) -> Run:
        known = row["run_seq"]
        return Run(
            run_id=row["run_id"],
            run_seq=self._sequence(row["run_id"]) if known is None else known,
            change=row["change"],
            job=row["job"],
            state=row["state"],
            as_of=_EPOCH + timedelta(microseconds=row["as_of_us"]),
            manifest_digest=row["manifest_digest"],
            model_version=row["model_version"],
            taxonomy_version=row["taxonomy_version"],
            config=row["config"],
            counts=row["counts"] or {},
            timings=row["timings"] or {},
            table_versions=row["table_versions"] or {},
            backfill_id=row["backfill_id"],
            audit=row["audit"],
        )

    def _sequence(self, run_id: str) -> int:
        """Delta version of the commit that wrote the run's first row.

        The earliest one, since a commit whose answer was lost can be written twice.
        """
        history = self._tables.delta(TAGGING_RUNS.name).history()
        found = (
            history.where(F.col("userMetadata") == _note(run_id, "started"))
            .agg(F.min("version").alias("version"))
            .first()
        )
        if found is None or found["version"] is None:
            raise TablesError(
                "the commit that started the run is no longer in the table's log",
                where=f"{self._tables.place(TAGGING_RUNS.name)}, run {run_id}",
                todo="start a new run: what the old one staged is reused",
            )
        return int(found["version"])


def _latest(changes: list[Row]) -> dict[str, Row]:
    """The latest change of each run."""
    return {row["run_id"]: row for row in sorted(changes, key=lambda row: int(row["change"]))}


def _note(run_id: str, state: str) -> str:
    return f"mumic run {run_id} {state}"
