"""One picture with the entropy of a photograph, for benchmarks of fetching and decoding."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from pipeline.synthetic.colours import make_fabric, seeded

_SHAPES = 60
# Texture from clouds to grain: the size of its cells (parts of the shorter side; below, pixels) and
# its strength in levels of 255. Chosen together with the quality so that a megapixel takes 200 to
# 300 kB, as a camera's picture does on a content platform.
_COARSE = ((4, 24), (12, 17), (36, 12))
_FINE = ((7, 9), (3, 7), (1, 5))
_QUALITY = 88


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
    side = min(width, height)
    cells = [(max(1, side // parts), strength) for parts, strength in _COARSE]
    for cell, strength in (*cells, *_FINE):
        size = (-(-width // cell), -(-height // cell))
        field = noise.standard_normal((size[1], size[0], 3), dtype=np.float32)
        levels = (field * strength + 128.5).clip(0, 255).astype(np.uint8)
        texture = Image.fromarray(levels)
        if size != (width, height):
            texture = texture.resize((width, height), Image.Resampling.BILINEAR)
        picture = ImageChops.add(picture, texture, 1, -128)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
