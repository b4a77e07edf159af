"""A labelled manifest and a taxonomy from a folder of photos and a CSV that names their labels.

    .venv/bin/python benchmarks/photo_folder.py --photos PHOTOS --labels labels.csv --output FOLDER
        [--groups GROUPS.yaml] [--flags kids] [--moved-rate 0.2]

The CSV has a row for each photo: ``image`` (file stem), a label column, ``split`` (train, val or
validation, test). A photo's labels are the CSV's, the group that the YAML puts it into, and the
flags that are ``true``. Moved labels of train and validation stand on a wrong one, as in the drawn
catalogue; test photos keep theirs. Leaves ``labelled.parquet`` and ``taxonomy.yaml``; photos stay
where they are.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import yaml

from pipeline.synthetic.manifests import move_labels

SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def read_photos(
    photos: Path,
    labels: Path,
    *,
    column: str,
    groups: Mapping[str, Sequence[str]] | None = None,
    flags: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Manifest rows of all photos that the CSV names.

    Args:
        photos: Folder of the photos.
        labels: The CSV.
        column: Of the label.
        groups: Labels of each group.
        flags: Columns that say ``true`` or ``false``; true ones are labels.
    """
    places = {path.stem: path for path in photos.iterdir() if path.suffix.lower() in SUFFIXES}
    group_of = {label: group for group, members in (groups or {}).items() for label in members}
    with labels.open(newline="", encoding="utf-8") as file:
        return [
            {
                "image_id": row["image"],
                "uri": str(places[row["image"]].resolve()),
                "labels": [
                    row[column],
                    *([group_of[row[column]]] if row[column] in group_of else []),
                    *(flag for flag in flags if row[flag] == "true"),
                ],
                "split": SPLITS[row["split"]],
            }
            for row in csv.DictReader(file)
            if row["image"] in places
        ]


def list_labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All labels that rows have, sorted."""
    return sorted({label for row in rows for label in row["labels"]})


def spoil_labels(
    rows: Sequence[Mapping[str, Any]], *, rate: float, seed: int
) -> list[dict[str, Any]]:
    """Move labels of train and validation rows to wrong ones.

    Args:
        rows: Of :func:`read_photos`.
        rate: Share of the labels that move.
        seed: Of the choice.
    """
    vocabulary = list_labels(rows)
    return [
        dict(row)
        if row["split"] == "test"
        else row
        | {
            "labels": sorted(
                move_labels(
                    row["labels"],
                    vocabulary,
                    rate=rate,
                    rng=random.Random(f"{seed}-{row['image_id']}"),
                )
            )
        }
        for row in rows
    ]


def write_taxonomy(path: Path, labels: Sequence[str]) -> None:
    """One multi-label task; thresholds at the floor of what is worth publishing."""
    task = {
        "id": "photo",
        "kind": "multi_label",
        "threshold": 0.3,
        "templates": ["a photo of a {}.", "a {}"],
        "labels": [{"id": label, "name": label} for label in labels],
    }
    path.write_text(yaml.safe_dump({"tasks": [task]}), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, spoils, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="folder of photos")
    add("--labels", type=Path, required=True, help="CSV with image, a label column and split")
    add("--output", type=Path, required=True, help="folder of manifest and taxonomy")
    add("--column", default="label", help="the label's column")
    add("--groups", type=Path, help="YAML: the labels of each group")
    add("--flags", nargs="*", default=(), help="columns of true and false that are labels")
    add("--moved-rate", type=float, default=0.0, help="share of labels that are moved")
    add("--seed", type=int, default=0, help="of the moved ones")
    asked = parser.parse_args(argv)
    groups = None if asked.groups is None else yaml.safe_load(asked.groups.read_text("utf-8"))
    rows = read_photos(
        asked.photos, asked.labels, column=asked.column, groups=groups, flags=asked.flags
    )
    asked.output.mkdir(parents=True, exist_ok=True)
    write_taxonomy(asked.output / "taxonomy.yaml", list_labels(rows))
    spoilt = spoil_labels(rows, rate=asked.moved_rate, seed=asked.seed)
    pq.write_table(pa.Table.from_pylist(spoilt), asked.output / "labelled.parquet")
    sys.stderr.write(f"{len(rows)} photos, {len(list_labels(rows))} labels\n")


if __name__ == "__main__":
    main()
