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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job that ran through spark-submit.

    Attributes:
        summary: The last line of its stdout.
        event_log: Spark's.
        began: When it was started; seconds since 1970, as ``ended``.
        ended: When it was over.
        lines: What the job wrote, its log and its summary, and when each line arrived: spark-submit
            puts both on stdout.
    """

    summary: dict[str, Any]
    event_log: Path
    began: float
    ended: float
    lines: list[tuple[float, str]]


def submit(
    job: str, folder: Path, *arguments: str, conf: Mapping[str, str] | None = None
) -> Submitted:
    """Run a job on ``local[2]`` through spark-submit, with the laptop's settings and ``conf``."""
    (folder / "events").mkdir(parents=True)
    settings = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": (folder / "events").as_uri(),
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
        **(conf or {}),
    }
    command = [
        str(Path(sys.executable).with_name("spark-submit")),
        *("--properties-file", str(ROOT / "conf" / "spark" / "laptop.conf")),
        *("--master", f"local[{PROCESSES},3]"),
        *(word for name, value in settings.items() for word in ("--conf", f"{name}={value}")),
        str(ROOT / "jobs" / f"{job}.py"),
        *arguments,
        "--log.progress=false",
    ]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    environment.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    lines: list[tuple[float, str]] = []
    began = time.time()
    with (
        (folder / "stderr").open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder
        ) as process,
    ):
        for line in process.stdout or ():
            lines.append((time.time(), line.rstrip("\n")))
    ended = time.time()
    if process.returncode != 0:
        last = "\n".join(line for _, line in lines[-20:])
        raise SystemExit(f"the job failed with exit code {process.returncode}:\n{last}")
    summary = json.loads(lines[-1][1])
    event_log = next((folder / "events").iterdir())
    return Submitted(summary=summary, event_log=event_log, began=began, ended=ended, lines=lines)


def submit_tagging(
    bundle: Path,
    manifest: Path,
    folder: Path,
    *more: str,
    tables: Path | None = None,
    conf: Mapping[str, str] | None = None,
) -> Submitted:
    """Tag a manifest, into new tables unless others are named."""
    return submit(
        "tag_nightly",
        folder,
        f"--tables.location={tables or folder / 'tables'}",
        f"--manifest.path={manifest}",
        f"--model.uri={bundle}",
        f"--model.batch_size={BATCH}",
        *more,
        conf=conf,
    )


def time_job(bundle: Path, manifest: Path, folder: Path, *more: str) -> float:
    """Images per second of the job, between the start of the first and the end of the last task."""
    done = submit_tagging(bundle, manifest, folder, *more)
    began, ended = tagging_span(done.event_log)
    return float(done.summary["tagged"] / (ended - began))


def read_events(event_log: Path) -> Iterator[dict[str, Any]]:
    """The events of Spark's log."""
    with event_log.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def tagging_span(event_log: Path, *, after: float = 0.0) -> tuple[float, float]:
    """Start of the first and end of the last task of the longest stage, in seconds.

    Args:
        event_log: Spark's.
        after: Only tasks that started later: in short runs the preflight is longer than tagging.
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    for event in read_events(event_log):
        if event["Event"] == "SparkListenerTaskEnd":
            info = event["Task Info"]
            if info["Launch Time"] / 1000 >= after:
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
