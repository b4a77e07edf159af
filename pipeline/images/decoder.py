"""Bytes of a file to the model's input in one step, wherever that step is taken.

The same decoder runs within a worker's threads or in a process of its own
(:mod:`pipeline.images.cage`); which of them makes no difference to a pixel.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.images.decode import ONE_LARGE_IMAGE, decode
from pipeline.images.preprocess import Preprocessing, make_pixels
from pipeline.images.reasons import Failure, Reason


@dataclass(frozen=True, slots=True)
class DecodedPixels:
    """An image as the model takes it.

    Attributes:
        pixels: uint8 [H, W, 3].
        width: Pixels of the original, as displayed.
        height: Pixels of the original, as displayed.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Decodes and resizes. Safe to share between threads.

    Attributes:
        preprocessing: The model's input.
        max_pixels: Images that announce more become ``too_many_pixels``, undecoded.
        cover: Shortest side the model needs, for scaled decoding. None: decode in full.
    """

    preprocessing: Preprocessing
    max_pixels: int
    cover: int | None

    def decode(
        self, content: bytes, *, turn: AbstractContextManager[Any] = ONE_LARGE_IMAGE
    ) -> DecodedPixels | Failure:
        """Decodes one image.

        Args:
            content: The file.
            turn: Held while a large image is decoded.

        Returns:
            The model's input, or why there is none.
        """
        try:
            decoded = decode(content, max_pixels=self.max_pixels, cover=self.cover, turn=turn)
            if isinstance(decoded, Failure):
                return decoded
            pixels = make_pixels(decoded.image, self.preprocessing)
        except MemoryError:
            return Failure(Reason.OUT_OF_MEMORY, "no memory to resize the image")
        return DecodedPixels(pixels, decoded.width, decoded.height)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it; :meth:`from_dict` takes it back."""
        return {
            "preprocessing": self.preprocessing.to_dict(),
            "max_pixels": self.max_pixels,
            "cover": self.cover,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Decoder:
        """Takes back what :meth:`to_dict` made.

        Raises:
            ConfigurationError: A value open_clip would not take.
        """
        preprocessing = Preprocessing.from_open_clip(values["preprocessing"])
        return cls(**{**values, "preprocessing": preprocessing})
