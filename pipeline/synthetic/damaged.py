"""Damaged inputs, the same on every call, each with the reason its failure must have."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.images.reasons import Reason
from pipeline.synthetic.colours import seeded
from pipeline.synthetic.scenes import draw_scene

_SIDE = 240


@dataclass(frozen=True)
class DamagedInput:
    """One input that must end as a failure.

    Attributes:
        name: What is wrong with it, unique in the set.
        uri: Where it is said to be; None or not a path where that is the damage.
        expected_reason: The reason its failure must have, under the default limits.
    """

    name: str
    uri: str | None
    expected_reason: Reason

    @property
    def path(self) -> Path | None:
        """The file, where there is one."""
        return Path(self.uri) if self.uri and self.uri.startswith("/") else None


def write_damaged(folder: Path) -> list[DamagedInput]:
    """Writes the damaged files and returns the whole set, in a fixed order.

    Args:
        folder: Made where it is missing. Its path must be absolute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    damaged = []
    for file_name, (reason, make) in _FILES.items():
        path = folder / file_name
        path.write_bytes(make())
        damaged.append(DamagedInput(path.stem, str(path), reason))
    missing = folder / "missing-file.jpg"
    missing.unlink(missing_ok=True)
    damaged.append(DamagedInput(missing.stem, str(missing), Reason.NOT_FOUND))
    damaged.append(DamagedInput("no-uri", None, Reason.NO_SOURCE))
    damaged.append(
        DamagedInput("unknown-scheme", "gopher://example.invalid/a.jpg", Reason.URI_INVALID)
    )
    damaged.append(
        DamagedInput("host-not-allowed", "https://example.invalid/a.jpg", Reason.URI_NOT_ALLOWED)
    )
    return damaged


def _encode(image_format: str, **options: object) -> bytes:
    image = draw_scene(seeded("damaged"), width=_SIDE, height=_SIDE).image
    content = io.BytesIO()
    image.save(content, image_format, **options)
    return content.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG, with its length and checksum."""
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png_of_size(width: int, height: int, data: bytes) -> bytes:
    """Returns a greyscale PNG whose header claims a size, whatever its data hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(data))
        + png_chunk(b"IEND", b"")
    )


def _truncated(image_format: str, share: float, **options: object) -> bytes:
    content = _encode(image_format, **options)
    return content[: int(len(content) * share)]


def _png_with_broken_chunk() -> bytes:
    content = bytearray(_encode("PNG"))
    place = content.index(b"IDAT") + 4
    for offset in range(200, 400):
        content[place + offset] ^= 0xA5
    return bytes(content)


def _bmp_with_lying_header() -> bytes:
    content = bytearray(_encode("BMP"))
    struct.pack_into("<ii", content, 18, 4000, 4000)  # width and height of the info header
    return bytes(content)


def jpeg_header_of_size(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims a size, whatever its data hold."""
    content = bytearray(_encode("JPEG"))
    place = content.index(b"\xff\xc0") + 5  # the frame header's height and width
    struct.pack_into(">HH", content, place, height, width)
    return bytes(content)


_HTML = b"""<!DOCTYPE html>
<html><head><title>404</title></head><body>The image you asked for has moved.</body></html>
"""
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'

# File name -> the reason, and what makes the bytes. Endings lie on purpose where servers do.
_FILES: dict[str, tuple[Reason, Callable[[], bytes]]] = {
    "empty-file.jpg": (Reason.EMPTY, lambda: b""),
    "html-page.jpg": (Reason.NOT_AN_IMAGE, lambda: _HTML),
    "plain-text.png": (Reason.NOT_AN_IMAGE, lambda: b"no picture here\n" * 40),
    "zero-bytes.jpg": (Reason.NOT_AN_IMAGE, lambda: bytes(4096)),
    "svg-drawing.svg": (Reason.NOT_AN_IMAGE, lambda: _SVG),
    "pdf-document.pdf": (Reason.NOT_AN_IMAGE, lambda: b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n" * 20),
    "icon-format.ico": (Reason.NOT_AN_IMAGE, lambda: _encode("ICO")),
    "magic-number-only.png": (Reason.TRUNCATED, lambda: b"\x89PNG\r\n\x1a\n"),
    "truncated-jpeg.jpg": (Reason.TRUNCATED, lambda: _truncated("JPEG", 0.4, quality=90)),
    "truncated-png.png": (Reason.TRUNCATED, lambda: _truncated("PNG", 0.5)),
    "lying-header.bmp": (Reason.TRUNCATED, _bmp_with_lying_header),
    "too-little-data.png": (Reason.TRUNCATED, lambda: png_of_size(400, 400, bytes(4000))),
    "broken-chunk.png": (Reason.CORRUPT, _png_with_broken_chunk),
    "truncated-webp.webp": (Reason.TRUNCATED, lambda: _truncated("WEBP", 0.5, quality=80)),
    "bomb-by-header.png": (
        Reason.TOO_MANY_PIXELS,
        lambda: png_of_size(30_000, 30_000, bytes(30_001)),
    ),
    "bomb-by-header-jpeg.jpg": (
        Reason.TOO_MANY_PIXELS,
        lambda: jpeg_header_of_size(65_000, 65_000),
    ),
}
