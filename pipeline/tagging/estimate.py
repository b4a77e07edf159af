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
from pipeline.tagging.catalogue import Catalogue, validate_has_images
from pipeline.tagging.facts import Tagger, reusable_results
from pipeline.tagging.manifest import read_manifest
from pipeline.tagging.planning import Moment, count_plan
from pipeline.tagging.request import RunRequest, Summary, cost_of
from pipeline.tagging.run import validate_request, validate_same_run
from pipeline.tagging.selection import LAST_SEQ
from pipeline.tagging.stage import validate_floor
from pipeline.tagging.workload import Workload

# Of the images a run looked at, those it recalled: with more, its time says little of the model.
_MOST_RECALLED = 0.1


def estimate_run(spark: SparkSession, request: RunRequest, tagger: Tagger) -> Summary:
    """Check everything a run checks and count what it would do.

    The speed is that of the latest published run with the same model, else
    ``cost.images_per_s``; without either, time and cost are null.
    """
    validate_request(request)
    validate_floor(tagger, request.stage)
    tables = open_tables(spark, request.tables)
    existing = existing_tables(tables)
    images = tables.read(IMAGES.name) if IMAGES.name in existing else None
    manifest = None
    if request.manifest is not None:
        manifest = read_manifest(spark, request.manifest)
    else:
        validate_has_images(tables, existing)
    if tables.location is not None:
        validate_creatable(tables.location)
    catalogue = Catalogue(tables=tables, ledger=Ledger(tables), manifest=manifest)
    as_of = request.as_of or catalogue.as_of()
    run = catalogue.ledger.find(request.run_id) if TAGGING_RUNS.name in existing else None
    workload = Workload(catalogue=catalogue, request=request, tagger=tagger)
    if run is not None:
        validate_same_run(run, request, tagger, digest=catalogue.digest)
    moment = Moment(as_of=as_of, run_seq=LAST_SEQ)
    plan = workload.plan(images, moment, resumed=run.run_id if run else None)
    with kept(plan.drop("uri", "content", "text")) as rows:
        counts = count_plan(rows)
        reused = 0
        if TAGGING_RESULTS.name in existing and not request.force:
            to_tag = rows.where(F.col("action") == "tag")
            reused = reusable_results(tables, to_tag, tagger, run_id=request.run_id).count()
    speed = request.cost.images_per_s
    if TAGGING_RUNS.name in existing:
        speed = measured_speed(catalogue.ledger, tagger.model_version) or speed
    to_model = counts.of("tag") - reused
    seconds = to_model / (speed * request.slots) if speed else None
    return {
        "run_id": request.run_id,
        "job": request.job,
        "state": "dry_run",
        "as_of": as_of.isoformat(),
        "manifest_rows": counts.named,
        "skipped": counts.passed_over,
        "staged_before": counts.of("staged"),
        "to_reuse": reused,
        "to_tag": to_model,
        "to_rescore": counts.of("rescore"),
        "to_retry": counts.of("tag", asked_by="retry"),
        "unreachable": counts.of("unreachable"),
        "to_delete": counts.of("delete"),
        "to_fail": counts.of("contradict"),
        "superseded": counts.of("superseded"),
        "model_version": tagger.model_version,
        "taxonomy_version": tagger.taxonomy.version,
        "estimated_seconds": None if seconds is None else round(seconds, 1),
        "estimated_cost": None if seconds is None else cost_of(seconds, request),
    }


def measured_speed(ledger: Ledger, model_version: str) -> float | None:
    """Images per second and slot of the latest published run of the same model, if there is one."""
    for run in reversed(ledger.in_state("published")):
        slots = run.counts.get("slots", 0)
        scored, recalled = run.counts.get("scored", 0), run.counts.get("recalled", 0)
        seconds = run.timings.get("tag", 0.0)
        if run.model_version != model_version or recalled > scored * _MOST_RECALLED:
            continue
        if scored and seconds and slots:
            return (scored - recalled) / seconds / slots
    return None
