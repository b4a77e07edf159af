"""Whether the last commit of a table is whole, on disks where a power cut may cut it off.

Delta writes a commit to a file beside it and renames it, which keeps readers from half of it. What
a disk that lost power, or was full, has kept of the file is another matter: an empty commit says
nothing changed, and Delta goes on from there. Object stores make an object whole or not at all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pipeline.errors import TablesError
from pipeline.tables.schemas import TABLES
from pipeline.tables.store import COMMIT_FILE, TableSet

_TAIL = 8 << 20  # bytes; lines before them are not looked at


def validate_last_commits(tables: TableSet) -> None:
    """Refuse tables whose last commit is damaged. Looks at tables on this machine only.

    Raises:
        TablesError: Names the file of the first.
    """
    if tables.local_folder is None:
        return
    for table in TABLES:
        log = tables.local_folder / table.name / "_delta_log"
        try:
            _validate_last_commit(log)
        except (FileNotFoundError, NotADirectoryError):  # no table, or another first night's
            continue
        except OSError as error:
            raise TablesError(
                "the log of a table cannot be read", where=log, got=error.strerror or error
            ) from error


def _validate_last_commit(log: Path) -> None:
    commits = [entry.name for entry in log.iterdir() if COMMIT_FILE.fullmatch(entry.name)]
    if not commits:
        return
    last = log / max(commits)
    damage = find_damage(last)
    if damage is not None:
        raise TablesError(
            "the last commit of a table is damaged",
            where=last,
            expected="whole lines of JSON",
            got=damage,
            todo="bring the file back from a copy of the disk; without one, see Damaged tables in "
            "docs/operations.md",
        )


def find_damage(commit: Path) -> str | None:
    """What is wrong with a commit, or the end of a long one; None: nothing that can be seen."""
    with commit.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size > _TAIL:
            file.seek(-_TAIL, os.SEEK_END)
            file.readline()  # the rest of a line
            if file.tell() == size:  # which was the last
                file.seek(0)
        else:
            file.seek(0)
        lines = file.read().splitlines()
    if not lines:
        return "an empty file"
    try:
        for line in lines:
            json.loads(line)
    except ValueError:  # of Unicode too
        return f"a line that is not whole, in a file of {size} bytes"
    return None
