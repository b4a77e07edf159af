"""What repeated images cost: the job on a manifest of which every other row repeats one.

    .venv/bin/python benchmarks/repeats.py [--images 1000] [--rounds 5] [--precision fp32]

``distinct``: every row has a picture of its own. ``same uri``: half of the rows name the files of
the other half. ``same bytes``: half of the files are copies of the other half under other names.
Rows stand in random order; the tables are new each time. Three jobs in turns, as
``tag_throughput.py`` times them; the medians of the ratios to ``distinct`` are the result, the last
line as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tag_throughput import time_job, write_model, write_photos
from tqdm import tqdm


def write_manifests(folder: Path, images: int) -> dict[str, Path]:
    """A manifest of each kind."""
    distinct = write_photos(folder / "photos", images)
    rows = pq.read_table(distinct).to_pylist()
    half, copies = rows[: images // 2], folder / "copies"
    copies.mkdir()
    repeats: dict[str, list[dict[str, str]]] = {"same uri": [], "same bytes": []}
    for row in half:
        copied = shutil.copy(row["uri"], copies)
        for kind, uri in (("same uri", row["uri"]), ("same bytes", copied)):
            repeats[kind].append({**row, "image_id": f"again-{row['image_id']}", "uri": str(uri)})
    manifests = {"distinct": distinct}
    for kind, more in repeats.items():
        mixed = [*half, *more]
        random.Random(kind).shuffle(mixed)
        manifests[kind] = folder / f"{kind.replace(' ', '-')}.parquet"
        pq.write_table(pa.Table.from_pylist(mixed), manifests[kind])
    return manifests


def main() -> None:
    """Draws, runs all three in turns, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="fp32")
    asked = parser.parse_args()
    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="repeats-") as name:
        folder = Path(name)
        manifests = write_manifests(folder, asked.images)
        bundle = write_model(folder / "bundle", "ViT-B-32")
        for number in tqdm(range(asked.rounds), unit="round", file=sys.stderr):
            for kind, manifest in manifests.items():
                place = folder / f"round-{number}-{manifest.stem}"
                precision = f"--model.precision={asked.precision}"
                speeds.setdefault(kind, []).append(time_job(bundle, manifest, place, precision))
    ratios = {
        kind: [one / base for one, base in zip(found, speeds["distinct"], strict=True)]
        for kind, found in speeds.items()
        if kind != "distinct"
    }
    result = {
        "benchmark": "repeats",
        "images": asked.images,
        "rounds": asked.rounds,
        "precision": asked.precision,
        "ratio": {kind: round(statistics.median(one), 3) for kind, one in ratios.items()},
        "images_per_s": {kind: round(statistics.median(one), 2) for kind, one in speeds.items()},
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
