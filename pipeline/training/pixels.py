"""Pixels for training: decoded once into a file, cut and flipped anew each time they are seen.

Decoding costs more than a small model's training step, so every image is decoded once, to a square
slightly larger than the model's input, into a memory-mapped uint8 array. Augmentation then works on
whole batches of tensors, on whatever device the model is on.

Shapes: N images, B images of a batch, L labels; H W of the model's input, CH CW of the cache.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.images.loader import ImageLoader, LoadedImage
from pipeline.images.preprocess import Preprocessing
from pipeline.images.reasons import Reason, describe_left_out
from pipeline.logs import BarStream
from pipeline.models.labels import Tokenizer
from pipeline.training.data import LabelledImages
from pipeline.training.splits import Split
from pipeline.training.texts import TextSet, make_text_set

_LOG = logging.getLogger(__name__)

# Cached training images are larger than the input by this factor, so that a cut keeps resolution.
CACHE_SCALE = 1.125
# torchvision's RandomResizedCrop takes 0.08 to 1 of the area, which loses small objects; with
# several labels to an image a cut must keep most of it.
CROP_AREA = (0.85, 1.0)
CROP_ASPECT = (0.95, 1.05)
_MIRRORED_SHARE = 0.5


@dataclass(frozen=True)
class PixelSet:
    """Images of one split with their labels.

    Attributes:
        pixels: [N, CH, CW, 3] uint8, memory-mapped.
        targets: [N, L] bool.
        known: [N, L] bool.
        ids: Image ids, N of them.
        left_out: Images that could not be read, by reason.
        texts: What stands beside each image; None where no model reads it.
    """

    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    ids: tuple[str, ...]
    left_out: Counter[Reason]
    texts: TextSet | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [B, CH, CW, 3] uint8, targets [B, L] float32 and known [B, L] bool of some images.

        Args:
            indices: [B], any order.
        """
        return (
            torch.from_numpy(self.pixels[indices]),
            torch.from_numpy(self.targets[indices].astype(np.float32)),
            torch.from_numpy(self.known[indices]),
        )


def make_pixel_set(
    images: LabelledImages,
    split: Split,
    *,
    preprocessing: Preprocessing,
    fetch: FetchConfig,
    decode: DecodeConfig,
    folder: Path,
    progress: bool = False,
    process: int = 0,
    processes: int = 1,
    tokenizer: Tokenizer | None = None,
) -> PixelSet:
    """Decode a split's images into a file. Unreadable ones are left out, counted and logged.

    Args:
        images: The labelled manifest.
        split: Which of its images.
        preprocessing: Their size and how they get there; mean and standard deviation are not used.
        fetch: How bytes are fetched.
        decode: How bytes become pixels.
        folder: Where the file goes; it is as large as the pixels, and has to outlive the result.
        progress: Show progress on stderr.
        process: Which of the processes that share the images; each decodes its own.
        processes: How many share them.
        tokenizer: The text tower's, where texts are read.
    """
    wanted = images.indices(split)[process::processes]
    path = folder / f"{split}.npy"
    pixels = np.lib.format.open_memmap(
        path,
        mode="w+",
        dtype=np.uint8,
        shape=(len(wanted), preprocessing.height, preprocessing.width, 3),
    )
    kept: list[int] = []
    left_out: Counter[Reason] = Counter()
    loader = ImageLoader(fetch, decode, preprocessing, scaled_decoding=True)
    try:
        loaded = tqdm(
            loader.load(images.requests(wanted)),
            desc=f"decoding {split}",
            total=len(wanted),
            unit="img",
            file=BarStream(),
            dynamic_ncols=True,
            disable=not progress,
        )
        for index, (request, image) in zip(wanted, loaded, strict=True):
            if isinstance(image, LoadedImage):
                pixels[len(kept)] = image.pixels
                kept.append(int(index))
                continue
            failure = image.failure
            left_out[failure.reason] += 1
            _LOG.debug("left out %s: %s: %s", request.key, failure.reason, failure.detail)
    finally:
        loader.close()
    if left_out:
        told = describe_left_out(left_out, total=len(wanted), what=f"{split} images")
        _LOG.warning("%s", told)
    texts = None
    if tokenizer is not None:
        texts = make_text_set([images.texts[index] for index in kept], tokenizer)
    return PixelSet(
        pixels=pixels[: len(kept)],
        targets=images.targets[kept],
        known=images.known[kept],
        ids=tuple(images.ids[index] for index in kept),
        left_out=left_out,
        texts=texts,
    )


def enlarge(preprocessing: Preprocessing) -> Preprocessing:
    """The model's preprocessing at ``CACHE_SCALE`` times its size, for training images."""
    height, width = preprocessing.height, preprocessing.width
    return replace(preprocessing, size=(round(height * CACHE_SCALE), round(width * CACHE_SCALE)))


def draw_cuts(count: int, generator: torch.Generator) -> Tensor:
    """Draw how each of some images is cut and mirrored: affine maps, [count, 2, 3] float32.

    A random part of each image, scaled to the input's size; half of them are mirrored.

    Args:
        count: Images.
        generator: On the CPU, so that every device sees the same cuts.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    area = uniform(*CROP_AREA)
    stretch = torch.exp(uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
    width = (area * stretch).sqrt().clamp(max=1.0)
    height = (area / stretch).sqrt().clamp(max=1.0)
    mirrored = torch.where(uniform(0.0, 1.0) < _MIRRORED_SHARE, -1.0, 1.0)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = width * mirrored
    maps[:, 1, 1] = height
    maps[:, 0, 2] = uniform(-1.0, 1.0) * (1.0 - width)
    maps[:, 1, 2] = uniform(-1.0, 1.0) * (1.0 - height)
    return maps


def augment(pixels: Tensor, size: tuple[int, int], cuts: Tensor) -> Tensor:
    """Cut, scale and mirror images.

    One bilinear resampling for the whole batch (random resized crop and horizontal flip are one
    affine map), so it costs little on a CPU.

    Args:
        pixels: [B, CH, CW, 3] uint8.
        size: H and W.
        cuts: Affine maps of :func:`draw_cuts`, [B, 2, 3] float32.

    Returns:
        [B, 3, H, W] float32, 0 to 255, on the device of ``pixels``.
    """
    planes = pixels.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(
        cuts.to(pixels.device), [len(pixels), 3, *size], align_corners=False
    )
    return functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def cut_centre(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of each image, as float planes.

    Args:
        pixels: [B, CH, CW, 3] uint8, at least as large as the input.
        size: H and W.

    Returns:
        [B, 3, H, W] float32, 0 to 255.
    """
    (height, width), (rows, columns) = size, pixels.shape[1:3]
    top, left = (rows - height) // 2, (columns - width) // 2
    return pixels[:, top : top + height, left : left + width].permute(0, 3, 1, 2).float()
