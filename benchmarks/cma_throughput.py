"""How much of MuMIC's throughput CMA-CLIP keeps, on the same towers and images.

    .venv/bin/python benchmarks/cma_throughput.py [--images 64] [--rounds 5]

Both run in this process behind the predictor that tags, on the same random towers, photos and
batches. CMA-CLIP reads titles beside them: short ones, of at most 16 tokens, and ones that fill the
text tower's context. The three are timed in turns, round by round, after one round that does not
count; the last line is the result as JSON: the median of the rounds' ratios to MuMIC, which must be
at least 0.65 with short titles. On a CPU the same ratios of processor seconds stand beside it:
others who use the machine move them less. Decoding is not timed: it is the same for both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pipeline.config import CmaClipConfig, TowersConfig
from pipeline.models.bundle import write_bundle
from pipeline.models.cma_bundle import write_cma_clip
from pipeline.models.cma_clip import CmaClip
from pipeline.models.device import choose_device
from pipeline.models.mumic import MuMIC
from pipeline.models.predictor import Predictor
from pipeline.models.serving import load_predictor
from pipeline.models.towers import load_towers
from pipeline.synthetic import make_taxonomy
from pipeline.taxonomy import parse_taxonomy

SHORT_WORDS, LONG_WORDS = 14, 100  # of one token each, beside the start and the end
WORDS = ("red", "blue", "green", "wool", "cotton", "shirt", "dress", "long", "short", "new")


def load_models(architecture: str, device: str, precision: Any) -> dict[str, Predictor]:
    """MuMIC and CMA-CLIP over the same random towers."""
    torch.manual_seed(0)
    towers = load_towers(TowersConfig(architecture=architecture))
    taxonomy = parse_taxonomy(make_taxonomy())
    shared: Any = {"towers": towers, "taxonomy": taxonomy, "licence": "Apache-2.0"}
    with tempfile.TemporaryDirectory(prefix="cma-throughput-") as folder:
        mumic = MuMIC(towers.model, tau=0.07)
        cma = CmaClip(towers.model, taxonomy, CmaClipConfig())
        bundles = {
            "mumic": write_bundle(Path(folder) / "mumic", mumic=mumic, **shared),
            "cma_clip": write_cma_clip(Path(folder) / "cma", model=cma, **shared),
        }
        return {
            name: load_predictor(
                bundle,
                device=choose_device(device),  # type: ignore[arg-type]
                precision=precision,
                scaled_decoding=True,
            )
            for name, bundle in bundles.items()
        }


def time_batches(
    predictor: Predictor, batches: list[Any], texts: list[str] | None
) -> tuple[float, float]:
    """Images per second, and per second of all the process's threads."""
    started, used = time.perf_counter(), time.process_time()
    waiting = [predictor.submit(batch, texts and texts[: len(batch)]) for batch in batches]
    for wait in waiting:
        wait()
    images = sum(map(len, batches))
    return images / (time.perf_counter() - started), images / (time.process_time() - used)


def main() -> None:
    """Runs the three in turns, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    asked = parser.parse_args()
    models = load_models(asked.architecture, asked.device, asked.precision)
    random = np.random.default_rng(0)
    size = models["mumic"].preprocessing
    pixels = random.integers(0, 256, (asked.images, size.height, size.width, 3), dtype=np.uint8)
    batches = np.split(pixels, range(asked.batch_size, asked.images, asked.batch_size))

    def titles(words: int) -> list[str]:
        return [" ".join(random.choice(WORDS, words)) for _ in range(asked.batch_size)]

    ways: dict[str, tuple[Predictor, list[str] | None]] = {
        "mumic": (models["mumic"], None),
        "short": (models["cma_clip"], titles(SHORT_WORDS)),
        "long": (models["cma_clip"], titles(LONG_WORDS)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in tqdm(range(asked.rounds + 1), unit="round", file=sys.stderr):
        for name, (predictor, texts) in ways.items():
            speed, speed_of_processor = time_batches(predictor, batches, texts)
            if number:  # the first warms up
                speeds[name].append(speed)
                spent[name].append(speed_of_processor)

    def ratio(name: str, of: dict[str, list[float]] = speeds) -> list[float]:
        pairs = zip(of[name], of["mumic"], strict=True)
        return [round(one / mumic, 3) for one, mumic in pairs]

    on_cpu = models["mumic"].device.type == "cpu"

    result = {
        "benchmark": "cma_throughput",
        "architecture": asked.architecture,
        "device": str(models["mumic"].device),
        "precision": asked.precision,
        "images": asked.images,
        "batch_size": asked.batch_size,
        "rounds": asked.rounds,
        "ratio_16_tokens": statistics.median(ratio("short")),
        "ratio_full_context": statistics.median(ratio("long")),
        "processor_ratio_16_tokens": statistics.median(ratio("short", spent)) if on_cpu else None,
        "processor_ratio_full_context": statistics.median(ratio("long", spent)) if on_cpu else None,
        "ratios_16_tokens": ratio("short"),
        "ratios_full_context": ratio("long"),
        "images_per_s": {name: round(statistics.median(of), 2) for name, of in speeds.items()},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
