"""What every peer does alike: the image tower of a bundle, open_clip's preprocessing, its times.

Knows nothing of the product but the bundle's files, since the peers run where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file

BATCH = 32


class Tower:
    """Pixels to embeddings, and images to pixels, as the bundle says."""

    def __init__(self, bundle: str) -> None:
        info = json.loads((Path(bundle) / "bundle.json").read_text(encoding="utf-8"))
        clip = open_clip.CLIP(**info["architecture"])
        clip.load_state_dict(load_file(Path(bundle) / "weights.safetensors"))
        self.visual = clip.eval().visual
        self.preprocess = make_preprocess(bundle)

    def embed(self, pixels: torch.Tensor) -> np.ndarray:
        """[B, 3, H, W] float32, normalised, to [B, D] float32 of length 1."""
        with torch.inference_mode():
            return torch.nn.functional.normalize(self.visual(pixels), dim=-1).numpy()

    def embed_files(self, paths: list[str]) -> np.ndarray:
        """Read, decode in full and embed one batch: [B, D] float32."""
        pixels = []
        for path in paths:
            with Image.open(path) as image:
                pixels.append(self.preprocess(image))
        return self.embed(torch.stack(pixels))


def make_preprocess(bundle: str) -> Callable[[Image.Image], torch.Tensor]:
    """open_clip's own evaluation transform: an image to [3, H, W] float32."""
    info = json.loads((Path(bundle) / "bundle.json").read_text(encoding="utf-8"))
    return image_transform_v2(PreprocessCfg(**info["preprocessing"]), is_train=False)


@contextmanager
def working(times: str, images: int) -> Iterator[None]:
    """Note when work on a batch began and ended, and how many images it finished."""
    began = time.time()
    yield
    with (Path(times) / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps([began, time.time(), images]) + "\n")


def read_arguments(*more: str) -> Any:
    """What ``peers.py`` hands to each script."""
    parser = argparse.ArgumentParser()
    for name in ("manifest", "bundle", "output", "times", *more):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()
