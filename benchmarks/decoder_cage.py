"""What it costs to decode in a cage: images/s of caged decoders against threads of the worker.

    .venv/bin/python benchmarks/decoder_cage.py [--photos FOLDER] [--images 400] [--rounds 7]

Both load the same files with the loader that tags, for a model of 224 pixels, and nothing else runs
beside them: with a model behind it the share of decoding, and so the cost, is smaller. Rounds are
interleaved, each with the order turned round; both are warm, their threads and processes started
before. The ratio's median is the result, the last line as JSON. So is the time on a core that an
image takes, decoders and worker together, which other programs on the machine change less.
Starting is timed apart: the first image of a process, imports of the decoder included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.images.loader import ImageLoader, ImageRequest, LoadedImage
from pipeline.images.preprocess import Preprocessing
from pipeline.synthetic import draw_photo

WIDTH, HEIGHT = 1152, 864  # 1 megapixel
DRAWN = 32
START = """
import sys, time
from benchmarks.decoder_cage import make_loader
from pipeline.images.loader import ImageRequest
loader = make_loader(sys.argv[1] == "cage", threads=1)
began = time.perf_counter()
list(loader.load([ImageRequest("a", sys.argv[2], None)]))
print(time.perf_counter() - began)
"""


def write_photos(folder: Path) -> None:
    """Draws photos of 1 megapixel."""
    for seed in range(DRAWN):
        (folder / f"{seed}.jpg").write_bytes(draw_photo(WIDTH, HEIGHT, seed))


def make_loader(cage: bool, threads: int) -> ImageLoader:
    """The loader that tags."""
    return ImageLoader(
        FetchConfig(),
        DecodeConfig(threads=threads, cage=cage),
        Preprocessing(size=224),
        scaled_decoding=True,
    )


def time_loading(loader: ImageLoader, requests: list[ImageRequest]) -> tuple[float, float]:
    """Images per second, and the milliseconds of a core that one takes."""
    began, busy = time.perf_counter(), busy_s()
    loaded = sum(isinstance(image, LoadedImage) for _, image in loader.load(requests))
    if loaded != len(requests):
        raise SystemExit(f"only {loaded} of {len(requests)} photos can be read")
    return loaded / (time.perf_counter() - began), (busy_s() - busy) * 1000 / loaded


def busy_s() -> float:
    """Seconds that cores worked for this process and for those below it, from Linux' own books."""
    ticks = 0
    below = [os.getpid()]
    while below:
        pid = below.pop()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        for task in Path(f"/proc/{pid}/task").iterdir():
            below += map(int, (task / "children").read_text().split())
    return ticks / os.sysconf("SC_CLK_TCK")


def time_start(kind: str, photo: Path) -> float:
    """Seconds of the first image in a fresh process."""
    told = subprocess.run(
        [sys.executable, "-c", START, kind, photo],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return float(told.stdout)


def main() -> None:
    """Measures, and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; drawn ones otherwise")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.photos is None:
            write_photos(Path(folder))
        photos = sorted((arguments.photos or Path(folder)).glob("*.jpg"))
        uris = [str(photos[number % len(photos)]) for number in range(arguments.images)]
        requests = [ImageRequest(uri, uri, None) for uri in uris]
        loaders = {
            kind: make_loader(kind == "cage", arguments.threads) for kind in ("cage", "threads")
        }
        for loader in loaders.values():
            time_loading(loader, requests[: arguments.images // 4])
        speeds: dict[str, list[float]] = {kind: [] for kind in loaders}
        costs: dict[str, list[float]] = {kind: [] for kind in loaders}
        for number in range(arguments.rounds):
            for kind in list(loaders)[:: 1 if number % 2 else -1]:
                speed, cost = time_loading(loaders[kind], requests)
                speeds[kind].append(speed)
                costs[kind].append(cost)
                print(
                    f"round {number + 1}, {kind}: {speed:.1f} images/s, {cost:.2f} ms of a core",
                    file=sys.stderr,
                )
        for loader in loaders.values():
            loader.close()
        starts = {kind: min(time_start(kind, photos[0]) for _ in range(3)) for kind in loaders}
    ratios = [a / b for a, b in zip(speeds["cage"], speeds["threads"], strict=True)]
    cost_ratios = [a / b for a, b in zip(costs["cage"], costs["threads"], strict=True)]
    result = {
        "images": arguments.images,
        "threads": arguments.threads,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "core_time_ratio": round(statistics.median(cost_ratios), 3),
        "core_time_ratios": [round(ratio, 3) for ratio in sorted(cost_ratios)],
    }
    for kind in loaders:
        result[f"{kind}_images_per_s"] = round(statistics.median(speeds[kind]), 1)
        result[f"{kind}_core_ms"] = round(statistics.median(costs[kind]), 2)
        result[f"{kind}_start_s"] = round(starts[kind], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
