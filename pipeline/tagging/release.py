"""What becomes of a staged run: audited, then published, held or discarded; and roll-forward.

States: staged -> publishing | held; held -> publishing | discarded; publishing -> published |
discarded (:func:`pipeline.tagging.resolution.abandon_run`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pipeline.config import AuditConfig
from pipeline.errors import HeldByAudit, RunConflictError, TablesError
from pipeline.tables.lease import Lease
from pipeline.tables.ledger import Ledger, Run, State
from pipeline.tables.restore import notes_since
from pipeline.tables.store import TableSet
from pipeline.tagging.audit import Finding, as_json, from_json, judge
from pipeline.tagging.audit_figures import measure_staged
from pipeline.tagging.facts import FactCounts, count_facts
from pipeline.tagging.publish import PUBLISHED_TABLES, publish_note, publish_staged
from pipeline.tagging.stopwatch import Stopwatch

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


@dataclass(frozen=True, kw_only=True)
class Audited:
    """A staged run after the audit.

    Attributes:
        run: Staged or held.
        seen: What the audit saw, as the ledger keeps it.
        counted: The facts it saw.
    """

    run: Run
    seen: str
    counted: FactCounts


def audit_run(
    tables: TableSet,
    ledger: Ledger,
    run: Run,
    *,
    source: str | None,
    limits: AuditConfig,
    now: Clock,
) -> Audited:
    """Judge a staged run; hold it where it passes a limit."""
    watch = Stopwatch()
    counted = count_facts(tables, run)
    figures = measure_staged(
        tables, ledger, run, source=source, min_images=limits.min_images, counted=counted
    )
    findings = judge(figures, limits)
    seen = as_json(figures, findings)
    if findings:
        watch.lap("audit")
        timings = {**run.timings, **watch.laps}
        run = ledger.advance(run, "held", at=now(), timings=timings, audit=seen)
    return Audited(run=run, seen=seen, counted=counted)


def findings_of(run: Run) -> tuple[Finding, ...]:
    """The limits a held run passed."""
    return from_json(run.audit)[1] if run.audit else ()


def held(run: Run, summary: dict[str, object]) -> HeldByAudit:
    """The verdict on a held run, for people, with its summary."""
    told = [str(finding) for finding in findings_of(run)]
    rest = len(told) - 3
    return HeldByAudit(
        "the audit holds the run",
        where=run.run_id,
        got="; ".join(told[:3]) + (f"; and {rest} more" if rest > 0 else ""),
        todo=f"look at it: publish_run --run_id {run.run_id} --report FOLDER;"
        " then publish_run --action publish, or --action discard",
        summary=summary,
    )


def publish_run(
    tables: TableSet,
    ledger: Ledger,
    run: Run,
    lease: Lease,
    *,
    now: Clock,
    audited: Audited | None = None,
) -> Run:
    """Publish a run that is staged or held, or whose publishing was cut off.

    Args:
        tables: The table set.
        ledger: Its runs.
        run: In its latest state.
        lease: Of the table set.
        now: The clock.
        audited: The same run as the audit left it just now.

    Raises:
        TablesError: The storage refuses, or what it staged is gone and cannot be finished.
        LeaseError: The lease was lost.
    """
    was_cut_off = run.state == "publishing"
    if not was_cut_off:
        # The versions before: abandon_run goes back to them.
        before = tables.versions()
        seen = audited.seen if audited else None
        run = ledger.advance(run, "publishing", at=now(), audit=seen, table_versions=before)
    watch = Stopwatch()
    counts = publish_staged(tables, run, lease, counted=audited.counted if audited else None)
    watch.lap("publish")
    if was_cut_off and not any(counts.values()):
        _validate_untouched(tables, run)
    return ledger.advance(
        run,
        "published",
        at=now(),
        counts={**run.counts, **counts},
        timings={**run.timings, **watch.laps},
        table_versions=tables.versions(),
    )


def roll_forward(tables: TableSet, ledger: Ledger, lease: Lease, *, now: Clock) -> dict[str, Run]:
    """Finish the runs whose publishing was cut off, oldest first; what they became, by run_id."""
    finished = {}
    for run in ledger.in_state("publishing"):
        log.warning("run %s was cut off while it published: finishing it", run.run_id)
        try:
            finished[run.run_id] = publish_run(tables, ledger, run, lease, now=now)
        except Exception:
            log.error(
                "run %s could not be finished, and nothing is published before it is; if it never"
                " can be: publish_run --run_id %s --action abandon",
                run.run_id,
                run.run_id,
            )
            raise
    return finished


def discard_run(ledger: Ledger, run: Run, *, now: Clock, detail: str) -> Run:
    """Give up a run that was not published. Its facts are never used again.

    Raises:
        RunConflictError: It is published, or publishing.
    """
    require_state(run, "held")
    return ledger.advance(run, "discarded", at=now(), detail=detail)


def require_state(run: Run, *states: State) -> None:
    """Refuse a run in another state.

    Raises:
        RunConflictError: With both.
    """
    if run.state not in states:
        raise RunConflictError(
            "the run is in another state",
            where=run.run_id,
            expected=" or ".join(states),
            got=run.state,
            todo=_TODO.get(run.state),
        )


_TODO: dict[State, str] = {
    "started": "start its job again with this --run_id: it goes on where it was",
    "failed": "start its job again with this --run_id: it goes on where it was",
    "publishing": "finish it with --action publish, or put the tables back with --action abandon",
    "held": "publish it with --action publish, or give it up with --action discard",
    "discarded": "start its job again under another --run_id",
}
"""What can be done with a run in a state that does not fit."""


def _validate_untouched(tables: TableSet, run: Run) -> None:
    """Refuse to call a run published whose facts are gone after some tables took them in.

    Raises:
        TablesError: What to do.
    """
    for table in PUBLISHED_TABLES:
        before = run.table_versions.get(table.name)
        if before is not None and publish_note(run) in notes_since(tables, table.name, before):
            raise TablesError(
                "what the run staged is gone, and only some tables have it",
                where=run.run_id,
                todo=f"publish_run --run_id {run.run_id} --action abandon puts the tables back",
            )
