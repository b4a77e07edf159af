"""What is asked of a run, and what it answers."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pipeline.config import (
    AuditConfig,
    CostConfig,
    LeaseConfig,
    ManifestConfig,
    RetryConfig,
    StageConfig,
    TablesConfig,
)
from pipeline.errors import ConfigurationError
from pipeline.tables.ledger import Run

Summary = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run shall do.

    Attributes:
        job: Name of the job.
        run_id: Name of the run; the same again resumes it.
        tables: Where the tables are.
        manifest: What to tag; None: what the tables know, for a backfill.
        selection: ``nightly``: what is new, changed or due. ``backfill``: also what another model
            or taxonomy made.
        backfill_id: The backfill the run is part of; None: none.
        stage: Sizes of chunks and tasks, and the score floor.
        retry: When failures are due.
        audit: What may be published without being looked at.
        lease: How long to wait for another job that publishes.
        cost: What a device hour costs.
        as_of: The moment the manifest speaks for; None: the manifest's own time.
        limit: Tag at most so many images.
        force: Tag again what stands.
        ids: Only these images; empty: all.
        slots: Tasks that run at once.
        config: Resolved configuration without secrets, JSON, for the ledger.
        now: The clock.
    """

    job: str
    run_id: str
    tables: TablesConfig
    manifest: ManifestConfig | None
    selection: Literal["nightly", "backfill"] = "nightly"
    backfill_id: str | None = None
    stage: StageConfig = field(default_factory=StageConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    as_of: datetime | None = None
    limit: int | None = None
    force: bool = False
    ids: tuple[str, ...] = ()
    slots: int = 1
    config: str = "{}"
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def summarise(run: Run, request: RunRequest) -> Summary:
    """The summary of a run, the same whenever it is asked for."""
    return _summary(run, slots=request.slots, device_hour=request.cost.device_hour)


def summarise_recorded(run: Run) -> Summary:
    """The summary of a run by itself: slots and price are those it was made with."""
    device_hour = json.loads(run.config or "{}").get("cost", {}).get("device_hour", 0.0)
    return _summary(run, slots=run.counts.get("slots", 0), device_hour=device_hour)


def _summary(run: Run, *, slots: int, device_hour: float) -> Summary:
    counts, timings = run.counts, run.timings
    seconds, tag_s = sum(timings.values()), timings.get("tag", 0.0)
    summary = {
        "run_id": run.run_id,
        "job": run.job,
        "state": run.state,
        "as_of": run.as_of.isoformat(),
    }
    outcomes = (
        "manifest_rows",
        "skipped",
        "reused",
        "rescored",
        "tagged",
        "failed",
        "deleted",
        "superseded",
        "tags_published",
        "text_cut",
    )
    return {
        **summary,
        **{outcome: counts.get(outcome, 0) for outcome in outcomes},
        "superseded": counts.get("superseded", 0) + counts.get("superseded_before", 0),
        "model_version": run.model_version,
        "taxonomy_version": run.taxonomy_version,
        "seconds": round(seconds, 1),
        "images_per_s": round(counts.get("scored", 0) / tag_s, 2) if tag_s else 0.0,
        "cost": _cost(seconds, slots, device_hour),
    }


def cost_of(seconds: float, request: RunRequest) -> float:
    """Price of all slots for that long, in the configuration's currency."""
    return _cost(seconds, request.slots, request.cost.device_hour)


def _cost(seconds: float, slots: int, device_hour: float) -> float:
    return round(seconds / 3600 * slots * device_hour, 4)


def parse_as_of(text: str | None) -> datetime | None:
    """A scheduler's moment: ISO 8601, UTC where it names no offset.

    Raises:
        ConfigurationError: It is no moment.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(
            "as_of is no moment",
            where="as_of",
            expected="ISO 8601 such as 2026-03-01T00:00:00Z",
            got=text,
        ) from error


def make_run_id(job: str, asked: str | None, *, now: datetime) -> str:
    """The name of a run: the one that was asked for, else one of its own.

    Raises:
        ConfigurationError: The name holds what no file name should.
    """
    if asked is None:
        return f"{job}-{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    if not _RUN_ID.fullmatch(asked):
        raise ConfigurationError(
            "run_id cannot name a run",
            where="run_id",
            expected="1 to 200 letters, digits or . _ : + -",
            got=asked[:200],
        )
    return asked


_RUN_ID = re.compile(r"[A-Za-z0-9._:+\-]{1,200}")
