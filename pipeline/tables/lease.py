"""The lease of a table set: one job at a time publishes to it. Inference holds none.

On this machine it is a lock of the operating system (:mod:`pipeline.tables.lease_file`), elsewhere
a row of a Delta table that expires (:mod:`pipeline.tables.lease_table`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from pipeline.config import LeaseConfig
from pipeline.tables.lease_file import hold_file_lease
from pipeline.tables.lease_table import hold_table_lease
from pipeline.tables.store import TableSet


class Lease(Protocol):
    """The lease in its holder's hands."""

    def check(self) -> None:
        """Go on only if it is still held: called straight before each commit.

        Raises:
            LeaseError: It was lost.
        """


def hold_lease(tables: TableSet, holder: str, config: LeaseConfig) -> AbstractContextManager[Lease]:
    """Hold the lease of a table set while the block runs.

    Args:
        tables: The table set; a local folder is made where it does not exist.
        holder: Who asks, for those who wait: a run_id.
        config: How long to wait for another holder, and how long a silent one counts as alive.

    Raises:
        LeaseError: Another one still holds it then. Names it.
        TablesError: The storage refuses.
    """
    folder = tables.local_folder
    if folder is not None:
        return hold_file_lease(folder, holder, wait_s=config.wait_s)
    return hold_table_lease(tables, holder, config)
