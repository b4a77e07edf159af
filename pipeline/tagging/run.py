"""One run from manifest to published tables: the picture, step by step.

    read + validate -> select -> stage -> (audit) -> [lease] publish -> ledger

Nightly, backfill and retry are this run with another selection. Knows no model: the tagger comes
from outside.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.errors import HeldByAudit, RunConflictError
from pipeline.redaction import redact
from pipeline.spark import explain
from pipeline.tables.create import create_tables, existing_tables
from pipeline.tables.labels import knows_labels, write_labels
from pipeline.tables.lease import Lease, hold_lease
from pipeline.tables.ledger import Ledger, Run
from pipeline.tables.merge import kept
from pipeline.tables.schemas import IMAGES, TABLES
from pipeline.tables.store import TableSet, open_tables
from pipeline.tagging.manifest import Manifest, read_manifest
from pipeline.tagging.publish import publish_staged
from pipeline.tagging.request import RunRequest, Summary, summarise
from pipeline.tagging.selection import ACTIVE, count_actions, select_rows
from pipeline.tagging.stage import Progress, Tagger, split_staged, stage_plan, validate_floor

log = logging.getLogger(__name__)


def run_tagging(
    spark: SparkSession, request: RunRequest, tagger: Tagger, *, progress: Progress | None = None
) -> Summary:
    """Tag what a manifest asks for and publish it; the same run again goes on or changes nothing.

    Returns:
        The summary of the run.

    Raises:
        ManifestError: The manifest breaks its contract.
        SchemaVersionError: The tables are of another version.
        RunConflictError: The run id belongs to another manifest, model or taxonomy.
        LeaseError: Another job publishes to the tables, and did not end in time.
        TablesError: The storage refuses.
    """
    validate_floor(tagger, request.stage)
    tables = open_tables(spark, request.tables)
    existing = existing_tables(tables)
    watch = Stopwatch()
    manifest = read_manifest(spark, request.manifest)
    if len(existing) < len(TABLES):
        with _leased(tables, request):  # two first nights may begin at once
            create_tables(tables, existing=existing)
    ledger = Ledger(tables)
    run = ledger.find(request.run_id)
    is_resumed = run is not None
    if run is None:
        run = _start(ledger, request, tagger, manifest)
    else:
        validate_same_run(run, request, tagger, manifest)
        log.info("run %s goes on from state %s", run.run_id, run.state)
    watch.lap("start")
    if run.state == "published":
        return summarise(run, request)
    try:
        if run.state in ("started", "failed"):
            rows, staged_before = manifest.rows, 0
            if is_resumed:
                rows, staged_before = split_staged(tables, run.run_id, rows)
            counts = _stage(
                tables,
                run,
                request,
                tagger,
                rows,
                staged_before=staged_before,
                progress=progress,
                watch=watch,
            )
            run = ledger.advance(run, "staged", at=request.now(), counts=counts, timings=watch.laps)
        with _leased(tables, request) as lease:
            finished = roll_forward(tables, ledger, lease, now=request.now)
            run = finished.get(run.run_id) or publish_run(
                tables, ledger, run, lease, now=request.now
            )
    except Exception as error:
        _note_failure(ledger, run.run_id, error, now=request.now)
        raise
    return summarise(run, request)


def _leased(tables: TableSet, request: RunRequest) -> AbstractContextManager[Lease]:
    return hold_lease(tables, f"run {request.run_id}", request.lease)


def publish_run(
    tables: TableSet, ledger: Ledger, run: Run, lease: Lease, *, now: Callable[[], datetime]
) -> Run:
    """Publish a run that is staged, or whose publishing was cut off."""
    if run.state != "publishing":
        run = ledger.advance(run, "publishing", at=now())
    watch = Stopwatch()
    counts = publish_staged(tables, run, lease)
    watch.lap("publish")
    return ledger.advance(
        run,
        "published",
        at=now(),
        counts={**run.counts, **counts},
        timings={**run.timings, **watch.laps},
        table_versions=tables.versions(),
    )


def roll_forward(
    tables: TableSet, ledger: Ledger, lease: Lease, *, now: Callable[[], datetime]
) -> dict[str, Run]:
    """Finish the runs whose publishing was cut off, oldest first; what they became, by run_id."""
    finished = {}
    for run in ledger.in_state("publishing"):
        log.warning("run %s was cut off while it published: finishing it", run.run_id)
        finished[run.run_id] = publish_run(tables, ledger, run, lease, now=now)
    return finished


def _start(ledger: Ledger, request: RunRequest, tagger: Tagger, manifest: Manifest) -> Run:
    return ledger.start(
        run_id=request.run_id,
        job=request.job,
        as_of=request.as_of or manifest.as_of,
        manifest_digest=manifest.digest,
        model_version=tagger.model_version,
        taxonomy_version=tagger.taxonomy.version,
        config=request.config,
        at=request.now(),
    )


def validate_same_run(run: Run, request: RunRequest, tagger: Tagger, manifest: Manifest) -> None:
    """Refuse to go on with a run of that name that was asked for something else.

    Raises:
        RunConflictError: It has another manifest, model, taxonomy or moment, or was discarded.
        HeldByAudit: The audit holds it.
    """
    if run.state == "discarded":
        raise RunConflictError(
            "the run was discarded", where=run.run_id, todo="start one under another --run_id"
        )
    _validate_same(
        run,
        manifest=(run.manifest_digest, manifest.digest),
        model=(run.model_version, tagger.model_version),
        taxonomy=(run.taxonomy_version, tagger.taxonomy.version),
        as_of=(run.as_of, request.as_of or run.as_of),
    )
    if run.state == "held":
        raise HeldByAudit("the audit holds the run", where=run.run_id)


def _validate_same(run: Run, **known_and_asked: tuple[object, object]) -> None:
    for what, (known, asked) in known_and_asked.items():
        if known != asked:
            raise RunConflictError(
                f"the run id belongs to a run with another {what}",
                where=run.run_id,
                expected=known,
                got=asked,
                todo="start a new run under another --run_id: what is staged is reused",
            )


def _stage(
    tables: TableSet,
    run: Run,
    request: RunRequest,
    tagger: Tagger,
    rows: DataFrame,
    *,
    staged_before: int,
    progress: Progress | None,
    watch: Stopwatch,
) -> dict[str, int]:
    """Select and stage; what was counted on the way."""
    if not knows_labels(tables, tagger.taxonomy):
        with _leased(tables, request) as lease:
            write_labels(tables, tagger.taxonomy, lease)
    images = tables.read(IMAGES.name, version=tables.version(IMAGES.name))
    if request.limit is not None:
        request = replace(request, limit=max(0, request.limit - staged_before))
    planned = select_rows(rows, images, request, as_of=run.as_of, run_seq=run.run_seq)
    with kept(planned) as plan:
        counts = count_actions(plan)
        passed_over = counts["skip"] + counts["wait"] + counts["erased"]
        watch.lap("select")
        log.info(
            "run %s: %d to tag, %d to delete, %d contradictory, %d skipped, %d superseded",
            run.run_id,
            *(counts[action] for action in ACTIVE),
            passed_over,
            counts["superseded"],
        )
        scored = stage_plan(
            tables,
            run,
            plan.where(F.col("action").isin(*ACTIVE)),
            tagger,
            source=request.manifest.source,
            config=request.stage,
            slots=request.slots,
            progress=progress or Progress(),
            reuse=not request.force,
        )
    watch.lap("tag")
    return {
        "manifest_rows": sum(counts.values()) + staged_before,
        "skipped": passed_over,
        "not_due": counts["wait"],
        "erased": counts["erased"],
        "superseded_before": counts["superseded"],
        "scored": scored,
        "slots": request.slots,
    }


def _note_failure(
    ledger: Ledger, run_id: str, error: Exception, *, now: Callable[[], datetime]
) -> None:
    """Say in the ledger that the run failed, unless it is publishing: that is rolled forward."""
    try:
        run = ledger.find(run_id)
        if run is not None and run.state in ("started", "staged", "failed"):
            ledger.advance(run, "failed", at=now(), detail=_in_one_line(error))
    except Exception:
        # The storage may be what failed. The first error is the one that is raised.
        log.warning("the ledger could not be told that run %s failed", run_id, exc_info=True)


def _in_one_line(error: Exception) -> str:
    """The error as the ledger keeps it: what executors said where they did, without secrets."""
    known = explain(error)
    text = str(known) if known else f"{type(error).__name__}: {error}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = lines[:2] if "An error occurred while calling" in lines[0] else lines[:1]
    return redact(" ".join(told))[:500]


class Stopwatch:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        """Add the seconds since the last lap to ``name``."""
        now = time.monotonic()
        self.laps[name] = round(self.laps.get(name, 0.0) + now - self._since, 3)
        self._since = now
