"""One run from manifest to published tables: the picture, step by step.

    read + validate -> select -> stage -> audit -> [lease] publish -> ledger

Nightly, backfill and retry are this run with another selection. Knows no model: the tagger comes
from outside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.errors import ConfigurationError, RunConflictError
from pipeline.few_rows import few_rows
from pipeline.redaction import redact
from pipeline.spark import explain
from pipeline.tables.labels import knows_labels, write_labels
from pipeline.tables.ledger import Ledger, Run
from pipeline.tables.merge import kept
from pipeline.tables.schemas import IMAGES
from pipeline.tagging.catalogue import Catalogue, leased, open_catalogue
from pipeline.tagging.facts import Tagger, staged_facts
from pipeline.tagging.planning import Moment, count_plan
from pipeline.tagging.recollection import count_recalled, pays_off
from pipeline.tagging.release import audit_run, held, publish_run, require_state, roll_forward
from pipeline.tagging.request import RunRequest, Summary, summarise
from pipeline.tagging.selection import ACTIVE
from pipeline.tagging.stage import Pace, Progress, stage_plan, validate_floor
from pipeline.tagging.stopwatch import Stopwatch
from pipeline.tagging.workload import Workload, in_words, ledger_counts

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
        HeldByAudit: The audit holds the run.
        LeaseError: Another job publishes to the tables, and did not end in time.
        TablesError: The storage refuses.
    """
    validate_request(request)
    validate_floor(tagger, request.stage)
    watch = Stopwatch()
    catalogue = open_catalogue(spark, request)
    run = execute_run(catalogue, request, tagger, progress=progress, watch=watch)
    return summarise(run, request)


def validate_request(request: RunRequest) -> None:
    """Refuse what cannot be asked of a run at once.

    Raises:
        ConfigurationError: A part of a feed would be taken for all of it.
    """
    retires = request.manifest is not None and request.manifest.retire_missing
    if retires and (request.limit is not None or request.ids):
        raise ConfigurationError(
            "images that vanished can be retired by a whole run only",
            where="manifest.retire_missing",
            expected="neither limit nor ids",
        )


def execute_run(
    catalogue: Catalogue,
    request: RunRequest,
    tagger: Tagger,
    *,
    progress: Progress | None = None,
    pace: Pace | None = None,
    watch: Stopwatch | None = None,
) -> Run:
    """Bring a run to its end, from wherever it is.

    Raises:
        RunConflictError: The run id belongs to another manifest, model or taxonomy.
        HeldByAudit: The audit holds the run.
        LeaseError: Another job publishes to the tables, and did not end in time.
        TablesError: The storage refuses.
    """
    watch = watch or Stopwatch()
    tables, ledger = catalogue.tables, catalogue.ledger
    run = ledger.find(request.run_id)
    is_resumed = run is not None
    if run is None:
        run = _start(catalogue, request, tagger)
    else:
        validate_same_run(run, request, tagger, digest=catalogue.digest)
        log.info("run %s goes on from state %s", run.run_id, run.state)
    watch.lap("start")
    if run.state == "published":
        return run
    try:
        if run.state == "failed":  # maintenance may delete what a failed run staged
            run = ledger.advance(run, "started", at=request.now())
        if run.state == "started":
            counts = _stage(
                run,
                Workload(catalogue=catalogue, request=request, tagger=tagger),
                is_resumed=is_resumed,
                progress=progress or Progress(),
                pace=pace or Pace(),
                watch=watch,
            )
            run = ledger.advance(run, "staged", at=request.now(), counts=counts, timings=watch.laps)
        audited = None
        if run.state == "staged":
            source = request.manifest.source if request.manifest else None
            audited = audit_run(
                tables, ledger, run, source=source, limits=request.audit, now=request.now
            )
            run = audited.run
        if run.state == "held":
            raise held(run, summarise(run, request))
        with leased(tables, request) as lease:
            roll_forward(tables, ledger, lease, now=request.now)
            run = ledger.find(run.run_id) or run  # others may have decided about it meanwhile
            if run.state != "published":
                require_state(run, "staged")
                run = publish_run(tables, ledger, run, lease, now=request.now, audited=audited)
    except Exception as error:
        _note_failure(ledger, run.run_id, error, now=request.now)
        raise
    return run


