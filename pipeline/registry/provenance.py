"""What a run was made of: the code's version and a digest of the data."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pipeline

HEX_DIGITS = 12

_GIT_TIMEOUT_S = 10.0


def describe_code() -> dict[str, str]:
    """The product's version; where it runs from a git checkout, also the commit.

    Returns:
        ``product_version``; ``code_digest``: of every module of the library, so that two edits of
        one version differ; ``git_commit``, with ``+`` at its end where files were changed since.
    """
    root = Path(pipeline.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    told = {
        "product_version": pipeline.__version__,
        "code_digest": digest.hexdigest()[:HEX_DIGITS],
    }
    # An installed package may lie inside of somebody else's repository.
    if (root.parent / ".git").exists() and (commit := _read_commit(root.parent)):
        told["git_commit"] = commit
    return told


def digest_labels(rows: Iterable[tuple[str, str, Iterable[str], Iterable[str]]]) -> str:
    """Digest of labelled data: who is in which split with which labels, in whatever order.

    Image bytes do not count: one manifest names them in many ways.

    Args:
        rows: image_id, split, ids of the labels that hold, ids of the labels nobody checked.

    Returns:
        12 hex digits.
    """
    lines = sorted(
        json.dumps([image_id, split, sorted(held), sorted(unknown)])
        for image_id, split, held, unknown in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:HEX_DIGITS]


def _read_commit(root: Path) -> str | None:
    """The commit of a checkout; None where git is missing or refuses."""
    try:
        commit, status = (
            subprocess.run(  # noqa: S603
                ["git", "-C", str(root), *arguments],  # noqa: S607  whichever git there is
                capture_output=True,
                text=True,
                check=True,
                timeout=_GIT_TIMEOUT_S,
            ).stdout.strip()
            for arguments in (
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if status else commit
