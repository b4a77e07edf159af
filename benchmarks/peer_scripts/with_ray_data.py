"""Ray Data, as its guides to images and to offline batch inference have it.

The manifest by ``read_parquet``, the files by the ``download`` expression, decoding and
preprocessing in tasks (``map``), the model in a pool of actors (``map_batches`` with a class), rows
by ``write_parquet``: the pipeline of Ray's own benchmark of image classification.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from ray.data.expressions import download
from tower import BATCH, Tower, make_preprocess, read_arguments, working

asked = read_arguments()
ray.init(num_cpus=2)
preprocess = make_preprocess(asked.bundle)


def decode(row: dict[str, Any]) -> dict[str, Any]:
    """Bytes to pixels."""
    with working(asked.times, 0):
        pixels = preprocess(Image.open(io.BytesIO(row["bytes"])))
    return {"image_id": row["image_id"], "pixels": pixels.numpy()}


class Embed:
    """The model, loaded once for each actor."""

    def __init__(self, bundle: str, times: str) -> None:
        self.tower, self.times = Tower(bundle), times

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Pixels to embeddings."""
        with working(self.times, len(batch["image_id"])):
            embeddings = self.tower.embed(torch.from_numpy(batch["pixels"].copy()))
        return {"image_id": batch["image_id"], "embedding": embeddings}


images = ray.data.read_parquet(asked.manifest, columns=["image_id", "uri"])
pixels = images.with_column("bytes", download("uri")).map(decode)
embedded = pixels.map_batches(
    Embed,
    batch_size=BATCH,
    compute=ray.data.ActorPoolStrategy(size=1),
    num_cpus=1,
    fn_constructor_kwargs={"bundle": asked.bundle, "times": asked.times},
)
embedded.write_parquet(asked.output)
