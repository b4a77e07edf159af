"""A folder of photos and a CSV become a labelled manifest, with labels moved as they should be."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import yaml
from photo_folder import main, read_photos, spoil_labels

from pipeline.taxonomy import read_taxonomy

CLASSES = ("hat", "shirt", "skirt", "polo")
GROUPS = {"tops": ["shirt", "polo"], "bottoms": ["skirt"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """240 photos, a row too many in the CSV, every third one of a child."""
    (tmp_path / "images").mkdir()
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "kids", "split"])
        for index in range(240):
            (tmp_path / "images" / f"p{index}.JPG").touch()
            split = ("train", "val", "test")[index % 3]
            writer.writerow([f"p{index}", CLASSES[index % 4], str(index % 3 == 0).lower(), split])
        writer.writerow(["gone", "hat", "false", "train"])
    (tmp_path / "groups.yaml").write_text(yaml.safe_dump(GROUPS))
    return tmp_path


def test_labels_are_the_class_its_group_and_flags_that_hold(folder: Path) -> None:
    rows = read_photos(
        folder / "images", folder / "labels.csv", column="label", groups=GROUPS, flags=["kids"]
    )
    assert [(row["labels"], row["split"]) for row in rows[:3]] == [
        (["hat", "kids"], "train"),
        (["shirt", "tops"], "validation"),
        (["skirt", "bottoms"], "test"),
    ]
    assert len(rows) == 240
    assert rows[0]["uri"] == str((folder / "images" / "p0.JPG").resolve())


def test_as_many_labels_move_as_are_asked_for_and_those_of_test_photos_stay(folder: Path) -> None:
    rows = read_photos(folder / "images", folder / "labels.csv", column="label", groups=GROUPS)
    spoilt = spoil_labels(rows, rate=0.2, seed=1)
    assert spoilt == spoil_labels(rows, rate=0.2, seed=1) != spoil_labels(rows, rate=0.2, seed=2)
    moved = {"train": 0, "validation": 0, "test": 0}
    for row, other in zip(rows, spoilt, strict=True):
        assert len(set(other["labels"])) == len(row["labels"])
        moved[row["split"]] += len(set(other["labels"]) - set(row["labels"]))
    there = sum(len(row["labels"]) for row in rows if row["split"] != "test")
    assert moved["test"] == 0
    assert moved["train"] > 0 < moved["validation"]
    assert (moved["train"] + moved["validation"]) / there == pytest.approx(0.2, abs=0.07)


def test_the_command_leaves_what_a_training_reads(folder: Path) -> None:
    main(
        [
            *("--photos", str(folder / "images"), "--labels", str(folder / "labels.csv")),
            *("--groups", str(folder / "groups.yaml"), "--flags", "kids"),
            *("--moved-rate", "0.2", "--output", str(folder / "made")),
        ]
    )
    taxonomy = read_taxonomy(folder / "made" / "taxonomy.yaml")
    labels = {label.id for _, label in taxonomy.labels}
    assert labels == {*CLASSES, *GROUPS, "kids"}
    rows = pq.read_table(folder / "made" / "labelled.parquet").to_pylist()
    assert {label for row in rows for label in row["labels"]} == labels
