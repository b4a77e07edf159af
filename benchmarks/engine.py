"""How close the engine comes to its limits, without Spark: decoding alone, the model alone, both.

    .venv/bin/python benchmarks/engine.py [--architecture ViT-B-32] [--precision bf16]

For machines with a GPU, where decoding (all cores) and the model (the GPU) can overlap: the engine
should reach 0.9 of the slower of the two. On a CPU both share the cores, and it cannot. Random
weights; photos of ``--megapixels`` (64 different ones, each file with other bytes at its end), read
from disk. ``decode``: the loader, its pixels thrown away. ``model``: batches of pixels that are in
memory already. ``engine``: both, as the job runs them in one task. In turns; medians; the last line
is the result as JSON. GPU utilisation is ``nvidia-smi``'s, sampled while the engine runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from tag_throughput import write_model, write_photos
from tqdm import tqdm

from pipeline.config import DecodeConfig, FetchConfig, InferenceConfig
from pipeline.images.loader import ImageLoader, ImageRequest, LoadedImage
from pipeline.models.bundle import read_bundle
from pipeline.models.engine import Engine
from pipeline.models.predictor import Predictor
from pipeline.models.serving import make_engine


def time_decoding(loader: ImageLoader, requests: list[ImageRequest]) -> float:
    """Images/s of the loader alone."""
    began = time.perf_counter()
    read = sum(isinstance(image, LoadedImage) for _, image in loader.load(requests))
    assert read == len(requests)
    return read / (time.perf_counter() - began)


def time_model(predictor: Predictor, batch_size: int, images: int) -> float:
    """Images/s of the model alone, with one batch in flight on a GPU as the engine has it."""
    preprocessing = predictor.preprocessing
    shape = (batch_size, preprocessing.height, preprocessing.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batches = max(2, images // batch_size)
    began = time.perf_counter()
    waiting = None
    for _ in range(batches):
        submitted = predictor.submit(pixels)
        if waiting is not None:
            waiting()
        waiting = submitted
    if waiting is not None:
        waiting()
    return batches * batch_size / (time.perf_counter() - began)


def time_engine(engine: Engine, requests: list[ImageRequest]) -> float:
    """Images/s of both."""
    began = time.perf_counter()
    tagged = sum(outcome.embedding is not None for outcome in engine.run(requests))
    assert tagged == len(requests)
    return tagged / (time.perf_counter() - began)


@contextmanager
def gpu_utilisation() -> Iterator[Callable[[], float | None]]:
    """Samples ``nvidia-smi`` meanwhile; the returned call gives the mean, in percent."""
    samples: list[float] = []
    done = threading.Event()

    def sample() -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not done.wait(0.5):
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            samples.append(float(told.split()[0]))

    thread = threading.Thread(target=sample, daemon=True)
    if shutil.which("nvidia-smi"):
        thread.start()
    try:
        yield lambda: statistics.mean(samples) if samples else None
    finally:
        done.set()
        if thread.is_alive():
            thread.join()


def main() -> None:
    """Draws, runs all three in turns, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--architecture", default="ViT-B-32")
    add("--precision", default="fp32", choices=("fp32", "bf16", "fp16", "int8"))
    add("--device", default="auto", choices=("auto", "cuda", "cpu"))
    add("--images", type=int, default=2000)
    add("--megapixels", type=float, default=1.0)
    add("--batch", type=int, default=64)
    add("--decoders", type=int, default=None, help="default: as many as there are cores")
    add("--rounds", type=int, default=5)
    asked = parser.parse_args()
    found: dict[str, list[float]] = {"decode": [], "model": [], "engine": []}
    with tempfile.TemporaryDirectory(prefix="engine-") as name:
        folder = Path(name)
        height = round((asked.megapixels * 1e6 * 3 / 4) ** 0.5)
        size = (round(height * 4 / 3), height)
        manifest = write_photos(folder / "photos", asked.images, size=size)
        uris = pq.read_table(manifest)["uri"].to_pylist()
        requests = [ImageRequest(uri, uri, None) for uri in uris]
        bundle = read_bundle(write_model(folder / "bundle", asked.architecture))
        decode = DecodeConfig(threads=asked.decoders)
        decode = replace(decode, prefetch_images=max(decode.prefetch_images, 4 * asked.batch))
        engine, loader = make_engine(
            bundle,
            InferenceConfig(device=asked.device, precision=asked.precision, batch_size=asked.batch),
            FetchConfig(),
            decode,
        )
        with loader:
            time_engine(engine, requests[: 4 * asked.batch])  # warms up
            for _ in tqdm(range(asked.rounds), unit="round", file=sys.stderr):
                found["decode"].append(time_decoding(loader, requests))
                found["model"].append(time_model(engine.predictor, asked.batch, asked.images))
                with gpu_utilisation() as utilisation:
                    found["engine"].append(time_engine(engine, requests))
                    busy = utilisation()
    limits = zip(found["decode"], found["model"], strict=True)
    ratios = [one / min(two) for one, two in zip(found["engine"], limits, strict=True)]
    device = engine.predictor.device
    result = {
        "benchmark": "engine",
        **vars(asked),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "images_per_s": {kind: round(statistics.median(one), 1) for kind, one in found.items()},
        "ratio": round(statistics.median(ratios), 3),
        "gpu_utilisation": busy,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
