"""The drawn catalogue that studies of labels share: drawn once, its true labels beside it.

A fifth of the positives of training and validation images stands on a wrong label; of which ones,
the catalogue's truth tells. Pictures are small: models of 64 pixels look at them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from pipeline.synthetic import CatalogueSpec, write_catalogue

MOVED_RATE = 0.2
VALIDATION_SHARE = 0.175
TEST_SHARE = 0.225
_MAX_SIDE = 320


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Where it is.

    Attributes:
        moved: Labelled manifest with moved labels; test images are clean.
        clean: The same with the true labels.
        taxonomy: The taxonomy.
        truth: True labels of each image, by its id.
    """

    moved: Path
    clean: Path
    taxonomy: Path
    truth: dict[str, frozenset[str]]

    def count_moved(self) -> int:
        """Labels of training and validation images that are not true."""
        rows = pq.read_table(self.moved, columns=["image_id", "labels"]).to_pylist()
        return sum(len(set(row["labels"]) - self.truth[row["image_id"]]) for row in rows)


def draw_catalogue(folder: Path, images: int) -> Drawn:
    """Draw a catalogue, or find the one that was drawn here before.

    Args:
        folder: Made where it is missing.
        images: How many, all splits together.
    """
    spec = CatalogueSpec(
        images=images,
        moved_rate=MOVED_RATE,
        validation_share=VALIDATION_SHARE,
        test_share=TEST_SHARE,
        changed_share=0.0,
        damaged=False,
        max_side=_MAX_SIDE,
    )
    clean = folder / f"clean-{images}.parquet"
    if not clean.exists():
        catalogue = write_catalogue(folder, spec, processes=len(os.sched_getaffinity(0)))
        _write_clean(catalogue.labelled, catalogue.truth, clean)
    return Drawn(
        moved=folder / "labelled.parquet",
        clean=clean,
        taxonomy=folder / "taxonomy.yaml",
        truth=_read_truth(folder / "truth.parquet"),
    )


def _write_clean(labelled: Path, truth: Path, clean: Path) -> None:
    """The labelled manifest with true labels; last, since it says that all else is there."""
    table = pq.read_table(labelled)
    true = _read_truth(truth)
    rows = [
        row | {"labels": sorted(true[row["image_id"]]), "attributes": []}
        for row in table.to_pylist()
    ]
    beside = clean.with_suffix(".part")
    pq.write_table(table.from_pylist(rows, schema=table.schema), beside)
    beside.replace(clean)


def _read_truth(path: Path) -> dict[str, frozenset[str]]:
    rows = pq.read_table(path, columns=["image_id", "labels"]).to_pylist()
    return {row["image_id"]: frozenset(row["labels"] or ()) for row in rows}
