"""RGB images to the model's input size, exactly as open_clip's evaluation transform.

Everything of that transform up to its ``ToTensor``; normalising by mean and standard deviation
happens on the device. Source: open_clip 3.3 ``transform.py`` (``image_transform_v2``) and
torchvision's ``functional.resize`` and ``center_crop``, whose roundings are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigurationError

# OpenAI's CLIP, and the default of open_clip.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)

# Pixels of 4 bytes that resizing may hold beside source and result. A photo needs less than a
# million; only images thinner than about 1 : 600 (at 224) reach it.
MAX_INTERMEDIATE_PIXELS = 32_000_000

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Pixels of the source, per pixel of the result, that a filter looks at to each side (Pillow).
_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are made to fit the model: the fields of open_clip's ``PreprocessCfg``.

    Attributes:
        size: Height and width of the model's input, or one number for both.
        mode: Colour mode of the model's input.
        mean: Of the training images, in 0..1, for red, green, blue.
        std: Of the training images, in 0..1, for red, green, blue.
        interpolation: ``bicubic`` or ``bilinear``.
        resize_mode: ``shortest`` fills the input and crops the centre, ``longest`` fits into the
            input and pads, ``squash`` changes the aspect ratio.
        fill_color: Grey level of the padding, 0..255.

    Raises:
        ConfigurationError: A value open_clip would not take.
    """

    size: int | tuple[int, int] = 224
    mode: Literal["RGB"] = "RGB"
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        checks = {
            "size": min(self.height, self.width) > 0,
            "mode": self.mode == "RGB",
            "mean": len(self.mean) == len("RGB"),
            "std": len(self.std) == len("RGB") and all(value > 0 for value in self.std),
            "interpolation": self.interpolation in _FILTERS,
            "resize_mode": self.resize_mode in ("shortest", "longest", "squash"),
            "fill_color": 0 <= self.fill_color <= 255,  # noqa: PLR2004 - 8 bit
        }
        for name, is_right in checks.items():
            if not is_right:
                raise ConfigurationError(
                    "The preprocessing cannot be used", where=name, got=repr(getattr(self, name))
                )

    @property
    def height(self) -> int:
        """Height of the model's input, in pixels."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Width of the model's input, in pixels."""
        return self.size if isinstance(self.size, int) else self.size[1]

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Takes over open_clip's preprocessing.

        Args:
            config: ``model.visual.preprocess_cfg``, or the same from JSON. Keys of training are
                ignored; missing ones have open_clip's defaults.

        Returns:
            The preprocessing.

        Raises:
            ConfigurationError: A value open_clip would not take.
        """
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in config.items() if name in known}
        values = {name: value for name, value in values.items() if value is not None}
        for name in ("mean", "std"):
            if isinstance(values.get(name), int | float):
                values[name] = (values[name],) * 3
        for name, value in values.items():
            if isinstance(value, list | tuple):
                values[name] = tuple(value)
        size = values.get("size")
        if isinstance(size, tuple) and len(set(size)) == 1:
            values["size"] = size[0]
        if values.get("interpolation") == "random":
            # A training augmentation; open_clip evaluates with bicubic then.
            values["interpolation"] = "bicubic"
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it; :meth:`from_open_clip` takes it back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def make_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resizes and crops, or pads, to the model's input.

    Equal to open_clip's transform in every bit, but for images so thin that resizing would take
    more than :data:`MAX_INTERMEDIATE_PIXELS`: of those only the part that is kept is resized,
    which may round a pixel the other way (by one level).

    Args:
        image: Any size from 1 x 1. Other modes than RGB are converted first.
        preprocessing: How.

    Returns:
        uint8 [H, W, 3], 0..255, writable and contiguous.
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    target = (preprocessing.width, preprocessing.height)
    # open_clip forgets the interpolation where it fills an input that is not square.
    is_square = preprocessing.width == preprocessing.height
    forgets = preprocessing.resize_mode == "shortest" and not is_square
    interpolation = "bicubic" if forgets else preprocessing.interpolation
    if preprocessing.resize_mode == "squash":
        resized = _resize(image, target, interpolation)
    elif preprocessing.resize_mode == "longest":
        resized = _resize(image, _scale_to(image.size, target, max), interpolation)
        resized = _crop_or_pad(resized, target, preprocessing.fill_color)
    else:
        scaled = _scale_shortest(image.size, target)
        if scaled[0] * max(scaled[1], image.height) > MAX_INTERMEDIATE_PIXELS:
            resized = _resize_centre(image, scaled, target, interpolation)
        else:
            resized = _resize(image, scaled, interpolation)
            resized = _crop_or_pad(resized, target, 0)
    return np.array(resized)


def _scale_shortest(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Width and height after the shortest side fits; torchvision's rounding, or timm's."""
    if target[0] != target[1]:
        return _scale_to(size, target, min)
    width, height = size
    if width <= height:
        return target[0], int(target[0] * height / width)
    return int(target[0] * width / height), target[0]


def _scale_to(size: tuple[int, int], target: tuple[int, int], pick: Any) -> tuple[int, int]:
    """Timm's ``ResizeKeepRatio``; ours: a side is at least one pixel, where timm's fails."""
    ratio = pick(size[1] / target[1], size[0] / target[0])
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def _resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    if image.size == size:
        return image
    resample = _FILTERS[interpolation]
    if size[0] * image.height > MAX_INTERMEDIATE_PIXELS:
        # Pillow resizes rows first, all of them: of a very tall image resize the columns first.
        image = image.resize((image.width, size[1]), resample)
    return image.resize(size, resample)


def _resize_centre(
    image: Image.Image, size: tuple[int, int], target: tuple[int, int], interpolation: str
) -> Image.Image:
    """Resizes only what the central crop of an image of ``size`` keeps."""
    boxes = []
    for axis in (0, 1):
        scale = image.size[axis] / size[axis]
        first = round((size[axis] - target[axis]) / 2.0) * scale
        last = first + target[axis] * scale
        margin = _SUPPORT[interpolation] * max(1.0, scale) + 1
        low = max(0, math.floor(first - margin))
        high = min(image.size[axis], math.ceil(last + margin))
        boxes.append((low, high, max(0.0, first - low), min(last - low, float(high - low))))
    (left, right, x0, x1), (top, bottom, y0, y1) = boxes
    part = image.crop((left, top, right, bottom))
    return part.resize(target, _FILTERS[interpolation], box=(x0, y0, x1, y1))


def _crop_or_pad(image: Image.Image, target: tuple[int, int], fill: int) -> Image.Image:
    """The central part; where a side is shorter, ``fill`` around it (torchvision's roundings)."""
    wide, high = max(image.width, target[0]), max(image.height, target[1])
    if (wide, high) != image.size:
        padded = Image.new("RGB", (wide, high), (fill, fill, fill))
        padded.paste(image, ((wide - image.width) // 2, (high - image.height) // 2))
        image = padded
    left, top = round((wide - target[0]) / 2.0), round((high - target[1]) / 2.0)
    return image.crop((left, top, left + target[0], top + target[1]))
