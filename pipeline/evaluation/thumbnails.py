"""Small pictures of a few images, as data URIs: a report needs no file beside itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.images.loader import ImageLoader, LoadedImage
from pipeline.images.preprocess import Preprocessing
from pipeline.training.data import LabelledImages

_JPEG_QUALITY = 75


def make_thumbnails(
    images: LabelledImages,
    positions: Iterable[int],
    *,
    pixels: int,
    fetch: FetchConfig,
    decode: DecodeConfig,
) -> dict[int, str]:
    """Make thumbnails, the whole picture each; images that cannot be read any more have none.

    Args:
        images: The labelled manifest.
        positions: Which of its images; repeated ones are read once.
        pixels: Longer side.
        fetch: How bytes are fetched.
        decode: How bytes become pixels.

    Returns:
        ``data:image/jpeg;base64,...`` by position.
    """
    wanted = sorted(set(positions))
    made: dict[int, str] = {}
    if not wanted:
        return made
    whole = Preprocessing(size=pixels, resize_mode="longest")
    with ImageLoader(fetch, decode, whole, scaled_decoding=True) as loader:
        loaded = loader.load(images.requests(wanted))
        for position, (_, image) in zip(wanted, loaded, strict=True):
            if isinstance(image, LoadedImage):
                made[position] = encode_picture(_without_padding(image))
    return made


def _without_padding(image: LoadedImage) -> npt.NDArray[np.uint8]:
    """The picture without the bars that make it square."""
    size = image.pixels.shape[0]
    scale = size / max(image.width, image.height)
    width = min(size, max(1, round(image.width * scale)))
    height = min(size, max(1, round(image.height * scale)))
    top, left = (size - height) // 2, (size - width) // 2
    return image.pixels[top : top + height, left : left + width]


def encode_picture(pixels: npt.NDArray[np.uint8]) -> str:
    """A picture, [H, W, 3], as ``data:image/jpeg;base64,...``."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
