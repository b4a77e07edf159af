"""The images of an ablation as they lie in its folder: decoded once, shared by all trainings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.training.pixels import PixelSet
from pipeline.training.splits import SPLITS
from pipeline.training.texts import TextSet

_NAME = "labels.npz"


def keep_marks(sets: Mapping[str, PixelSet], folder: Path) -> None:
    """Write what belongs to pixels that were decoded into the folder.

    Args:
        sets: Of each split.
        folder: Where ``make_pixel_set`` wrote their pixels.
    """
    marks = {}
    for split, images in sets.items():
        marks[f"{split}_targets"], marks[f"{split}_known"] = images.targets, images.known
        if images.texts is not None:
            marks[f"{split}_tokens"] = images.texts.tokens
            marks[f"{split}_present"] = images.texts.present
    np.savez(folder / _NAME, **marks)


def load_sets(folder: Path) -> dict[str, PixelSet]:
    """The images of each split, their pixels memory-mapped.

    Args:
        folder: Of :func:`keep_marks`.
    """
    with np.load(folder / _NAME) as kept:
        marks = dict(kept)
    sets = {}
    for split in SPLITS:
        texts = None
        if f"{split}_tokens" in marks:
            texts = TextSet(tokens=marks[f"{split}_tokens"], present=marks[f"{split}_present"])
        targets = marks[f"{split}_targets"]
        sets[split] = PixelSet(
            pixels=np.load(folder / f"{split}.npy", mmap_mode="r")[: len(targets)],
            targets=targets,
            known=marks[f"{split}_known"],
            ids=tuple(map(str, range(len(targets)))),
            left_out=Counter(),
            texts=texts,
        )
    return sets
