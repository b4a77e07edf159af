"""A backfill: runs of the same kind, one after the other, until a fresh selection is empty.

Each run is staged, audited and published by itself. Nothing is remembered but what the ledger and
the tables say: a backfill that was killed goes on when it is started again with its backfill_id.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from pyspark.sql import SparkSession

from pipeline.errors import TablesError
from pipeline.tables.ledger import Run
from pipeline.tables.schemas import IMAGES
from pipeline.tagging.catalogue import Catalogue, open_catalogue
from pipeline.tagging.facts import Tagger
from pipeline.tagging.pace import BackfillPace
from pipeline.tagging.planning import Moment, PlanCounts, count_plan
from pipeline.tagging.release import held
from pipeline.tagging.request import RunRequest, Summary, cost_of, summarise
from pipeline.tagging.run import execute_run, validate_request
from pipeline.tagging.selection import ACTIVE, LAST_SEQ
from pipeline.tagging.stage import Progress, staged_images, validate_floor
from pipeline.tagging.workload import Workload

log = logging.getLogger(__name__)

PACED_CHUNK_S = 60.0  # a rate is kept on average over as long: images come in chunks
_ENDED = ("published", "discarded")

BackfillState = Literal["published", "paused", "limited"]


def run_backfill(
    spark: SparkSession,
    request: RunRequest,
    tagger: Tagger,
    *,
    publish_every: int,
    pace: BackfillPace,
    progress: Progress | None = None,
) -> Summary:
    """Bring a catalogue to one model and taxonomy; started again it goes on where it was.

    Args:
        spark: The session.
        request: What each run shall do; its ``backfill_id`` names the backfill, its ``limit`` is
            that of all runs of this call.
        tagger: The model.
        publish_every: Chunks of a run.
        pace: Rate and hours; a low rate makes chunks smaller.
        progress: Hears how it goes on.

    Returns:
        The summary: the sum over all runs of the backfill, ``state`` (``published``: done;
        ``paused``: the window closed; ``limited``: the limit was reached) and ``remaining`` images.

    Raises:
        HeldByAudit: The audit holds a run; the backfill goes on when it is published or discarded.
        PipelineError: As :func:`pipeline.tagging.run.run_tagging`.
    """
    validate_request(request)
    validate_floor(tagger, request.stage)
    if pace.rows_per_s is not None:
        paced = max(1, round(pace.rows_per_s * PACED_CHUNK_S))
        chunk_rows = min(request.stage.chunk_rows, paced)
        request = replace(request, stage=replace(request.stage, chunk_rows=chunk_rows))
    catalogue = open_catalogue(spark, request)
    backfill = Backfill(
        catalogue=catalogue,
        request=request,
        tagger=tagger,
        run_rows=publish_every * request.stage.chunk_rows,
        progress=progress or Progress(),
        pace=pace,
    )
    return backfill.run()


@dataclass(frozen=True, kw_only=True)
class Backfill:
    """The runs of a backfill.

    Attributes:
        catalogue: Tables and manifest.
        request: What each run shall do.
        tagger: The model.
        run_rows: Images of a run.
        progress: Hears how it goes on.
        pace: Rate and hours.
    """

    catalogue: Catalogue
    request: RunRequest
    tagger: Tagger
    run_rows: int
    progress: Progress
    pace: BackfillPace

    def run(self) -> Summary:
        """Run after run until nothing is left, the limit is reached or the window closes."""
        left, started = self.request.limit, self.request.now()
        waiting = self.count_remaining()
        whole = waiting.of(*ACTIVE)
        self._tell_way(waiting)
        if waiting.of("tag"):
            self.progress.expect(waiting.of("tag"))
        try:
            return self._run(left, started, whole)
        finally:
            self.progress.finish()

    def _run(self, left: int | None, started: datetime, whole: int) -> Summary:
        remaining = whole
        unfinished = self._unfinished()
        while (unfinished or remaining) and left != 0 and self.pace.is_open:
            rows = self.run_rows if left is None else min(self.run_rows, left)
            request = replace(self.request, run_id=self._next_run_id(), limit=rows)
            if unfinished:
                run = unfinished.pop(0)
                request = replace(request, run_id=run.run_id, as_of=run.as_of)
            staged = self._execute(request)
            left = None if left is None else max(0, left - staged)
            remaining = max(0, remaining - staged)
            if remaining == 0 or staged < rows:
                remaining = self.count_remaining().of(*ACTIVE)
                if staged == 0 and remaining and not unfinished and self.pace.is_open:
                    raise self._stuck(remaining)
            self._tell(whole, remaining, since=started)
        state: BackfillState = "published"
        if unfinished or remaining:
            state = "limited" if left == 0 else "paused"
        return self._summary(state, remaining)

    def count_remaining(self) -> PlanCounts:
        """What a run that began now would find."""
        images = self.catalogue.tables.read(IMAGES.name)
        moment = Moment(as_of=self.request.as_of or self.catalogue.as_of(), run_seq=LAST_SEQ)
        workload = Workload(
            catalogue=self.catalogue,
            request=replace(self.request, limit=None),
            tagger=self.tagger,
        )
        return count_plan(workload.plan(images, moment))

    def _unfinished(self) -> list[Run]:
        """Runs to go on with. Of other manifests, models and taxonomies only the facts are used.

        Raises:
            HeldByAudit: The audit holds one of them.
        """
        target = (
            self.catalogue.digest,
            self.tagger.model_version,
            self.tagger.taxonomy.version,
        )
        unfinished = []
        for run in self._runs():
            if run.state == "held":
                raise held(run, summarise(run, self.request))
            same = (run.manifest_digest, run.model_version, run.taxonomy_version) == target
            if run.state not in _ENDED and same:
                unfinished.append(run)
        return unfinished

    def _execute(self, request: RunRequest) -> int:
        """One run to its end; how many images it staged."""
        execute_run(self.catalogue, request, self.tagger, progress=self.progress, pace=self.pace)
        return staged_images(self.catalogue.tables, request.run_id).count()

    def _runs(self) -> list[Run]:
        return self.catalogue.ledger.of_backfill(self.request.backfill_id or "")

    def _next_run_id(self) -> str:
        return f"{self.request.backfill_id}.{len(self._runs()) + 1:04d}"

    def _stuck(self, remaining: int) -> TablesError:
        return TablesError(
            "the backfill does not come further",
            where=self.request.backfill_id,
            got=f"{remaining} images that a run was to stage and did not",
            todo="look at the log of the last run",
        )

    def _tell_way(self, waiting: PlanCounts) -> None:
        """Whether the model is needed, and why."""
        to_tag, to_rescore = waiting.of("tag"), waiting.of("rescore")
        if self.tagger.rescore is not None or not (to_tag or to_rescore):
            return
        log.info(
            "backfill %s: %d images differ in thresholds alone and are published from staged"
            " scores, without the model; %d are tagged again, since nothing that was staged of"
            " them is enough: this model scores from image and text, not from stored embeddings",
            self.request.backfill_id,
            to_rescore,
            to_tag,
        )

    def _tell(self, whole: int, remaining: int, *, since: datetime) -> None:
        done, seconds = whole - remaining, (self.request.now() - since).total_seconds()
        left = timedelta(seconds=round(seconds / done * remaining)) if done > 0 else "unknown"
        log.info(
            "backfill %s: %d of %d images done, %s left",
            self.request.backfill_id,
            done,
            whole,
            left,
        )

    def _summary(self, state: BackfillState, remaining: int) -> Summary:
        runs = [run for run in self._runs() if run.state == "published"]
        summaries = [summarise(run, self.request) for run in runs]
        seconds = sum(sum(run.timings.values()) for run in runs)
        tag_s = sum(run.timings.get("tag", 0.0) for run in runs)
        scored = sum(run.counts.get("scored", 0) for run in runs)
        return {
            "run_id": self.request.backfill_id,
            "job": self.request.job,
            "state": state,
            "as_of": (self.request.as_of or self.catalogue.as_of()).isoformat(),
            "runs": len(runs),
            "remaining": remaining,
            **_sums(summaries),
            "unreachable": runs[-1].counts.get("unreachable", 0) if runs else 0,
            "model_version": self.tagger.model_version,
            "taxonomy_version": self.tagger.taxonomy.version,
            "seconds": round(seconds, 1),
            "images_per_s": round(scored / tag_s, 2) if tag_s else 0.0,
            "cost": cost_of(seconds, self.request),
        }


def _sums(summaries: Sequence[Summary]) -> dict[str, int]:
    """What the runs did; what they passed over is that of the last, which saw all of it."""
    done = (
        "reused",
        "rescored",
        "tagged",
        "failed",
        "deleted",
        "superseded",
        "tags_published",
        "text_cut",
    )
    summed = {name: sum(summary[name] for summary in summaries) for name in done}
    last = summaries[-1] if summaries else {}
    return {
        "manifest_rows": last.get("manifest_rows", 0),
        "skipped": last.get("skipped", 0),
        **summed,
    }
