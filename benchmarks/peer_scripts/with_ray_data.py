"""Ray Data, as its guides to images and to offline batch inference have it.

The manifest by ``read_parquet``, decoding and preprocessing by ``map``, the model in a pool of
actors by ``map_batches`` with a class, rows by ``write_parquet``. Ray fuses decoding with the model
into the actors, so no pixels go through its object store. Two actors, a thread each; each asks for
half a CPU, so that the tasks that read and write find one: with whole CPUs nothing is left for them
and nothing ever starts. For the same reason the files are opened where they are decoded: the
``download`` expression holds a CPU of its own, and keeps the bytes of local files twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from tower import BATCH, Tower, make_preprocess, read_arguments, working

BLOCKS = 64
asked = read_arguments()
preprocess = make_preprocess(asked.bundle)


def decode(row: dict[str, Any]) -> dict[str, Any]:
    """A file to the model's input."""
    with working(asked.times, 0), Image.open(row["uri"]) as image:
        return {"image_id": row["image_id"], "pixels": preprocess(image).numpy()}


class Embed:
    """The model, loaded once for each actor."""

    def __init__(self, bundle: str, times: str) -> None:
        self.tower, self.times = Tower(bundle), times

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Pixels to embeddings."""
        with working(self.times, len(batch["image_id"])):
            # Ray's batches are read-only, which torch warns of.
            embeddings = self.tower.embed(torch.from_numpy(batch["pixels"].copy()))
        return {"image_id": batch["image_id"], "embedding": embeddings}


ray.init(num_cpus=2)
images = ray.data.read_parquet(
    asked.manifest, columns=["image_id", "uri"], override_num_blocks=BLOCKS
)
embedded = images.map(decode).map_batches(
    Embed,
    batch_size=BATCH,
    compute=ray.data.ActorPoolStrategy(size=2),
    num_cpus=0.5,
    fn_constructor_kwargs={"bundle": asked.bundle, "times": asked.times},
)
embedded.write_parquet(asked.output)
