"""Train on a folder of real photos, tag it with the nightly job, compare with what colours tell.

    .venv/bin/python benchmarks/labelled_photos.py --photos FOLDER/images --labels FOLDER/labels.csv

The CSV has a row for each photo: ``image`` (file stem), a label column, ``split`` (train, val or
validation, test). Nothing of the product is changed for it: a labelled manifest, a taxonomy and
configuration go in, and ``train_model`` and ``tag_nightly`` (through spark-submit) do the rest.
Scores come from the staged facts of the test split. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from catalogue_difficulty import colour_baselines, read_pixels
from deltalake import DeltaTable
from photo_folder import list_labels, read_photos, write_taxonomy

from pipeline.evaluation.metrics import gap, macro_map

ROOT = Path(__file__).parents[1]
Floats = npt.NDArray[np.float64]


def call(command: list[str]) -> dict[str, Any]:
    """Run a job; its summary."""
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    environment.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    )
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def train(folder: Path, training: Path, epochs: int | None) -> dict[str, Any]:
    """Train MuMIC with the given configuration."""
    return call(
        [
            *(sys.executable, str(ROOT / "jobs" / "train_model.py")),
            *("--config", str(training)),
            f"--manifest.path={folder / 'labelled.parquet'}",
            f"--taxonomy={folder / 'taxonomy.yaml'}",
            f"--bundle={folder / 'bundle'}",
            *([] if epochs is None else [f"--optimizer.epochs={epochs}"]),
        ]
    )


def tag(folder: Path) -> dict[str, Any]:
    """Tag every photo."""
    return call(
        [
            str(Path(sys.executable).with_name("spark-submit")),
            *("--properties-file", str(ROOT / "conf" / "spark" / "laptop.conf")),
            str(ROOT / "jobs" / "tag_nightly.py"),
            f"--tables.location={folder / 'tables'}",
            f"--manifest.path={folder / 'manifest.parquet'}",
            f"--model.uri={folder / 'bundle'}",
            "--stage.score_floor=0",
        ]
    )


def staged_scores(tables: Path, image_ids: list[str], labels: list[str]) -> Floats:
    """Staged scores of the images, [N, L]."""
    facts = DeltaTable(str(tables / "tagging_results")).to_pyarrow_table(
        columns=["image_id", "tags"]
    )
    by_id = {
        fact["image_id"]: {one["label"]: one["score"] for one in fact["tags"] or ()}
        for fact in facts.to_pylist()
    }
    return np.array([[by_id[key].get(label, 0.0) for label in labels] for key in image_ids])


def colour_scores(rows: list[dict[str, Any]], targets: Floats, test: npt.NDArray[Any]) -> Floats:
    """Scores of the logistic regression on colour histograms that is best on the test images."""
    pixels = [read_pixels(row["uri"]) for row in rows]
    tried = (scores for _, scores in colour_baselines(pixels, targets, test))
    return max(tried, key=lambda scores: macro_map(scores, targets[test]).value)


def main() -> None:
    """Trains, tags, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--column", default="label")
    parser.add_argument(
        "--training", type=Path, default=ROOT / "conf" / "demo" / "train_model.yaml"
    )
    parser.add_argument("--epochs", type=int)
    asked = parser.parse_args()
    rows = read_photos(asked.photos, asked.labels, column=asked.column)
    labels = list_labels(rows)
    with tempfile.TemporaryDirectory(prefix="labelled-photos-") as name:
        folder = Path(name)
        pq.write_table(pa.Table.from_pylist(rows), folder / "labelled.parquet")
        unlabelled = [{key: row[key] for key in ("image_id", "uri")} for row in rows]
        pq.write_table(pa.Table.from_pylist(unlabelled), folder / "manifest.parquet")
        write_taxonomy(folder / "taxonomy.yaml", labels)
        training = train(folder, asked.training.resolve(), asked.epochs)
        night = tag(folder)
        tested = [row for row in rows if row["split"] == "test"]
        scores = staged_scores(folder / "tables", [row["image_id"] for row in tested], labels)
    test = np.array([row["split"] == "test" for row in rows])
    targets = np.array([[label in row["labels"] for label in labels] for row in rows], float)
    frequencies = np.tile(targets[~test].mean(axis=0), (int(test.sum()), 1))
    report: dict[str, Any] = {
        "benchmark": "labelled_photos",
        "train_images": int((~test).sum()),
        "test_images": int(test.sum()),
        "labels": len(labels),
        "epochs": training["epochs"],
        "training_seconds": round(training["seconds"], 1),
        "tagged": night["tagged"],
        "failed": night["failed"],
    }
    for what, found in {
        "mumic": scores,
        "colour_histograms": colour_scores(rows, targets, test),
        "label_frequencies": frequencies,
    }.items():
        report[f"macro_map_of_{what}"] = round(macro_map(found, targets[test]).value, 4)
        report[f"gap_of_{what}"] = round(gap(found, targets[test]), 4)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
