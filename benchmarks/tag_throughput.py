"""How much of the machine the tagging job uses: its images/s against a bare loop's.

    .venv/bin/python benchmarks/tag_throughput.py [--images 2000] [--rounds 5] [--precision int8]

The job is the real one: ``tag_nightly`` on ``local[2]`` through spark-submit, ViT-B/32 with random
weights, in ``--precision``, photos of 1 megapixel. Its time is that between the start of the first
and the end of the last task of tagging, from Spark's own event log. The bare loop is what one would
write without Spark: two processes, one thread each, read, decode and preprocess the same files in
the same way, and run open_clip's image tower in fp32 in batches of the same size; its time runs
from the first read to the last embedding, the model being loaded before. Rounds are interleaved,
and the ratio's median is the result, the last line as JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from pipeline.config import TowersConfig
from pipeline.images.decode import decode
from pipeline.images.preprocess import make_pixels
from pipeline.models.bundle import read_bundle, write_bundle
from pipeline.models.mumic import MuMIC
from pipeline.models.towers import load_towers
from pipeline.synthetic import draw_photo, make_taxonomy
from pipeline.taxonomy import parse_taxonomy

ROOT = Path(__file__).parents[1]
PROCESSES = 2
BATCH = 32
WIDTH, HEIGHT = 1152, 864  # 1 megapixel
DRAWN = 64  # different pictures; the other files are these with other bytes at their end


def write_photos(folder: Path, images: int, *, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """Photos of a size in pixels, and their manifest."""
    folder.mkdir()
    drawn = [draw_photo(*size, seed) for seed in range(min(DRAWN, images))]
    rows = []
    for number in range(images):
        path = folder / f"{number}.jpg"
        # Decoders stop at the end marker; no two files have the same bytes.
        path.write_bytes(drawn[number % len(drawn)] + str(number).encode())
        rows.append({"image_id": str(number), "uri": str(path), "version": "1"})
    manifest = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows), manifest)
    return manifest


def write_model(folder: Path, architecture: str) -> Path:
    """A bundle with random weights."""
    torch.manual_seed(0)
    towers = load_towers(TowersConfig(architecture=architecture))
    mumic = MuMIC(towers.model, tau=0.07, bias=0.0)
    taxonomy = parse_taxonomy(make_taxonomy())
    write_bundle(folder, mumic=mumic, towers=towers, taxonomy=taxonomy, licence="Apache-2.0")
    return folder


def loop(bundle: Path, paths: list[str], start: Barrier, spent: Any) -> None:
    """The bare loop of one process; its seconds go into ``spent``."""
    torch.set_num_threads(1)
    model = read_bundle(bundle)
    visual = model.load_model("cpu").clip.visual.eval()
    preprocessing = model.preprocessing
    cover = min(preprocessing.height, preprocessing.width)
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1) * 255
    std = torch.tensor(preprocessing.std).view(3, 1, 1) * 255
    with torch.inference_mode():
        visual(torch.zeros(BATCH, 3, preprocessing.height, preprocessing.width))
        start.wait()
        began = time.time()
        for first in range(0, len(paths), BATCH):
            pixels = []
            for path in paths[first : first + BATCH]:
                decoded = decode(Path(path).read_bytes(), max_pixels=10**8, cover=cover)
                pixels.append(make_pixels(decoded.image, preprocessing))
            batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            visual((batch - mean) / std)
    spent.put((began, time.time()))


def time_loop(bundle: Path, manifest: Path) -> float:
    """Images per second of the bare loop in two processes."""
    uris = pq.read_table(manifest)["uri"].to_pylist()
    context = multiprocessing.get_context("spawn")
    start, spent = context.Barrier(PROCESSES), context.Queue()
    workers = [
        context.Process(target=loop, args=(bundle, uris[part::PROCESSES], start, spent))
        for part in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    times = [spent.get() for _ in workers]
    for worker in workers:
        worker.join()
    return len(uris) / (max(end for _, end in times) - min(begin for begin, _ in times))


def time_job(bundle: Path, manifest: Path, folder: Path, *more: str) -> float:
    """Images per second of the job, between the start of the first and the end of the last task."""
    (folder / "events").mkdir(parents=True)
    command = [
        str(Path(sys.executable).with_name("spark-submit")),
        *("--properties-file", str(ROOT / "conf" / "spark" / "laptop.conf")),
        *("--master", f"local[{PROCESSES},3]"),
        *("--conf", "spark.eventLog.enabled=true"),
        *("--conf", f"spark.eventLog.dir={(folder / 'events').as_uri()}"),
        *("--conf", "spark.eventLog.compress=false"),
        *("--conf", "spark.eventLog.rolling.enabled=false"),
        str(ROOT / "jobs" / "tag_nightly.py"),
        f"--tables.location={folder / 'tables'}",
        f"--manifest.path={manifest}",
        f"--model.uri={bundle}",
        f"--model.batch_size={BATCH}",
        "--log.progress=false",
        *more,
    ]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    environment.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=folder
    )
    if done.returncode != 0:
        raise SystemExit(f"the job failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    summary = json.loads(done.stdout.splitlines()[-1])
    began, ended = tagging_span(next((folder / "events").iterdir()))
    return float(summary["tagged"] / (ended - began))


def tagging_span(event_log: Path) -> tuple[float, float]:
    """Start of the first and end of the last task of the longest stage, in seconds."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for line in event_log.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["Event"] == "SparkListenerTaskEnd":
            info = event["Task Info"]
            spans.setdefault(event["Stage ID"], []).append(
                (info["Launch Time"], info["Finish Time"])
            )
    tasks = max(spans.values(), key=lambda stage: sum(end - begin for begin, end in stage))
    return min(begin for begin, _ in tasks) / 1000, max(end for _, end in tasks) / 1000


def main() -> None:
    """Draws, runs both in turns, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--precision", default="fp32")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tag-throughput-") as name:
        folder = Path(name)
        manifest = write_photos(folder / "photos", asked.images)
        bundle = write_model(folder / "bundle", asked.architecture)
        job, bare = [], []
        for number in tqdm(range(asked.rounds), unit="round", file=sys.stderr):
            bare.append(time_loop(bundle, manifest))
            precision = f"--model.precision={asked.precision}"
            job.append(time_job(bundle, manifest, folder / f"round-{number}", precision))
            print(f"round {number + 1}: job {job[-1]:.2f}, loop {bare[-1]:.2f}", file=sys.stderr)
    ratios = [mine / theirs for mine, theirs in zip(job, bare, strict=True)]
    result = {
        "benchmark": "tag_throughput",
        "architecture": asked.architecture,
        "precision": asked.precision,
        "images": asked.images,
        "rounds": asked.rounds,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "job_images_per_s": round(statistics.median(job), 2),
        "loop_images_per_s": round(statistics.median(bare), 2),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
