"""What the bytes say they are, before any decoder sees them.

Knows signatures and lengths of file formats, no pixels. Sources: the PNG, GIF89a and TIFF 6.0
specifications, RFC 9649 (WebP), ISO/IEC 14496-12 (the boxes of AVIF), Microsoft's BITMAPFILEHEADER.
"""

from __future__ import annotations

import struct
from typing import Literal

ImageFormat = Literal["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"]

_SIGNATURES: tuple[tuple[bytes, ImageFormat], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})

# What is often found where a photo should be, for the detail of a failure.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"%pdf-", "a PDF"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML"),
    (b"{", "JSON or text"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzipped"),
    (b"8bps", "a Photoshop file"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjxl ", "JPEG XL"),
    (b"\0\0\0\x0cjp  ", "JPEG 2000"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)


def sniff(content: bytes) -> ImageFormat | None:
    """The image format the first bytes announce.

    Args:
        content: The file.

    Returns:
        One of the formats that can be decoded, or None.
    """
    for signature, name in _SIGNATURES:
        if content.startswith(signature):
            return name
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WEBP"
    if _AVIF_BRANDS & _brands(content):
        return "AVIF"
    return None


def describe(content: bytes) -> str:
    """A guess at what the bytes are that are no image, for people.

    Args:
        content: The file.

    Returns:
        A few words.
    """
    start = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for signature, name in _STRANGERS:
        if start.startswith(signature):
            return name
    brands = _brands(content)
    if brands:
        heif = any(brand.startswith((b"hei", b"hev", b"mif", b"msf")) for brand in brands)
        return "HEIF (HEIC), which is not supported" if heif else "a video or another MP4 file"
    if not content.strip(b"\0"):
        return "nothing but zeros"
    return "of an unknown format"


def is_cut_off(content: bytes, name: ImageFormat) -> bool:
    """Whether the file ends before its own structure says it does.

    Decoders tell a cut file from a damaged one only now and then.

    Args:
        content: The file.
        name: Its format.

    Returns:
        True where bytes are missing at the end.
    """
    try:
        match name:
            case "JPEG":
                return b"\xff\xd9" not in content
            case "GIF":
                return not content.rstrip(b"\0").endswith(b";")
            case "BMP":
                return _u32(content, 2, "<") > len(content)
            case "WEBP":
                return _u32(content, 4, "<") + 8 > len(content)
            case "PNG":
                return _end_of_png(content) > len(content)
            case "TIFF":
                return _end_of_tiff_tags(content) > len(content)
            case "AVIF":
                return _end_of_boxes(content) > len(content)
    except (struct.error, OverflowError):
        # The number that was to be read lies beyond the end.
        return True


def _brands(content: bytes) -> frozenset[bytes]:
    """Major and compatible brands of an ISO base media file."""
    if content[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(content[:4], "big"), len(content), 1024)
    # Four bytes between the major and the compatible brands are a version number.
    return frozenset(content[i : i + 4] for i in (8, *range(16, end - 3, 4)))


def _u32(content: bytes, offset: int, order: str) -> int:
    value: int = struct.unpack_from(order + "I", content, offset)[0]
    return value


def _end_of_png(content: bytes) -> int:
    offset = 8
    while offset < len(content):
        offset_of_next = offset + 12 + _u32(content, offset, ">")
        if content[offset + 4 : offset + 8] == b"IEND":
            return offset_of_next
        offset = offset_of_next
    return offset + 12


def _end_of_tiff_tags(content: bytes) -> int:
    order = "<" if content[:2] == b"II" else ">"
    if content[2:4] in (b"+\0", b"\0+"):
        first: int = struct.unpack_from(order + "Q", content, 8)[0]
        count: int = struct.unpack_from(order + "Q", content, first)[0]
        return first + 8 + 20 * count
    first = _u32(content, 4, order)
    return first + 2 + 12 * int(struct.unpack_from(order + "H", content, first)[0])


def _end_of_boxes(content: bytes) -> int:
    offset = 0
    while 0 <= offset < len(content):
        size = _u32(content, offset, ">")
        if size == 1:
            size = int(struct.unpack_from(">Q", content, offset + 8)[0])
        if size < 8:  # noqa: PLR2004 - 0: up to the end of the file; else no box at all
            return len(content)
        offset += size
    return offset
