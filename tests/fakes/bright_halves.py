"""Pictures that a tiny model can learn: where they are bright says what is on them."""

from __future__ import annotations

import io
from collections.abc import Collection

import numpy as np
from PIL import Image

LABELS = ("pool", "bed")


def draw_halves(held: Collection[str], seed: int, *, width: int = 40) -> bytes:
    """A PNG, 40 pixels high: a bright left half is a pool, a bright right half a bed."""
    pixels = np.random.default_rng(seed).integers(0, 90, (40, width, 3))
    pixels[:, : width // 2] += 140 * ("pool" in held)
    pixels[:, width // 2 :] += 140 * ("bed" in held)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def choose_held(index: int) -> list[str]:
    """Labels of the picture of an index: four in a row have each combination once."""
    return [label for bit, label in enumerate(LABELS) if index >> bit & 1]
