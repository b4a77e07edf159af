"""Hundreds of hostile files, the same on every call: good ones mutated, bombs, and no images.

Good files of every format that is decoded are cut, flipped, spliced and given headers that lie;
bombs are small files of many pixels, many frames or much metadata. What becomes of one is not
always known before (viewers show many a damaged photo), only that it becomes one thing.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms

from pipeline.synthetic.colours import seeded
from pipeline.synthetic.damaged import jpeg_header_of_size, png_chunk, png_of_size
from pipeline.synthetic.scenes import draw_scene

Make = Callable[[], bytes]

_SIDE = 96
_MIB = 1024 * 1024

# Name -> format, mode and options of a good file.
_GOOD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg-progressive": ("JPEG", "RGB", {"progressive": True, "quality": 90}),
    "jpeg-cmyk": ("JPEG", "CMYK", {}),
    "jpeg-grey": ("JPEG", "L", {"optimize": True}),
    "png": ("PNG", "RGB", {}),
    "png-alpha": ("PNG", "RGBA", {}),
    "png-palette": ("PNG", "P", {"transparency": 3}),
    "png-16-bit": ("PNG", "I;16", {}),
    "gif": ("GIF", "P", {}),
    "gif-animated": ("GIF", "P", {"frames": 4}),
    "webp": ("WEBP", "RGB", {"quality": 80}),
    "webp-lossless": ("WEBP", "RGBA", {"lossless": True}),
    "webp-animated": ("WEBP", "RGB", {"frames": 4}),
    "bmp": ("BMP", "RGB", {}),
    "bmp-palette": ("BMP", "P", {}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff-lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff-deflate": ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
    "tiff-jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "tiff-float": ("TIFF", "F", {}),
    "avif": ("AVIF", "RGB", {"quality": 60, "speed": 8}),
}


def write_mutated(folder: Path, *, every: int = 1) -> list[Path]:
    """Writes the files and returns their paths, in a fixed order.

    Args:
        folder: Made where it is missing.
        every: Leaves out all but each so-many-th, and does not make the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    made = chain(_mutate_all(), (("bomb-" + name, make) for name, make in _BOMBS.items()))
    for name, make in islice(chain(made, _make_strangers()), 0, None, every):
        path = folder / name
        path.write_bytes(make())
        paths.append(path)
    return paths


# --- good files, mutated


def _encode_all() -> dict[str, bytes]:
    scene = draw_scene(seeded("mutated"), width=_SIDE, height=_SIDE).image
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {}
    for name, (image_format, mode, options) in _GOOD.items():
        grey = mode in ("I;16", "F", "L")
        image = scene.convert("L").convert(mode) if grey else scene.convert(mode)
        known = dict(options)
        if frames := known.pop("frames", None):
            known |= {"save_all": True, "append_images": [image.rotate(n) for n in range(frames)]}
        if image_format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
            known |= {"exif": exif}
            known |= {"icc_profile": profile} if mode == "RGB" else {}
        content = io.BytesIO()
        image.save(content, image_format, **known)
        files[name] = content.getvalue()
    return files


def _cut(content: bytes, share: float) -> bytes:
    return content[: max(1, int(len(content) * share))]


