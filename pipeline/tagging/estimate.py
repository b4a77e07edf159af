"""What a run would do, how long it would take and what it would cost. Writes nothing."""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.storage import validate_creatable
from pipeline.tables.create import existing_tables
from pipeline.tables.ledger import Ledger
from pipeline.tables.merge import kept
from pipeline.tables.schemas import IMAGES, TAGGING_RESULTS, TAGGING_RUNS
from pipeline.tables.store import open_tables
from pipeline.tagging.manifest import read_manifest
from pipeline.tagging.request import RunRequest, Summary, cost_of
from pipeline.tagging.run import validate_same_run
from pipeline.tagging.selection import ACTIVE, LAST_SEQ, count_actions, select_rows
from pipeline.tagging.stage import Tagger, reusable_results, split_staged, validate_floor


def estimate_run(spark: SparkSession, request: RunRequest, tagger: Tagger) -> Summary:
    """Check everything a run checks and count what it would do.

    The speed is that of the latest published run with the same model, else
    ``cost.images_per_s``; without either, time and cost are null.
    """
    validate_floor(tagger, request.stage)
    tables = open_tables(spark, request.tables)
    existing = existing_tables(tables)
    manifest = read_manifest(spark, request.manifest)
    if tables.location is not None:
        validate_creatable(tables.location)
    as_of = request.as_of or manifest.as_of
    rows, staged_before = manifest.rows, 0
    run = Ledger(tables).find(request.run_id) if TAGGING_RUNS.name in existing else None
    if run is not None:
        validate_same_run(run, request, tagger, manifest)
        rows, staged_before = split_staged(tables, run.run_id, rows)
    planned = select_rows(
        rows,
        tables.read(IMAGES.name) if IMAGES.name in existing else None,
        request,
        as_of=as_of,
        run_seq=LAST_SEQ,
    )
    with kept(planned.select("image_id", "image_version", "clean_uri", "action")) as plan:
        counts = count_actions(plan)
        reused = 0
        if TAGGING_RESULTS.name in existing and not request.force:
            to_tag = plan.where(F.col("action") == "tag")
            reused = reusable_results(tables, to_tag, tagger, run_id=request.run_id).count()
    speed = request.cost.images_per_s
    if TAGGING_RUNS.name in existing:
        speed = _measured_speed(Ledger(tables), tagger.model_version) or speed
    to_model = counts["tag"] - reused
    seconds = to_model / (speed * request.slots) if speed else None
    active = sum(counts[action] for action in ACTIVE)
    return {
        "run_id": request.run_id,
        "job": request.job,
        "state": "dry_run",
        "as_of": as_of.isoformat(),
        "manifest_rows": sum(counts.values()) + staged_before,
        "skipped": sum(counts.values()) - active - counts["superseded"],
        "staged_before": staged_before,
        "to_reuse": reused,
        "to_tag": to_model,
        "to_delete": counts["delete"],
        "to_fail": counts["contradict"],
        "superseded": counts["superseded"],
        "model_version": tagger.model_version,
        "taxonomy_version": tagger.taxonomy.version,
        "estimated_seconds": None if seconds is None else round(seconds, 1),
        "estimated_cost": None if seconds is None else cost_of(seconds, request),
    }


def _measured_speed(ledger: Ledger, model_version: str) -> float | None:
    """Images per second and slot of the latest published run of the same model, if there is one."""
    for run in reversed(ledger.in_state("published")):
        scored, slots = run.counts.get("scored", 0), run.counts.get("slots", 0)
        seconds = run.timings.get("tag", 0.0)
        if run.model_version == model_version and scored and seconds and slots:
            return scored / seconds / slots
    return None
