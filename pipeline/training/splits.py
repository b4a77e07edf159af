"""Which images are trained on, which choose among what was trained, and which judge it."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def split_group(group: str, *, validation: float, test: float) -> Split:
    """The split of a group: the same for ever, whatever else the manifest holds (ours).

    A hash of its name is a number between 0 and 1. Test takes the lowest ones, validation the
    next, so a share that grows takes groups in and lets none go to where they were not looked at.

    Args:
        group: Its name.
        validation: Share of the groups, 0 to 1.
        test: Share of the groups, 0 to 1; with ``validation`` at most 1.
    """
    digest = hashlib.sha256(group.encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"
