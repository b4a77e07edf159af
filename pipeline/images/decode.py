"""Bytes to RGB pixels as photo people expect them, or the reason why not.

The boundary behind which Pillow may raise whatever it likes: nothing but KeyboardInterrupt and
SystemExit leaves :func:`decode`. A decoder that crashes the process is beyond it: for that there is
:mod:`pipeline.images.cage`.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.images.colour import convert_to_srgb
from pipeline.images.containers import ImageFormat, describe, is_cut_off, sniff
from pipeline.images.reasons import Failure, Reason, UnusableImageError

# The plugins themselves, not Image.open: it hides why a file cannot be read, and takes JPEGs with
# a damaged index of further pictures (MPO) for MPO and fails. The first picture is a plain JPEG.
_PLUGINS: Final[dict[ImageFormat, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

# Images are decoded in parallel already; threads within one image only get in each other's way.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Text and profiles beside the pixels may be larger than Pillow's 1 MiB (edit histories are);
# 64 MiB for all of them together is Pillow's own limit and stays.
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 1024 * 1024

# Pillow tells of odd metadata by warnings. catch_warnings is not safe between threads, so they
# are ignored by a filter, which is set again wherever somebody took it away (pytest does).
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_settings_lock = threading.Lock()

# A pixel takes 4 bytes, and converting takes copies: of large images one at a time is enough.
_LARGE_PIXELS = 40_000_000
ONE_LARGE_IMAGE = threading.Lock()

_TRANSPOSE_BY_ORIENTATION: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_SIDEWAYS = 5


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels, ready to be resized.

    Attributes:
        image: Mode RGB, sRGB, upright; smaller than the original where it was decoded to scale.
        width: Pixels of the original, as displayed.
        height: Pixels of the original, as displayed.
    """

    image: Image.Image
    width: int
    height: int


def decode(
    content: bytes,
    *,
    max_pixels: int,
    cover: int | None = None,
    turn: AbstractContextManager[Any] = ONE_LARGE_IMAGE,
) -> DecodedImage | Failure:
    """Decodes the first picture of JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.

    EXIF orientation is applied, CMYK and embedded profiles become sRGB, transparency lies over
    white, 16 bit are scaled to 8.

    Args:
        content: The file.
        max_pixels: Images that announce more become ``too_many_pixels``, undecoded.
        cover: Shortest side the model needs. JPEGs are decoded at the smallest scale (1, 1/2,
            1/4, 1/8) whose short side still is no shorter. None: in full.
        turn: Held while an image of more than 40 million pixels is decoded.

    Returns:
        The pixels, or why there are none.
    """
    name = sniff(content)
    if name is None:
        if not content:
            return Failure(Reason.EMPTY, "no bytes")
        return Failure(Reason.NOT_AN_IMAGE, f"the bytes are {describe(content)}")
    _keep_pillow_quiet()
    _lift_pillow_limit(max_pixels)
    try:
        return _decode(content, name, max_pixels=max_pixels, cover=cover, turn=turn)
    except UnusableImageError as error:
        return error.failure
    except Image.DecompressionBombError as error:
        return Failure(Reason.TOO_MANY_PIXELS, str(error))
    except MemoryError:
        return Failure(Reason.OUT_OF_MEMORY, f"no memory to decode the {name}")
    except Exception as error:  # noqa: BLE001
        # Damaged files make Pillow raise OSError, ValueError, SyntaxError, TypeError, IndexError,
        # KeyError, struct.error, ... from anywhere: one photo among millions must not stop a job.
        message = f"{name}: {type(error).__name__}: {error}"
        cut_off = "truncated" in str(error).lower() or is_cut_off(content, name)
        return Failure(Reason.TRUNCATED if cut_off else Reason.CORRUPT, message)


def _decode(
    content: bytes,
    name: ImageFormat,
    *,
    max_pixels: int,
    cover: int | None,
    turn: AbstractContextManager[Any],
) -> DecodedImage:
    with _PLUGINS[name](io.BytesIO(content)) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UnusableImageError(
                Reason.TOO_MANY_PIXELS,
                f"{width} x {height} pixels, more than decode.max_pixels = {max_pixels}",
            )
        if cover is not None and name == "JPEG":
            image.draft(None, (cover, cover))
        large = image.width * image.height > _LARGE_PIXELS
        with turn if large else contextlib.nullcontext():
            _mend_transparency(image)
            image.load()
            # Of TIFFs this was applied by loading, and is gone.
            orientation = _read_orientation(image)
            pixels = convert_to_srgb(image)
            if orientation in _TRANSPOSE_BY_ORIENTATION:
                pixels = pixels.transpose(_TRANSPOSE_BY_ORIENTATION[orientation])
    if orientation >= _FIRST_SIDEWAYS:
        width, height = height, width
    return DecodedImage(pixels, width, height)


def _mend_transparency(image: ImageFile.ImageFile) -> None:
    """The transparent colour of a PNG counts in the file's bits; Pillow's pixels have 8.

    Only 16 bit grey keeps its values. Must be called before the image is loaded.
    """
    value: Any = image.info.get("transparency")
    raw_mode = image.tile[0].args if image.tile else None
    if image.format != "PNG" or value is None:
        return
    if raw_mode == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(sample >> 8 for sample in value)
    elif raw_mode in ("L;2", "L;4") and isinstance(value, int):
        white = (1 << int(raw_mode[-1])) - 1
        image.info["transparency"] = min(value, white) * 255 // white


def _read_orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation, 1 to 8. Broken EXIF costs the orientation, not the image."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - as in decode: parsing damaged EXIF raises anything
        return 1
    return orientation if orientation in _TRANSPOSE_BY_ORIENTATION else 1


def _keep_pillow_quiet() -> None:
    with _settings_lock:
        if not warnings.filters or warnings.filters[0] != _QUIET:
            warnings.filterwarnings("ignore", module=r"PIL\.")


def _lift_pillow_limit(max_pixels: int) -> None:
    """Pillow's limit is one for the whole process: it is only ever lifted, to what is asked for.

    So no thread takes it from under another; whoever asked for less is held to it by
    :func:`_decode`, on the header.
    """
    with _settings_lock:
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = max_pixels
