"""Maintenance of a table set: create, migrate, retain, optimize, vacuum, table by table.

The lease is taken for each step of each table and given back in between, so that a run that wants
to publish waits for one of them at most. Runs that stage hold no lease and need none: their appends
do not conflict with what is done here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from pyspark.sql import SparkSession

from pipeline.config import MaintainTablesConfig
from pipeline.errors import ConfigurationError
from pipeline.tables.compaction import compact, is_worth_compacting, vacuum
from pipeline.tables.create import create_table, validate_schema_version
from pipeline.tables.erase import HOLDING, count_rows, delete_leftovers, erased_ids
from pipeline.tables.last_commit import validate_last_commits
from pipeline.tables.lease import Lease, hold_lease
from pipeline.tables.migrate import migrate_table, outdated_tables
from pipeline.tables.retention import (
    count_facts,
    delete_facts,
    expired_runs,
    published_runs,
    read_changes,
)
from pipeline.tables.schemas import SCHEMA_VERSION, TABLES, TAGGING_RESULTS, TAGGING_RUNS
from pipeline.tables.store import TableSet, open_tables
from pipeline.tables.views import create_views

LEAST_RETENTION_H = 168.0  # Delta's own: a week, longer than any query or run takes

log = logging.getLogger(__name__)


def validate_retention(config: MaintainTablesConfig) -> None:
    """Refuse a retention that takes files from under running jobs, unless there are none.

    Raises:
        ConfigurationError: It is too short.
    """
    if config.vacuum and config.retention_h < LEAST_RETENTION_H and not config.assume_idle:
        raise ConfigurationError(
            "a vacuum with so short a retention deletes files that running jobs and queries need",
            where="retention_h",
            expected=f"at least {LEAST_RETENTION_H:g}",
            got=f"{config.retention_h:g}",
            todo="where nothing uses the tables, say so with --assume_idle",
        )


@dataclass(frozen=True, kw_only=True)
class Maintenance:
    """One maintenance of a table set.

    Attributes:
        spark: Session with Delta configured.
        config: What to do.
        now: The moment facts grow old by.
    """

    spark: SparkSession
    config: MaintainTablesConfig
    now: datetime

    @cached_property
    def tables(self) -> TableSet:
        """The table set."""
        return open_tables(self.spark, self.config.tables)

    def run(self) -> dict[str, Any]:
        """Do what the configuration asks; the summary.

        Raises:
            ConfigurationError: The retention is too short.
            SchemaVersionError: A table is newer than this product, or old and not to be migrated.
            LeaseError: Another job publishes and does not end in time.
            TablesError: The storage refuses.
        """
        validate_retention(self.config)
        since = time.monotonic()
        summary: dict[str, Any] = {
            "job": "maintain_tables",
            "state": "dry_run" if self.config.dry_run else "done",
            "schema_version": SCHEMA_VERSION,
        }
        validate_last_commits(self.tables)  # a commit after a damaged one would hide it
        there = [table.name for table in TABLES if self.tables.exists(table.name)]
        summary |= self.migrate(there)
        if not self.config.dry_run:
            there += summary["created"]
        if self.config.retain and len(there) == len(TABLES):
            summary |= self.retain()
        told = {name: self.tidy(name) for name in there}
        summary["tables"] = told
        summary["vacuumed_files"] = sum(one["vacuumed_files"] or 0 for one in told.values())
        return {**summary, "seconds": round(time.monotonic() - since, 1)}

    def migrate(self, there: Collection[str]) -> dict[str, Any]:
        """Create the tables that are missing and migrate the old ones.

        Args:
            there: Names of the tables that exist.
        """
        if not self.config.migrate:
            for name in there:
                validate_schema_version(self.tables, name)
            return {"created": [], "migrated": {}}
        outdated = outdated_tables(self.tables, there)
        missing = [table for table in TABLES if table.name not in there]
        due = [table for table in TABLES if table in missing or table.name in outdated]
        for definition in () if self.config.dry_run else due:
            with self._leased() as lease:
                if definition in missing:
                    create_table(self.tables, definition)
                    create_views(self.tables, over=definition.name)
                else:
                    migrate_table(self.tables, definition, lease)
        return {"created": [table.name for table in missing], "migrated": outdated}

    def retain(self) -> dict[str, Any]:
        """Delete facts that expired, and what there is of erased images."""
        if self.config.dry_run:
            facts = self._expired_facts()
            ids = erased_ids(self.tables)
            leftovers = {table.name: count_rows(self.tables, table.name, ids) for table in HOLDING}
        else:
            with self._leased() as lease:
                facts = self._expired_facts()  # under the lease: nobody publishes them meanwhile
                if facts:
                    delete_facts(self.tables, facts, lease)
            with self._leased() as lease:
                leftovers = delete_leftovers(self.tables, lease=lease)
        return {
            "expired_runs": sorted(facts),
            "facts_deleted": sum(facts.values()),
            "erased_rows_deleted": sum(leftovers.values()),
        }

    def _expired_facts(self) -> dict[str, int]:
        before = self.now - timedelta(days=self.config.keep_facts_days)
        expired = expired_runs(read_changes(self.tables), before=before)
        return count_facts(self.tables, expired) if expired else {}

    def tidy(self, name: str) -> dict[str, Any]:
        """Optimize and vacuum one table; how many files it had and has."""
        runs = None
        if name == TAGGING_RESULTS.name and self.config.optimize:
            # A run that is not published yet may be staging: its files are its own.
            known = self.tables.exists(TAGGING_RUNS.name)
            runs = published_runs(read_changes(self.tables)) if known else []
        before = after = self._files(name)
        optimized = "off"
        if self.config.optimize:
            optimized = is_worth_compacting(self.tables, name, cluster=self.config.cluster)
            if optimized != "unchanged" and not self.config.dry_run:
                with self._leased() as lease:
                    compact(self.tables, name, cluster=self.config.cluster, runs=runs, lease=lease)
        vacuumed = None
        if self.config.vacuum and not self.config.dry_run:
            with self._leased() as lease:
                vacuumed = vacuum(self.tables, name, self.config.retention_h, lease=lease)
        if optimized not in ("off", "unchanged") and not self.config.dry_run:
            after = self._files(name)
        log.info("%s: %s, %d files, before %d", name, optimized, after, before)
        return {
            "files_before": before,
            "files_after": after,
            "optimized": optimized,
            "vacuumed_files": vacuumed,
        }

    def _files(self, name: str) -> int:
        return int(self.tables.delta(name).detail().collect()[0]["numFiles"])

    def _leased(self) -> AbstractContextManager[Lease]:
        return hold_lease(self.tables, "maintain_tables", self.config.lease)
