"""What a person decides about a run: publish it all the same, discard it, or abandon it.

All of it happens under the lease of the table set, and from the state the run has then.
"""

from __future__ import annotations

import logging
from typing import Literal

from pipeline.config import LeaseConfig
from pipeline.errors import TablesError
from pipeline.tables.create import existing_tables
from pipeline.tables.lease import Lease, hold_lease
from pipeline.tables.ledger import Ledger, Run
from pipeline.tables.restore import restore_table, validate_undoable
from pipeline.tables.schemas import TABLES
from pipeline.tables.store import TableSet
from pipeline.tagging.publish import PUBLISHED_TABLES, publish_note
from pipeline.tagging.release import (
    Clock,
    discard_run,
    publish_run,
    require_state,
    roll_forward,
)

log = logging.getLogger(__name__)

Decision = Literal["publish", "discard", "abandon"]

_NAMED = 5  # latest runs that an error names


def find_run(tables: TableSet, run_id: str) -> Run:
    """The run of that name.

    Raises:
        SchemaVersionError: The tables are of another version.
        TablesError: There are no tables, or no such run; names the latest ones.
    """
    existing = existing_tables(tables)
    if len(existing) < len(TABLES):
        raise TablesError(
            "there are no tables of runs",
            where=tables.home,
            todo="check --tables.location or --tables.schema, or run tag_nightly first",
        )
    ledger = Ledger(tables)
    run = ledger.find(run_id)
    if run is None:
        latest = ledger.latest_run_ids(_NAMED)
        raise TablesError(
            "there is no run of that name",
            where=f"--run_id {run_id}",
            expected=f"one such as {', '.join(latest)}" if latest else "a run: there is none yet",
        )
    return run


def resolve_run(
    tables: TableSet, run: Run, decision: Decision, *, lease: LeaseConfig, now: Clock
) -> Run:
    """Do with a run what was decided. What is done already changes nothing.

    Args:
        tables: The table set.
        run: From :func:`find_run`; its state is read again under the lease.
        decision: What to do.
        lease: How long to wait for another job.
        now: The clock.

    Returns:
        The run as it is then: published or discarded.

    Raises:
        RunConflictError: The run is in a state of which that cannot be.
        LeaseError: Another job publishes to the tables, and did not end in time.
        TablesError: The tables cannot be put back; the storage refuses.
    """
    ledger = Ledger(tables)
    with hold_lease(tables, f"{decision} of {run.run_id}", lease) as held:
        run = ledger.find(run.run_id) or run
        done = "published" if decision == "publish" else "discarded"
        if run.state == done:
            log.warning("run %s is %s already: nothing to do", run.run_id, done)
            return run
        if decision == "publish":
            return _publish(tables, ledger, run, held, now=now)
        if decision == "abandon":
            return abandon_run(tables, ledger, run, held, now=now)
        held.check()
        return discard_run(ledger, run, now=now, detail="discarded by hand")


def abandon_run(tables: TableSet, ledger: Ledger, run: Run, lease: Lease, *, now: Clock) -> Run:
    """Give up a run whose publishing was cut off, and put the tables back to before it.

    Killed on the way, the run is still publishing: it can be abandoned, or finished, as before.

    Raises:
        RunConflictError: It is not publishing.
        TablesError: Somebody else changed the tables since, or they cannot be put back.
        LeaseError: The lease was lost.
    """
    require_state(run, "publishing")
    # The reverse of publishing: while ``images`` tells of the run, tags and embeddings do.
    names = [table.name for table in reversed(PUBLISHED_TABLES)]
    if any(name not in run.table_versions for name in names):
        raise TablesError(
            "the ledger does not say what the tables were before the run",
            where=run.run_id,
            got="its publishing began with an older version of this software",
            todo="finish it with publish_run --action publish",
        )
    note = f"mumic run {run.run_id} abandoned"
    for name in names:
        validate_undoable(tables, name, run.table_versions[name], own=(publish_note(run), note))
    for name in names:
        version = run.table_versions[name]
        if restore_table(tables, name, version, note=note, lease=lease):
            log.info("%s is back at version %d", name, version)
    lease.check()
    detail = "abandoned: the tables were put back to before it"
    return ledger.advance(run, "discarded", at=now(), detail=detail)


def _publish(tables: TableSet, ledger: Ledger, run: Run, lease: Lease, *, now: Clock) -> Run:
    """Publish, after what others left unfinished; where this is the run that was, finish it."""
    require_state(run, "held", "staged", "publishing")
    finished = roll_forward(tables, ledger, lease, now=now)
    return finished.get(run.run_id) or publish_run(tables, ledger, run, lease, now=now)
