"""Decoding: every kind of photo as a viewer shows it, every damage a reason, nothing raised."""

from __future__ import annotations

import io
import itertools
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from pipeline.images.decode import DecodedImage, decode
from pipeline.images.reasons import Failure, Reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def decoded(content: bytes, **options: Any) -> DecodedImage:
    outcome = decode(content, **{"max_pixels": 10_000_000, **options})
    assert isinstance(outcome, DecodedImage), outcome
    assert outcome.image.mode == "RGB"
    return outcome


def failed(content: bytes, max_pixels: int = 10_000_000) -> Failure:
    outcome = decode(content, max_pixels=max_pixels)
    assert isinstance(outcome, Failure)
    return outcome


def pixels(content: bytes, **options: Any) -> np.ndarray[Any, Any]:
    return np.asarray(decoded(content, **options).image).astype(int)


def make_quarters(width: int = 48, height: int = 32) -> Image.Image:
    """Four colours, no two the same way up; large areas, so that lossy formats keep them."""
    image = Image.new("RGB", (width, height))
    boxes = [(0, 0), (width // 2, 0), (0, height // 2), (width // 2, height // 2)]
    for box, colour in zip(
        boxes, [(200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 40)], strict=True
    ):
        image.paste(colour, (*box, box[0] + width // 2, box[1] + height // 2))
    return image


def make_photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
    small = Image.fromarray(noise.astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def make_png(
    size: tuple[int, int], depth: int, colour_type: int, data: bytes, **chunks: bytes
) -> bytes:
    """A PNG of kinds Pillow does not write. ``data``: packed rows, without filter bytes."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    row = -(-size[0] * channels * depth // 8)
    rows = b"".join(b"\0" + data[i * row : (i + 1) * row] for i in range(size[1]))
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, body in {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}.items():
        tagged = name.encode() + body
        out += struct.pack(">I", len(body)) + tagged + struct.pack(">I", zlib.crc32(tagged))
    return out


def make_tiff(size: tuple[int, int], bits: int, data: bytes, **tags: int) -> bytes:
    """A little-endian TIFF of one grey channel in one strip."""
    numbers = {"photometric": 262, "sample_format": 339, "orientation": 274}
    entries = {256: size[0], 257: size[1], 258: bits, 259: 1, 262: 1, 273: 8, 277: 1}
    entries |= {278: size[1], 279: len(data)} | {numbers[name]: tags[name] for name in tags}
    directory = b"".join(
        struct.pack("<HHII", number, 4, 1, value) for number, value in sorted(entries.items())
    )
    padded = data + b"\0" * (len(data) % 2)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(padded))
    return start + padded + struct.pack("<H", len(entries)) + directory + bytes(4)


# --- what photo people expect


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_shows_its_pixels(name: str) -> None:
    image = make_quarters()
    result = decoded(encode(image, name))
    assert (result.width, result.height) == image.size == result.image.size
    difference = np.abs(np.asarray(result.image).astype(int) - np.asarray(image))
    assert np.median(difference) <= 4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": 0}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"compression": "jpeg"}),
        ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"lossless": True}),
        ("PNG", {"interlace": True}),
    ],
)
def test_every_compression_shows_its_pixels(name: str, options: dict[str, Any]) -> None:
    image = make_quarters()
    difference = np.abs(pixels(encode(image, name, **options)) - np.asarray(image))
    assert np.median(difference) <= 4


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(name: str, orientation: int) -> None:
    upright = np.asarray(make_quarters())
    # What a camera held that way stores (EXIF 2.3, tag 274), written out without Pillow.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(np.ascontiguousarray(stored)), name, exif=exif, quality=95)
    result = decoded(content)
    assert (result.width, result.height) == result.image.size == (48, 32)
    assert np.median(np.abs(np.asarray(result.image).astype(int) - upright)) <= 4


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_of_several_pictures_the_first_is_shown(name: str) -> None:
    first, second = make_quarters(), Image.new("RGB", (48, 32), (0, 0, 255))
    content = encode(first, name, save_all=True, append_images=[second, second])
    assert np.median(np.abs(pixels(content) - np.asarray(first))) <= 4


def test_a_damaged_index_of_further_pictures_costs_only_them() -> None:
    content = encode(make_quarters(), "MPO", save_all=True, append_images=[make_quarters()])
    at = content.index(b"MPF\0") + 4
    for damage in (b"\xff" * 60, b"II*\0\xff\xff\xff\xff", bytes(60)):
        assert decoded(content[:at] + damage + content[at + len(damage) :]).width == 48


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (100, 128), (177, 177, 177)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("1", 0, (0, 0, 0)),
    ],
)
def test_transparency_lies_over_white(mode: str, colour: Any, shown: tuple[int, ...]) -> None:
    image = Image.new(mode, (20, 10), colour)
    for name in ("PNG", "TIFF") if mode != "RGBA" else ("PNG", "TIFF", "WEBP", "AVIF"):
        options = {"lossless": True} if name == "WEBP" else {}
        if name == "AVIF":
            options = {"quality": 100}
        assert np.abs(pixels(encode(image, name, **options)) - shown).max() <= 2, name


@pytest.mark.parametrize("name", ["PNG", "GIF"])
def test_transparent_palette_entries_are_white(name: str) -> None:
    image = Image.new("P", (20, 10))
    image.putpalette([10, 20, 30, 250, 0, 0])
    image.paste(1, (10, 0, 20, 10))
    shown = pixels(encode(image, name, transparency=0))
    assert shown[5, 2].tolist() == [255, 255, 255]
    assert shown[5, 15].tolist() == [250, 0, 0]
    if name == "PNG":
        half = pixels(encode(image, name, transparency=b"\xff\x00"))
        assert half[5, 2].tolist() == [10, 20, 30]
        assert half[5, 15].tolist() == [255, 255, 255]


def test_a_transparent_colour_counts_in_the_bits_of_the_file() -> None:
    grey_16 = struct.pack(">4H", 0, 257, 514, 65535)
    assert pixels(make_png((4, 1), 16, 0, grey_16, tRNS=b"\x01\x01"))[0, :, 0].tolist() == [
        0,
        255,
        2,
        255,
    ]
    grey_4 = bytes([0x0A, 0xF5])
    shown = pixels(make_png((4, 1), 4, 0, grey_4, tRNS=b"\x00\x0a"))
    assert shown[0, :, 0].tolist() == [0, 255, 255, 85]
    colour_16 = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0, 0)
    shown = pixels(make_png((2, 1), 16, 2, colour_16, tRNS=colour_16[:6]))
    assert shown[0].tolist() == [[255, 255, 255], [0, 0, 0]]


def test_sixteen_bit_is_scaled_to_eight() -> None:
    values = np.array([0, 128, 257, 1000, 32767, 65535], dtype=np.uint16)
    expected = np.round(values / 257).astype(int).tolist()
    big = values.astype(">u2").tobytes()
    little = values.astype("<u2").tobytes()
    contents = {
        "PNG": make_png((6, 1), 16, 0, big),
        "TIFF little": make_tiff((6, 1), 16, little),
        "TIFF big": encode(Image.frombytes("I;16B", (6, 1), big), "TIFF"),
        "TIFF lzw": encode(Image.frombytes("I;16", (6, 1), little), "TIFF", compression="tiff_lzw"),
    }
    for name, content in contents.items():
        assert pixels(content)[0, :, 0].tolist() == expected, name
    white_is_zero = make_tiff((6, 1), 16, little, photometric=0)
    assert pixels(white_is_zero)[0, :, 0].tolist() == [255 - value for value in expected]
    colour = make_png((2, 1), 16, 2, struct.pack(">6H", 0, 32768, 65535, 257, 514, 771))
    assert np.abs(pixels(colour)[0] - [[0, 128, 255], [1, 2, 3]]).max() <= 1
    with_alpha = make_png((2, 1), 16, 4, struct.pack(">4H", 0, 0, 32768, 65535))
    assert np.abs(pixels(with_alpha)[0, :, 0] - [255, 128]).max() <= 1


def test_twelve_and_thirty_two_bits_and_floats_are_scaled() -> None:
    twelve = make_tiff((2, 1), 12, bytes([0xFF, 0xF8, 0x00]))  # 4095, 2048
    assert pixels(twelve)[0, :, 0].tolist() == [255, 128]
    whole = np.array([0, 1 << 31, (1 << 32) - 1], dtype="<u4").tobytes()
    assert pixels(make_tiff((3, 1), 32, whole, sample_format=1))[0, :, 0].tolist() == [0, 128, 255]
    signed = np.array([-100, -1, 100], dtype="<i2").tobytes()
    assert pixels(make_tiff((3, 1), 16, signed, sample_format=2))[0, :, 0].tolist() == [0, 126, 255]
    unit = np.array([0.0, 0.5, 0.25], dtype="<f4").tobytes()
    assert pixels(make_tiff((3, 1), 32, unit, sample_format=3))[0, :, 0].tolist() == [0, 128, 64]
    wide = np.array([-10.0, np.nan, 30.0], dtype="<f4").tobytes()
    assert pixels(make_tiff((3, 1), 32, wide, sample_format=3))[0, :, 0].tolist() == [0, 64, 255]


def test_an_unused_alpha_channel_of_a_bmp_is_ignored() -> None:
    image = make_quarters()
    opaque = Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 0)))
    header = struct.pack("<IiiHHIIiiII", 108, 48, -32, 1, 32, 3, 0, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    body = header + masks + bytes(108 - 40 - 16) + opaque.tobytes("raw", "BGRA")
    content = b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + 108) + body
    assert (pixels(content) == np.asarray(image)).all()


# --- colour


def make_swapped_profile() -> bytes:
    """sRGB with the red and the green primary exchanged: what is stored as red is green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def make_cmyk_profile() -> bytes:
    """A press whose cyan ink is red (ICC.1, lut8Type): what shows that the profile was used."""
    fixed = lambda value: struct.pack(">i", round(value * 65536))  # noqa: E731
    identity = bytes(range(256))
    lab_white, lab_red, lab_black = (255, 128, 128), (136, 208, 195), (0, 128, 128)
    grid = b""
    for cyan, magenta, yellow, key in itertools.product((0, 1), repeat=4):
        only_cyan = cyan and not (magenta or yellow or key)
        no_ink = not (cyan or magenta or yellow or key)
        grid += bytes(lab_white if no_ink else lab_red if only_cyan else lab_black)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    table += b"".join(fixed(value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    table += identity * 4 + grid + identity * 3
    white = b"XYZ " + bytes(4) + fixed(0.9642) + fixed(1) + fixed(0.8249)
    start = 128 + 4 + 2 * 12
    tags = struct.pack(">I4sII", 2, b"A2B0", start, len(table))
    tags += struct.pack(">4sII", b"wtpt", start + len(table), len(white))
    size = struct.pack(">I", start + len(table) + len(white))
    header = size + bytes(4) + b"\x02\x40\0\0" + b"prtr" + b"CMYK" + b"Lab " + bytes(12) + b"acsp"
    header += bytes(28) + fixed(0.9642) + fixed(1) + fixed(0.8249)
    return header + bytes(128 - len(header)) + tags + table + white


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_an_embedded_profile_is_applied(name: str) -> None:
    image = Image.new("RGB", (32, 16), (250, 20, 20))
    options = {"lossless": True} if name == "WEBP" else {"quality": 100}
    content = encode(image, name, icc_profile=make_swapped_profile(), **options)
    assert np.abs(pixels(content) - (20, 250, 20)).max() <= 6


def test_a_profile_is_applied_below_transparency_and_palettes() -> None:
    profile = make_swapped_profile()
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    assert np.abs(pixels(encode(half, "PNG", icc_profile=profile)) - (127, 255, 127)).max() <= 2
    palette = Image.new("RGB", (8, 8), (255, 0, 0)).quantize(4)
    assert np.abs(pixels(encode(palette, "PNG", icc_profile=profile)) - (0, 255, 0)).max() <= 2


def test_an_srgb_profile_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = make_photo(64, 48)
    assert (pixels(encode(image, "PNG", icc_profile=profile)) == np.asarray(image)).all()


def test_grey_takes_the_profile_of_its_coloured_neighbours() -> None:
    grey = Image.new("L", (16, 16), 120)
    content = encode(grey, "JPEG", icc_profile=make_swapped_profile(), quality=100)
    assert np.abs(pixels(content) - 120).max() <= 2


@pytest.mark.parametrize(
    "profile",
    [
        b"not a profile",
        make_swapped_profile()[:200],
        make_swapped_profile()[:128] + bytes(460),
        make_cmyk_profile(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes(),
    ],
    ids=["text", "cut off", "no tags", "of another colour space", "of no device"],
)
def test_a_profile_that_cannot_be_used_is_ignored(profile: bytes) -> None:
    image = make_quarters()
    assert (pixels(encode(image, "PNG", icc_profile=profile)) == np.asarray(image)).all()


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(name: str) -> None:
    """Pillow writes CMYK JPEGs as Adobe does: inverted, and marked so."""
    image = Image.new("CMYK", (32, 16))
    image.paste((0, 255, 255, 0), (16, 0, 32, 16))
    content = encode(image, name)
    assert name != "JPEG" or b"Adobe" in content
    shown = pixels(content)
    assert np.abs(shown[:, :12] - 255).max() <= 4
    assert np.abs(shown[:, 20:] - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_own_profile(name: str) -> None:
    image = Image.new("CMYK", (32, 16))
    image.paste((255, 0, 0, 0), (16, 0, 32, 16))
    shown = pixels(encode(image, name, icc_profile=make_cmyk_profile()))
    assert np.abs(shown[:, :12] - 255).max() <= 4
    assert np.abs(shown[:, 20:] - (255, 0, 0)).max() <= 12


def test_lab_becomes_rgb() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    stored = ImageCms.applyTransform(make_quarters(), transform)
    assert stored is not None
    # 8 bit of Lab are coarser than 8 bit of sRGB, most of all where a channel is near zero.
    difference = np.abs(pixels(encode(stored, "TIFF")) - np.asarray(make_quarters()))
    assert difference.max() <= 16
    assert difference.mean() <= 3


def test_threads_share_colour_transforms_without_mixing_colours() -> None:
    profile = make_swapped_profile()
    contents = [
        encode(Image.new("RGB", (40, 40), (i * 16, 255 - i * 16, i)), "PNG", icc_profile=profile)
        for i in range(16)
    ]
    expected = [pixels(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(pixels, contents * 8), expected * 8, strict=True):
            assert (got == want).all()


# --- scaled decoding


@pytest.mark.parametrize(
    ("size", "cover", "scaled"),
    [
        ((640, 480), None, (640, 480)),
        ((640, 480), 300, (640, 480)),
        ((640, 480), 240, (320, 240)),
        ((641, 481), 240, (321, 241)),
        ((640, 480), 120, (160, 120)),
        ((480, 640), 60, (60, 80)),
        ((640, 480), 3, (80, 60)),
        ((640, 60), 32, (640, 60)),
        ((640, 480), 10_000, (640, 480)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers(
    size: tuple[int, int], cover: int | None, scaled: tuple[int, int]
) -> None:
    for image in (make_photo(*size), make_photo(*size).convert("CMYK")):
        result = decoded(encode(image, "JPEG"), cover=cover)
        assert result.image.size == scaled
        assert (result.width, result.height) == size


def test_a_scaled_decode_looks_like_a_full_one_and_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(make_photo(512, 384), "JPEG", exif=exif, quality=95)
    full, scaled = decoded(content), decoded(content, cover=96)
    assert (scaled.width, scaled.height) == (full.width, full.height) == (384, 512)
    assert scaled.image.size == (96, 128)
    reference = full.image.resize((96, 128), Image.Resampling.BOX)
    difference = np.asarray(scaled.image).astype(int) - np.asarray(reference)
    assert np.abs(difference).mean() < 2


def test_only_jpegs_are_scaled() -> None:
    for name in FORMATS[1:]:
        assert decoded(encode(make_quarters(), name), cover=8).image.size == (48, 32)


# --- limits


@pytest.mark.parametrize("name", FORMATS)
def test_too_many_pixels_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content = encode(make_quarters(), name)
    assert decoded(content, max_pixels=48 * 32).width == 48

    def load(_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    failure = failed(content, max_pixels=48 * 32 - 1)
    assert failure.reason is Reason.TOO_MANY_PIXELS
    assert "48 x 32" in failure.detail


def test_a_header_that_announces_gigapixels_costs_nothing() -> None:
    huge = make_png((100_000, 100_000), 8, 2, b"")
    assert failed(huge).reason is Reason.TOO_MANY_PIXELS
    assert failed(make_tiff((60_000, 60_000), 8, b"")).reason is Reason.TOO_MANY_PIXELS


def test_pillows_own_limit_neither_warns_nor_refuses_what_ours_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in FORMATS:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert decoded(encode(make_quarters(), name), max_pixels=2000).width == 48


def test_threads_with_different_limits_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    content = encode(make_quarters(), "GIF")
    limits = [48 * 32 - 1, 48 * 32, 10_000] * 100
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda limit: decode(content, max_pixels=limit), limits))
    allowed = [isinstance(outcome, DecodedImage) for outcome in outcomes]
    assert allowed == [limit >= 48 * 32 for limit in limits]


def test_lack_of_memory_is_a_failure_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    failure = failed(encode(make_quarters(), "JPEG"))
    assert failure.reason is Reason.OUT_OF_MEMORY
    assert failure.retriable


def test_an_interrupt_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(KeyboardInterrupt):
        decode(encode(make_quarters(), "JPEG"), max_pixels=10_000)


# --- damage


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_truncated(name: str, share: float) -> None:
    content = encode(make_photo(160, 120), name)
    failure = failed(content[: int(len(content) * share)])
    assert failure.reason is Reason.TRUNCATED
    assert failure.detail.startswith(name)


@pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {"compression": "jpeg"}])
def test_a_tiff_without_its_directory_is_truncated(options: dict[str, Any]) -> None:
    content = encode(make_photo(160, 120), "TIFF", **options)
    assert failed(content[: len(content) // 2]).reason is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda content: content[:3] + b"\xff\xff" * 20 + content[-2:], "JPEG"),
        (lambda content: content.replace(b"IHDR", b"IHDX"), "PNG"),
        (lambda content: content[:60] + bytes(len(content) - 72) + content[-12:], "PNG"),
        (lambda content: content[:12] + b"VP9 " + content[16:], "WEBP"),
        (lambda content: content[:14] + b"\x99" + content[15:], "BMP"),
        (lambda content: content[:40] + bytes(len(content) - 40), "AVIF"),
    ],
)
def test_a_damaged_file_is_corrupt(damage: Callable[[bytes], bytes], name: str) -> None:
    failure = failed(damage(encode(make_quarters(), name)))
    assert failure.reason is Reason.CORRUPT
    assert not failure.retriable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>not found</html>", "HTML"),
        (b"\xef\xbb\xbf  <HTML>", "HTML"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "video"),
        (b"version https://git-lfs.github.com/spec/v1", "LFS"),
        (bytes(1000), "zeros"),
        (b"\x01\x02\x03", "unknown"),
        (b"RIFF\0\0\0\0WAVE", "unknown"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(content: bytes, words: str) -> None:
    failure = failed(content)
    assert failure.reason is Reason.NOT_AN_IMAGE
    assert words in failure.detail


def test_no_bytes_are_empty() -> None:
    assert failed(b"").reason is Reason.EMPTY


def test_broken_exif_costs_the_orientation_not_the_image() -> None:
    good = Image.Exif()
    good[0x0112] = 6
    body = good.tobytes()
    for exif in (body[:20], body[:8] + b"\xff" * 40, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        for name in ("JPEG", "WEBP", "PNG"):
            assert decoded(encode(make_quarters(), name, exif=exif)).width == 48


def test_large_texts_beside_the_pixels_do_not_matter() -> None:
    text = b"history\0\0" + zlib.compress(b"edit " * 1_000_000)
    assert decoded(make_png((2, 2), 8, 0, bytes(4), zTXt=text)).width == 2


def test_warnings_never_escape_even_from_threads_and_as_errors() -> None:
    odd = encode(make_quarters(), "TIFF", tiffinfo={305: "x" * 40})
    odd = odd.replace(struct.pack("<HH", 305, 2), struct.pack("<HH", 305, 5))
    assert decoded(odd).width == 48
    outcomes: list[DecodedImage | Failure] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        thread = threading.Thread(target=lambda: outcomes.append(decode(odd, max_pixels=10_000)))
        thread.start()
        thread.join()
    assert isinstance(outcomes[0], DecodedImage)
    assert not caught


VALID = [
    encode(make_photo(40, 30), name, **options)
    for name, options in [
        *((name, {}) for name in FORMATS),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {"icc_profile": make_swapped_profile(), "progressive": True}),
    ]
]
STARTS = [content[:size] for content in VALID for size in (4, 16, 40)]


@settings(max_examples=150)
@given(st.sampled_from(STARTS), st.binary(max_size=200))
def test_no_bytes_whatever_raise(start: bytes, rest: bytes) -> None:
    outcome = decode(start + rest, max_pixels=10_000)
    assert isinstance(outcome, Failure | DecodedImage)


@settings(max_examples=300)
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 400),
)
def test_no_damage_whatever_raises(valid: bytes, flips: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(valid)
    for at, value in flips:
        content[at % len(content)] = value
    outcome = decode(bytes(content[: max(1, len(content) - cut)]), max_pixels=10_000, cover=8)
    if isinstance(outcome, DecodedImage):
        assert outcome.width * outcome.height <= 10_000
        np.asarray(outcome.image)
    else:
        assert outcome.reason in {
            Reason.TRUNCATED,
            Reason.CORRUPT,
            Reason.NOT_AN_IMAGE,
            Reason.TOO_MANY_PIXELS,
            Reason.OUT_OF_MEMORY,
        }
        assert " at 0x" not in outcome.detail
