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
from pipeline.tables.store import COMMIT_FILE, TableSet

_TAIL = 1 << 20  # bytes; more than a line that tells of one file, with its statistics


def validate_last_commit(tables: TableSet, name: str) -> None:
    """Refuse a table whose last commit is empty or cut off. Looks at tables on this machine only.

    Raises:
        TablesError: Names the file.
    """
    if tables.local_folder is None:
        return
    log = tables.local_folder / name / "_delta_log"
    if not log.is_dir():
        return
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
    """What is wrong with the end of a commit; None: nothing that can be seen."""
    with commit.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        lines = file.read().splitlines()
        if len(lines) == 1:
            file.seek(0)
            lines = file.read().splitlines()
    if not lines:
        return "an empty file"
    try:
        json.loads(lines[-1])
    except ValueError:  # of Unicode too
        return f"a line that is cut off after {size} bytes of the file"
    return None