def validate_same_run(run: Run, request: RunRequest, tagger: Tagger, *, digest: str) -> None:
    """Refuse to go on with a run of that name that was asked for something else.

    Raises:
        RunConflictError: It has another manifest, model, taxonomy or moment, or was discarded.
    """
    if run.state == "discarded":
        raise RunConflictError(
            "the run was discarded", where=run.run_id, todo="start one under another --run_id"
        )
    same = {
        "manifest": (run.manifest_digest, digest),
        "model": (run.model_version, tagger.model_version),
        "taxonomy": (run.taxonomy_version, tagger.taxonomy.version),
        "as_of": (run.as_of, request.as_of or run.as_of),
    }
    for what, (known, asked) in same.items():
        if known != asked:
            raise RunConflictError(
                f"the run id belongs to a run with another {what}",
                where=run.run_id,
                expected=known,
                got=asked,
                todo="start a new run under another --run_id: what is staged is reused",
            )


def _stage(
    run: Run,
    workload: Workload,
    *,
    is_resumed: bool,
    progress: Progress,
    pace: Pace,
    watch: Stopwatch,
) -> dict[str, int]:
    """Select and stage what the run lacks; what was counted on the way."""
    tables, request, tagger = workload.catalogue.tables, workload.request, workload.tagger
    if not knows_labels(tables, tagger.taxonomy):
        with leased(tables, request) as lease:
            write_labels(tables, tagger.taxonomy, lease)
    images = tables.read(IMAGES.name, version=tables.version(IMAGES.name))
    moment = Moment(as_of=run.as_of, run_seq=run.run_seq)
    resumed = run.run_id if is_resumed else None
    with (
        few_rows(tables.spark, are_few=workload.is_small()),
        kept(workload.plan(images, moment, resumed=resumed)) as plan,
    ):
        counts = count_plan(plan)
        missing = workload.count_missing(images)
        watch.lap("select")
        log.info("run %s: %s", run.run_id, in_words(counts))
        recall = pays_off(
            tables, workload.catalogue.ledger, counts.known, model_version=tagger.model_version
        )
        scored = stage_plan(
            tables,
            run,
            plan.where(F.col("action").isin(*ACTIVE)),
            tagger,
            rescore=counts.of("rescore") > 0,
            config=request.stage,
            slots=request.slots,
            progress=progress,
            pace=pace,
            reuse=not request.force,
            recall=recall,
        )
        recalled = count_recalled(tables, run, plan) if recall else {}
    watch.lap("tag")
    cut = _count_cut_texts(workload, run)
    counted = {**ledger_counts(counts), **missing, **cut, **recalled}
    return {**counted, "scored": scored, "slots": request.slots}


def _count_cut_texts(workload: Workload, run: Run) -> dict[str, int]:
    """How many of the run's texts were longer than the model reads; empty: none was read."""
    feed = workload.request.manifest
    if feed is None or feed.columns.text is None:
        return {}
    cut = staged_facts(workload.catalogue.tables, run).where(F.col("text_cut"))
    return {"text_cut": cut.select("image_id").distinct().count()}


def _start(catalogue: Catalogue, request: RunRequest, tagger: Tagger) -> Run:
    return catalogue.ledger.start(
        run_id=request.run_id,
        job=request.job,
        as_of=request.as_of or catalogue.as_of(),
        manifest_digest=catalogue.digest,
        model_version=tagger.model_version,
        taxonomy_version=tagger.taxonomy.version,
        config=request.config,
        backfill_id=request.backfill_id,
        at=request.now(),
    )


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
