"""Preprocessing against open_clip's own evaluation transform, bit for bit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from pipeline.errors import ConfigurationError
from pipeline.images import preprocess
from pipeline.images.preprocess import Preprocessing, make_pixels

SIZES = [
    (1, 1),
    (1, 57),
    (300, 1),
    (2, 3),
    (31, 33),
    (64, 64),
    (64, 65),
    (65, 64),
    (63, 200),
    (127, 63),
    (97, 1003),
    (1003, 97),
    (640, 480),
    (333, 500),
    (511, 512),
]


def make_photo(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Noise over smooth colours: every rounding of the filters shows."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    ramp = np.linspace(0, 255, height)[:, None, None] + np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray(((noise + ramp) / 3).astype(np.uint8))


def make_reference(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray[Any, Any]:
    """open_clip's normalised input, float32 [3, H, W]."""
    transform = image_transform_v2(PreprocessCfg(**asdict(preprocessing)), is_train=False)
    normalised: np.ndarray[Any, Any] = transform(image).numpy()
    return normalised


def normalise(pixels: np.ndarray[Any, Any], preprocessing: Preprocessing) -> np.ndarray[Any, Any]:
    scaled = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    mean = torch.tensor(preprocessing.mean)[:, None, None]
    std = torch.tensor(preprocessing.std)[:, None, None]
    result: np.ndarray[Any, Any] = ((scaled - mean) / std).numpy()
    return result


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [64, 33, (64, 64), (40, 72), (72, 40)])
def test_equals_open_clip_on_odd_sizes(
    interpolation: Any, resize_mode: Any, size: int | tuple[int, int]
) -> None:
    preprocessing = Preprocessing(
        size=size,
        interpolation=interpolation,
        resize_mode=resize_mode,
        fill_color=90,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )
    compared = 0
    for image_size in SIZES:
        image = make_photo(image_size)
        try:
            reference = make_reference(image, preprocessing)
        except ValueError:
            # open_clip rounds the short side of such an image to nothing, and fails.
            assert resize_mode == "longest"
            assert max(image_size) > 50 * min(image_size)
            assert make_pixels(image, preprocessing).max() > 0
            continue
        pixels = make_pixels(image, preprocessing)
        assert pixels.dtype == np.uint8
        np.testing.assert_allclose(normalise(pixels, preprocessing), reference, atol=1e-6, rtol=0)
        compared += 1
    assert compared >= len(SIZES) - 4


def test_equals_open_clip_at_its_own_defaults() -> None:
    preprocessing = Preprocessing()
    assert preprocessing == Preprocessing.from_open_clip(asdict(PreprocessCfg()))
    for image_size in ((400, 533), (224, 224), (223, 225), (1024, 768)):
        image = make_photo(image_size)
        pixels = make_pixels(image, preprocessing)
        assert pixels.shape == (224, 224, 3)
        np.testing.assert_allclose(
            normalise(pixels, preprocessing), make_reference(image, preprocessing), atol=1e-6
        )


def test_grey_images_are_converted_as_open_clip_does() -> None:
    image = make_photo((90, 130)).convert("L")
    preprocessing = Preprocessing(size=48)
    np.testing.assert_allclose(
        normalise(make_pixels(image, preprocessing), preprocessing),
        make_reference(image, preprocessing),
        atol=1e-6,
    )


def test_pixels_are_writable_contiguous_and_leave_the_image_alone() -> None:
    image = make_photo((64, 64))
    before = image.tobytes()
    for resize_mode in ("shortest", "longest", "squash"):
        pixels = make_pixels(image, Preprocessing(size=64, resize_mode=resize_mode))  # type: ignore[arg-type]
        assert pixels.flags.c_contiguous
        pixels[:] = 0
    assert image.tobytes() == before


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "image_size", [(900, 3), (3, 900), (901, 7), (1, 500), (1000, 64), (64, 999), (1003, 200)]
)
def test_thin_images_are_resized_in_part_with_at_most_one_level_of_difference(
    monkeypatch: pytest.MonkeyPatch, image_size: tuple[int, int], interpolation: Any
) -> None:
    image = make_photo(image_size)
    preprocessing = Preprocessing(size=64, interpolation=interpolation)
    reference = make_pixels(image, preprocessing).astype(int)
    monkeypatch.setattr(preprocess, "MAX_INTERMEDIATE_PIXELS", 1)
    difference = np.abs(make_pixels(image, preprocessing).astype(int) - reference)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("image_size", [(2_000_000, 1), (1, 2_000_000)])
def test_no_image_is_so_thin_that_it_eats_memory(
    monkeypatch: pytest.MonkeyPatch, image_size: tuple[int, int]
) -> None:
    """In full, the first of them would be resized to 448,000,000 x 224 pixels."""
    resized: list[int] = []
    resize = Image.Image.resize

    def watch(image: Image.Image, size: tuple[int, int], *args: Any, **kwargs: Any) -> Image.Image:
        # Between its two passes Pillow holds an image of the new width and the old height.
        resized.append(size[0] * max(size[1], image.height if "box" not in kwargs else 0))
        assert resized[-1] <= preprocess.MAX_INTERMEDIATE_PIXELS
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watch)
    image = Image.new("RGB", image_size, (10, 20, 30))
    for resize_mode in ("shortest", "longest", "squash"):
        for size in (224, (200, 224)):
            pixels = make_pixels(image, Preprocessing(size=size, resize_mode=resize_mode))  # type: ignore[arg-type]
            assert (pixels == (10, 20, 30)).all(axis=-1).any()
    assert len(resized) >= 6


def test_the_dictionary_is_json_and_makes_the_same_preprocessing_again() -> None:
    for preprocessing in (
        Preprocessing(),
        Preprocessing(size=(32, 48), resize_mode="longest", interpolation="bilinear", fill_color=9),
    ):
        stored = json.loads(json.dumps(preprocessing.to_dict()))
        assert Preprocessing.from_open_clip(stored) == preprocessing
        assert make_reference(make_photo((9, 9)), Preprocessing.from_open_clip(stored)).size


def test_open_clips_shorthands_are_understood() -> None:
    preprocessing = Preprocessing.from_open_clip(
        {"size": [224, 224], "mean": 0.5, "std": None, "interpolation": "random", "crop_pct": 0.9}
    )
    assert preprocessing == Preprocessing(mean=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": (0, 3)},
        {"mode": "L"},
        {"mean": (0.5,)},
        {"std": (0.5, 0.0, 0.5)},
        {"interpolation": "nearest"},
        {"resize_mode": "crop"},
        {"fill_color": 256},
    ],
)
def test_what_open_clip_would_not_take_is_a_configuration_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        replace(Preprocessing(), **wrong)
