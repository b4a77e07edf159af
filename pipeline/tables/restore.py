"""Putting a table back to an earlier version, where all that changed it since may be undone."""

from __future__ import annotations

from collections.abc import Collection

from pyspark.errors import IllegalArgumentException
from pyspark.sql import functions as F  # noqa: N812

from pipeline.errors import TablesError
from pipeline.tables.commit import one_commit
from pipeline.tables.lease import Lease
from pipeline.tables.storage_errors import storage_errors
from pipeline.tables.store import TableSet


def notes_since(tables: TableSet, name: str, version: int) -> list[str | None]:
    """The userMetadata of each commit after a version, the latest first.

    Raises:
        TablesError: The table's log does not tell all of them any more.
    """
    with storage_errors(f"reading the history of {tables.place(name)}"):
        count = tables.version(name) - version
        if count <= 0:
            return []
        history = tables.delta(name).history(count).where(F.col("version") > version)
        rows = history.orderBy(F.col("version").desc()).select("userMetadata").collect()
    if len(rows) < count:
        raise TablesError(
            "the table's log does not tell any more what changed it",
            where=f"{tables.place(name)}, since version {version}",
            expected=f"{count} commits",
            got=len(rows),
            todo="look at the table itself; it cannot be put back by us",
        )
    return [row["userMetadata"] for row in rows]


def validate_undoable(tables: TableSet, name: str, version: int, *, own: Collection[str]) -> None:
    """Refuse to undo what somebody else did to the table.

    Args:
        tables: The table set.
        name: The table.
        version: The one to go back to.
        own: userMetadata of the commits that may be undone.

    Raises:
        TablesError: Names the version and the first commit that is not among them.
    """
    notes = notes_since(tables, name, version)
    for place, note in enumerate(reversed(notes), start=1):
        if note not in own:
            raise TablesError(
                "the table was changed by another job since: going back would undo that as well",
                where=f"{tables.place(name)}, version {version + place}",
                got=note or "a commit without a note",
                todo="mend what keeps the run from being finished, then publish_run --action"
                " publish; or, if that change may be lost, RESTORE TABLE ... TO VERSION AS OF"
                f" {version} by hand",
            )


def restore_table(tables: TableSet, name: str, version: int, *, note: str, lease: Lease) -> bool:
    """Put a table back in one commit, unless it is back already.

    Args:
        tables: The table set.
        name: The table.
        version: The one to go back to.
        note: userMetadata of the commit; a table whose latest commit has it is back already.
        lease: Of the table set; checked straight before the commit.

    Returns:
        Whether it was put back now.

    Raises:
        TablesError: Files of that version are gone, or the storage refuses.
    """
    notes = notes_since(tables, name, version)
    if not notes or notes[0] == note:
        return False
    with one_commit(tables, name, note=note, lease=lease):
        try:
            tables.delta(name).restoreToVersion(version)
        except IllegalArgumentException as error:  # how Delta tells that files were vacuumed
            raise TablesError(
                "the table cannot be put back",
                where=f"{tables.place(name)}, version {version}",
                got=str(error).splitlines()[0],
                todo="mend what keeps the run from being finished, then publish_run --action"
                " publish",
            ) from error
    return True
