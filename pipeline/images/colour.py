"""Any pixels Pillow can hold to RGB in sRGB, 8 bit, without transparency.

Knows no files and no failures; what it is given has been loaded.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin

_WHITE = (255, 255, 255)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_UNSIGNED, _SIGNED = 1, 2

# Colour spaces of ICC profiles (ICC.1, table 19) and the Pillow modes they describe.
_MODE_BY_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
# Profiles are a few hundred bytes to three megabytes; larger ones are used but not kept.
_MAX_CACHED_PROFILE_BYTES = 4 * 1024 * 1024


def convert_to_srgb(image: Image.Image) -> Image.Image:
    """Converts to sRGB as image viewers show it: profiles applied, alpha over white.

    Args:
        image: Loaded, of any mode. ``info`` may hold ``icc_profile`` and ``transparency``.

    Returns:
        Mode RGB, same size.

    Raises:
        ValueError: A mode that cannot be converted.
    """
    profile = image.info.get("icc_profile")
    colour, alpha = _split_alpha(image)
    colour = _apply_profile(colour, profile if isinstance(profile, bytes) else b"")
    if alpha is None or alpha.getextrema() == (255, 255):
        return colour
    return Image.composite(colour, Image.new("RGB", colour.size, _WHITE), alpha)


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colour in mode L, RGB, CMYK, LAB or YCbCr, and alpha in mode L where there is any."""
    transparency = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        return _scale_16_bit(image, transparency if isinstance(transparency, int) else None)
    if image.mode in ("I", "F"):
        return _scale_wide(image), None
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    elif image.mode == "PA" or (transparency is not None and image.mode in ("1", "L", "P", "RGB")):
        image = image.convert("RGBA")
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.mode == "RGBA":
        alpha = image.getchannel("A")
        if image.format == "BMP" and alpha.getextrema() == (0, 0):
            # Written by programs that leave the fourth byte unused, as every viewer assumes.
            return image.convert("RGB"), None
        return image.convert("RGB"), alpha
    if image.mode in ("L", "RGB", "CMYK", "LAB", "YCbCr"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _scale_16_bit(
    image: Image.Image, transparent: int | None
) -> tuple[Image.Image, Image.Image | None]:
    """16 bit grey to 8, and the transparent value to alpha.

    Pillow's own conversion differs between versions, and TIFFs of 12 bit reach only 4095.
    """
    values = np.asarray(image)
    white = (1 << min(16, _read_tag(image, _BITS_PER_SAMPLE, 16))) - 1
    scaled = (np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white
    grey = scaled.astype(np.uint8)
    if _is_white_zero(image):
        grey = 255 - grey
    alpha = None
    if transparent is not None:
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return Image.fromarray(grey), alpha


def _scale_wide(image: Image.Image) -> Image.Image:
    """32 bit integers and floats to 8 bit grey.

    Only unsigned integers, and floats within 0 and 1, say what white is. Anything else is
    stretched from its smallest to its largest value, as viewers of such files do.
    """
    values: NDArray[np.float64]
    raw = np.asarray(image)
    if image.mode == "I" and _read_tag(image, _SAMPLE_FORMAT, _SIGNED) == _UNSIGNED:
        low, high = 0.0, float((1 << min(32, _read_tag(image, _BITS_PER_SAMPLE, 32))) - 1)
        values = raw.view(np.uint32).astype(np.float64)
    else:
        values = np.nan_to_num(raw.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        if image.mode == "F" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
    grey = np.clip((values - low) * (255.0 / max(high - low, 1e-30)), 0, 255).round()
    grey = grey.astype(np.uint8)
    return Image.fromarray(255 - grey if _is_white_zero(image) else grey)


def _is_white_zero(image: Image.Image) -> bool:
    """Whether grey runs from white to black. Pillow inverts these itself, but only up to 8 bit."""
    return _read_tag(image, _PHOTOMETRIC, _BLACK_IS_ZERO) == _WHITE_IS_ZERO


def _read_tag(image: Image.Image, number: int, default: int) -> int:
    """The first number of a TIFF tag; the default for other formats, and where it is missing."""
    value = image.tag_v2.get(number) if isinstance(image, TiffImagePlugin.TiffImageFile) else None
    if isinstance(value, tuple) and value:
        value = value[0]
    return value if isinstance(value, int) and value >= 0 else default


def _apply_profile(colour: Image.Image, profile: bytes) -> Image.Image:
    """To RGB through the embedded profile, where there is one that works."""
    if colour.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return _transformed(colour, _build_transform(lab, "LAB"))
    if profile:
        keep = len(profile) <= _MAX_CACHED_PROFILE_BYTES
        mode, transform = (_read_profile if keep else _read_profile.__wrapped__)(profile)
        if mode == "RGB" and colour.mode != "CMYK":
            # A grey photo that was saved with the profile of its coloured neighbours.
            colour = colour.convert("RGB") if colour.mode != "RGB" else colour
        if transform is not None and mode == colour.mode:
            return _transformed(colour, transform)
    return colour if colour.mode == "RGB" else colour.convert("RGB")


def _transformed(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise ValueError("the colour transform returned no image")
    return converted


@functools.lru_cache(maxsize=32)
def _read_profile(profile: bytes) -> tuple[str | None, ImageCms.ImageCmsTransform | None]:
    """The mode a profile is for, and the way to sRGB.

    A broken profile has neither: viewers show such an image as if it had none. Most profiles are
    sRGB under some name; they have no transform, since it would cost as much as decoding and
    change nothing but roundings.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODE_BY_SPACE.get(str(opened.profile.xcolor_space).strip())
        if mode is None:
            return None, None
        transform = _build_transform(opened, mode)
        return mode, None if mode == "RGB" and _changes_nothing(transform) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, None


def _build_transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    # Without lcms' cache of the last pixel, a transform may be shared between threads.
    return ImageCms.buildTransform(
        source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=ImageCms.Flags.NOCACHE
    )


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether no colour of a 18 x 18 x 18 grid moves by more than two of 255 levels."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
    moved = np.asarray(_transformed(Image.fromarray(grid), transform))
    return bool(np.abs(moved.astype(np.int16) - grid).max() <= 2)  # noqa: PLR2004
