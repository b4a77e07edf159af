"""Whether a long run stays as fast and as small as it began: throughput by tenths, and memory.

    .venv/bin/python benchmarks/steady.py [--images 20000] [--after_s 60]

``tag_nightly`` through spark-submit on ``local[2]``, a tiny vision transformer with random weights,
photos of 1 megapixel. Results are counted from outside as they come out of the model. The first
``--warm_up`` images are left out; a tenth is a tenth of all images, the first begins after the
warm-up, the last ends with the last image. ``ratio`` is the throughput of the last by that of the
first. Memory is sampled each second: of each Python worker, and of it and its decoders together,
PSS (pages that processes share count once) where the system tells it, else RSS. ``growth`` compares
the median of the ten seconds after ``--after_s`` of tagging with that of the last ten seconds, for
the worker that grew most; null where the run was too short. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import time

import numpy as np
import psutil
from tag_throughput import submit_tagging, tagging_span, write_model, write_photos
from watched_results import WatchedResults

TENTHS = 10
WINDOW_S = 10.0  # of a memory figure: single samples catch batches at different points
ARCHITECTURE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "patch_size": 32, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The memory of one worker at one moment, in bytes.

    Attributes:
        at: Seconds since 1970.
        pid: The worker.
        worker: Its own.
        whole: Its own and that of the processes it started.
    """

    at: float
    pid: int
    worker: int
    whole: int


def memory_of(process: psutil.Process) -> int:
    """Bytes of a process, shared pages in proportion where the system tells."""
    full = process.memory_full_info()
    return int(getattr(full, "pss", full.rss))


def find_workers() -> Iterator[psutil.Process]:
    """The Python workers under this process: what Spark's daemon has forked."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(word.startswith("pyspark.daemon") for word in process.cmdline()):
                parent = process.parent()
                if parent is not None and "pyspark.daemon" in parent.cmdline():
                    yield process


@contextmanager
def sampled_memory() -> Iterator[list[Sample]]:
    """Samples the workers each second while the block runs."""
    samples: list[Sample] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(1.0):
            for worker in find_workers():
                with suppress(psutil.Error):  # it has ended meanwhile
                    own = memory_of(worker)
                    others = sum(map(memory_of, worker.children(recursive=True)))
                    told = Sample(at=time(), pid=worker.pid, worker=own, whole=own + others)
                    samples.append(told)

    thread = threading.Thread(target=sample, name="memory", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def tenths(seen: list[tuple[float, int]], *, images: int, warm_up: int) -> list[float]:
    """Images/s of each tenth from the warm-up on; the last one ends with the last image.

    Args:
        seen: Moments, and how many results there were.
        images: All of them.
        warm_up: Results before the first tenth.
    """
    moments, counts = (np.array(column, dtype=float) for column in zip(*seen, strict=True))
    size = images // TENTHS
    starts = [*(warm_up + size * number for number in range(TENTHS - 1)), images - size]
    starts = [start for start in starts if start <= images - size]
    begun = np.interp(starts, counts, moments)
    ended = np.interp([start + size for start in starts], counts, moments)
    return [float(size / seconds) for seconds in ended - begun]


def growth(samples: list[Sample], kind: str, *, begin: float, end: float) -> float | None:
    """How much the worker that grew most has grown between two moments, as a share."""
    if end - begin < 2 * WINDOW_S:
        return None
    grown = []
    for pid in {sample.pid for sample in samples}:
        mine = [sample for sample in samples if sample.pid == pid]
        early = [getattr(one, kind) for one in mine if begin <= one.at < begin + WINDOW_S]
        late = [getattr(one, kind) for one in mine if end - WINDOW_S <= one.at < end]
        if early and late:
            grown.append(statistics.median(late) / statistics.median(early) - 1)
    return max(grown, default=None)


def main() -> None:
    """Draws, runs, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--warm_up", type=int, default=500, help="images before the first tenth")
    parser.add_argument("--after_s", type=float, default=60.0, help="of tagging: memory counts")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steady-") as name:
        folder = Path(name)
        manifest = write_photos(folder / "photos", asked.images)
        architecture = folder / "tiny.json"
        architecture.write_text(json.dumps(ARCHITECTURE), encoding="utf-8")
        bundle = write_model(folder / "bundle", str(architecture))
        local = folder / "local"
        with (
            WatchedResults(local, interval_s=0.25) as results,
            sampled_memory() as samples,
        ):
            done = submit_tagging(
                bundle, manifest, folder / "run", conf={"spark.local.dir": str(local)}
            )
        began, ended = tagging_span(done.event_log)
    seen = results.seen
    assert (done.summary["tagged"], seen[-1][1]) == (asked.images, asked.images), done.summary
    speeds = tenths(seen, images=asked.images, warm_up=asked.warm_up)
    in_time = [sample for sample in samples if began + asked.after_s <= sample.at <= ended]
    grown = {
        kind: growth(samples, kind, begin=began + asked.after_s, end=ended)
        for kind in ("worker", "whole")
    }
    for sample in in_time[:: max(1, len(in_time) // 20)]:
        print(f"{sample.at - began:6.0f} s {sample}", file=sys.stderr)
    result = {
        "benchmark": "steady",
        "images": asked.images,
        "warm_up": asked.warm_up,
        "ratio": round(speeds[-1] / speeds[0], 3),
        "images_per_s": [round(speed, 1) for speed in speeds],
        "tagging_s": round(ended - began, 1),
        "after_s": asked.after_s,
        "growth": {kind: one and round(one, 4) for kind, one in grown.items()},
        "peak_mb": {
            kind: round(max((getattr(one, kind) for one in samples), default=0) / 2**20)
            for kind in ("worker", "whole")
        },
        "workers": len({sample.pid for sample in samples}),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
