"""One picture with the entropy of a photograph, for benchmarks of fetching and decoding."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from pipeline.synthetic.colours import make_fabric, seeded

_SHAPES = 60
# Chosen so that a megapixel takes 200 to 300 kB, as a camera's picture does after a content
# platform has made it small.
_QUALITY = 87
_GRAIN = 5.0


def draw_photo(width: int, height: int, seed: int) -> bytes:
    """Draws shapes under texture at every scale and encodes them as a JPEG.

    Args:
        width: Pixels.
        height: Pixels.
        seed: The same seed and library versions give the same bytes.

    Returns:
        The JPEG's bytes; about a quarter of a byte for each pixel.
    """
    rng = seeded("photo", seed)
    picture = Image.new("RGB", (width, height), make_fabric(rng))
    draw = ImageDraw.Draw(picture)
    for _ in range(_SHAPES):
        x, y = rng.uniform(-0.2, 1.0) * width, rng.uniform(-0.2, 1.0) * height
        right = x + rng.uniform(0.05, 0.5) * width
        bottom = y + rng.uniform(0.05, 0.5) * height
        if rng.random() < 1 / 2:
            draw.ellipse((x, y, right, bottom), fill=make_fabric(rng))
        else:
            corners = [(x, y), (right, (y + bottom) / 2), (rng.uniform(x, right), bottom)]
            draw.polygon(corners, fill=make_fabric(rng))
    noise = np.random.default_rng(rng.getrandbits(64))
    cell, strength = min(width, height) // 4, 26.0
    while cell >= 1:
        size = (-(-width // cell), -(-height // cell))
        amplitude = max(strength, _GRAIN)
        field = noise.standard_normal((size[1], size[0], 3), dtype=np.float32) * amplitude + 128.5
        texture = Image.fromarray(field.clip(0, 255).astype(np.uint8))
        if size != (width, height):
            texture = texture.resize((width, height), Image.Resampling.BILINEAR)
        picture = ImageChops.add(picture, texture, 1, -128)
        cell, strength = cell // 3, strength * 0.72
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