def _flip(content: bytes, rng: random.Random, count: int, within: int) -> bytes:
    """Changes bits at ``count`` places of the first ``within`` bytes."""
    changed = bytearray(content)
    for _ in range(count):
        changed[rng.randrange(min(within, len(changed)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, rng: random.Random, value: bytes) -> bytes:
    """Puts a number where the header, after the signature, may have another."""
    place = rng.randrange(8, min(200, len(content) - len(value)))
    return content[:place] + value + content[place + len(value) :]


def _mutate(name: str, content: bytes, other: bytes) -> Iterator[tuple[str, bytes]]:
    """Fourteen mutants of a file."""
    rng = seeded("mutate", name)
    for share in (0.02, 0.3, 0.6, 0.97):
        yield f"cut-{share}", _cut(content, share)
    yield "flipped-in-head", _flip(content, rng, 2, 64)
    yield "flipped-in-headers", _flip(content, rng, 6, 400)
    yield "flipped-once", _flip(content, rng, 1, len(content))
    yield "flipped-often", _flip(content, rng, 40, len(content))
    half = len(content) // 2
    yield "spliced-with-another", content[:half] + other[len(other) // 2 :]
    yield "middle-twice", content[: half + 200] + content[half - 200 :]
    yield "middle-gone", content[: half - 100] + content[half + 100 :]
    for number, lie in enumerate((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0")):
        yield f"lie-{number}", _overwrite(content, rng, lie)


def _mutate_all() -> Iterator[tuple[str, Make]]:
    files = _encode_all()
    names = list(files)
    for number, (name, content) in enumerate(files.items()):
        other = files[names[(number + 5) % len(names)]]
        for kind, mutant in _mutate(name, content, other):
            yield f"{name}-{kind}.{_GOOD[name][0].lower()}", partial(bytes, mutant)


# --- bombs: small files that ask for much


def _png_with(*chunks: bytes) -> bytes:
    good = png_of_size(8, 8, bytes(8 * 9))
    after_header = 8 + 25
    return good[:after_header] + b"".join(chunks) + good[after_header:]


def _zeros(size: int) -> bytes:
    return zlib.compress(bytes(size))


def _animate(image_format: str, frames: int) -> bytes:
    images = [Image.new("P", (16, 16), number % 256) for number in range(frames)]
    content = io.BytesIO()
    images[0].convert("RGB").save(
        content, image_format, save_all=True, append_images=images[1:], duration=1
    )
    return content.getvalue()


def _jpeg_of_scans(scans: int) -> bytes:
    """One scan of a progressive JPEG over and over: each is a pass over all pixels."""
    content = io.BytesIO()
    Image.new("RGB", (1500, 1500)).save(content, "JPEG", progressive=True)
    good = content.getvalue()
    last = good.rindex(b"\xff\xda")
    return good[:-2] + good[last:-2] * scans + b"\xff\xd9"


def _tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """A TIFF of tags alone: number, type, count, value or offset."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


def _tiff_of_size(width: int, height: int, tag: tuple[int, int, int, int]) -> bytes:
    plain = ((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (262, 3, 1, 1))
    strips = ((273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64))
    return _tiff(*plain, (259, 3, 1, 1), *strips, tag) + bytes(256)


def _with_patch(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


def _encode_plain(image_format: str, **options: object) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 199)).save(content, image_format, **options)
    return content.getvalue()


def _avif_of_size(width: int, height: int) -> bytes:
    content = _encode_plain("AVIF")
    return _with_patch(content, content.index(b"ispe") + 8, struct.pack(">II", width, height))


def _jpeg_of_segments(count: int, marker: int) -> bytes:
    segment = bytes((0xFF, marker)) + struct.pack(">H", 65_535) + bytes(65_533)
    content = _encode_plain("JPEG")
    return content[:2] + segment * count + content[2:]


_BOMBS: dict[str, Make] = {
    # pixels
    "pixels.png": lambda: png_of_size(12_000, 12_000, bytes(12_001 * 12_000)),
    "pixels-by-header.png": lambda: png_of_size(2**31 - 1, 2**31 - 1, b""),
    "pixels-of-nothing.png": lambda: png_of_size(0, 9, b""),
    "pixels.jpeg": lambda: jpeg_header_of_size(65_500, 65_500),
    "pixels-thin.jpeg": lambda: jpeg_header_of_size(65_500, 1),
    "pixels.gif": lambda: _with_patch(_animate("GIF", 1), 6, b"\xff\xff\xff\xff"),
    "pixels.bmp": lambda: _with_patch(_encode_plain("BMP"), 18, struct.pack("<ii", 2**30, 2**30)),
    "pixels-negative.bmp": lambda: _with_patch(
        _encode_plain("BMP"), 18, struct.pack("<ii", -(2**31), -(2**31))
    ),
    "pixels.tiff": lambda: _tiff_of_size(2**31, 2**31, (284, 3, 1, 1)),
    "pixels-within.tiff": lambda: _tiff_of_size(10_000, 10_000, (284, 3, 1, 1)),
    "pixels.webp": lambda: _with_patch(_encode_plain("WEBP"), 26, b"\xff\x3f\xff\x3f"),
    "pixels.avif": lambda: _avif_of_size(60_000, 60_000),
    "pixels-within.avif": lambda: _avif_of_size(12_000, 12_000),
    # frames and passes
    "frames.gif": lambda: _animate("GIF", 1000),
    "frames.png": lambda: _animate("PNG", 300),
    "frames.webp": lambda: _animate("WEBP", 300),
    "scans.jpeg": lambda: _jpeg_of_scans(40),
    # metadata
    "text.png": lambda: _png_with(png_chunk(b"zTXt", b"a\0\0" + _zeros(80 * _MIB))),
    "texts.png": lambda: _png_with(*[png_chunk(b"zTXt", b"a\0\0" + _zeros(12 * _MIB))] * 12),
    "unicode-text.png": lambda: _png_with(png_chunk(b"iTXt", b"a\0\1\0\0\0" + _zeros(70 * _MIB))),
    "profile.png": lambda: _png_with(png_chunk(b"iCCP", b"a\0\0" + _zeros(70 * _MIB))),
    "chunks.png": lambda: _png_with(*[png_chunk(b"tEXt", b"a\0b")] * 50_000),
    "exif.png": lambda: _png_with(png_chunk(b"eXIf", _tiff((34665, 4, 1, 8)))),
    "segments.jpeg": lambda: _jpeg_of_segments(200, 0xE1),
    "profiles.jpeg": lambda: _jpeg_of_segments(200, 0xE2),
    "counts.tiff": lambda: _tiff_of_size(64, 64, (270, 2, 2**31 - 1, 8)),
    "rationals.tiff": lambda: _tiff_of_size(64, 64, (282, 5, 2**28, 8)),
    "circle.tiff": lambda: _tiff_of_size(64, 64, (330, 4, 1, 8)),
    "exif-circle.tiff": lambda: _tiff_of_size(64, 64, (34665, 4, 1, 8)),
}


# --- what is no image


def _make_strangers() -> Iterator[tuple[str, Make]]:
    rng = seeded("strangers")
    signatures = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
    brands = (b"RIFF\xff\xff\xff\x7fWEBPVP8L", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1")
    files = {
        "noise.jpg": rng.randbytes(5000),
        "one-byte.jpg": b"\xff",
        "program.jpg": b"\x7fELF\x02\x01\x01" + bytes(500),
        "script.png": b"#!/bin/sh\nexit 1\n",
        "archive.jpg": b"PK\x03\x04" + rng.randbytes(500),
        "gzipped.png": b"\x1f\x8b\x08" + rng.randbytes(500),
        "video.mp4": b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(500),
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "pickle.jpg": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93.",
        "json.png": b'{"error": "not found"}',
    }
    for number, start in enumerate((*signatures, *brands)):
        files[f"noise-after-signature-{number}.jpg"] = start + rng.randbytes(3000)
        files[f"zeros-after-signature-{number}.jpg"] = start + bytes(3000)
    for name, content in files.items():
        yield name, partial(bytes, content)
