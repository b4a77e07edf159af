"""Daft, as its guide to images has it.

Download and decoding are Daft's own, in Rust and on all cores; preprocessing is a function of rows
(``daft.func``), the model a class that is loaded once (``daft.cls``) with a batch method. The
pixels are shrunk by open_clip's transform as everywhere: ``resize`` of Daft knows neither the
shorter side nor bicubic.
"""

from __future__ import annotations

import daft
import numpy as np
import torch
from daft import DataType, Series, col
from PIL import Image
from tower import BATCH, Tower, make_preprocess, read_arguments, working

asked = read_arguments()
preprocess = make_preprocess(asked.bundle)


@daft.func(return_dtype=DataType.tensor(DataType.float32()))
def to_pixels(image: np.ndarray) -> np.ndarray:
    """Decoded image to the model's input."""
    with working(asked.times, 0):
        return preprocess(Image.fromarray(image)).numpy()


@daft.cls(max_concurrency=1)
class Embed:
    """The model, loaded once."""

    def __init__(self, bundle: str, times: str) -> None:
        self.tower, self.times = Tower(bundle), times

    @daft.method.batch(return_dtype=DataType.list(DataType.float32()), batch_size=BATCH)
    def __call__(self, pixels: Series) -> list[np.ndarray]:
        """Pixels to embeddings."""
        with working(self.times, len(pixels)):
            batch = torch.from_numpy(np.stack(pixels.to_pylist()))
            return list(self.tower.embed(batch))


embed = Embed(asked.bundle, asked.times)
images = daft.read_parquet(asked.manifest)
with working(asked.times, 0):
    pass
decoded = images.with_column("image", col("uri").download().decode_image(mode="RGB"))
pixels = decoded.with_column("pixels", to_pixels(col("image")))
embedded = pixels.with_column("embedding", embed(col("pixels")))
embedded.select("image_id", "embedding").write_parquet(asked.output)
