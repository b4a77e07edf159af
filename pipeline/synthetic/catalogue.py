"""A whole catalogue on disk: pictures, a labelled manifest, the manifests of three nights.

Everything follows from the specification: the same one gives the same bytes, however many
processes draw. Knows neither Spark nor torch.
"""

from __future__ import annotations

import functools
import multiprocessing
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import yaml
from PIL import Image

from pipeline.synthetic import manifests
from pipeline.synthetic.colours import chance, seeded
from pipeline.synthetic.damaged import write_damaged
from pipeline.synthetic.scenes import draw_scene
from pipeline.synthetic.specification import Catalogue, CatalogueSpec, Picture
from pipeline.synthetic.titles import make_caption
from pipeline.synthetic.vocabulary import make_taxonomy

# Width and height, and how often. The largest are rare: they take longest to draw.
_SIZES: dict[tuple[int, int], float] = {
    (640, 480): 0.44,
    (800, 600): 0.18,
    (720, 480): 0.08,
    (640, 640): 0.06,
    (1024, 768): 0.08,
    (480, 640): 0.08,
    (600, 800): 0.06,
    (1280, 720): 0.01,
    (1600, 1200): 0.01,
}
_FORMATS: dict[str, float] = {"JPEG": 0.84, "WEBP": 0.10, "PNG": 0.06}
_ENDINGS = {"JPEG": "jpg", "WEBP": "webp", "PNG": "png"}
# A large PNG would take longest of all to write, and 2 MB.
_LARGEST_PNG = 640 * 640
_ROTATED_SHARE = 0.03
_ORIENTATION_TAG = 0x0112
_TURN_RIGHT_TO_VIEW = 6
_CHUNK = 16


def write_catalogue(folder: Path, spec: CatalogueSpec, *, processes: int = 1) -> Catalogue:
    """Draws a catalogue and writes its manifests.

    Args:
        folder: Made where it is missing.
        spec: What to draw.
        processes: Processes that draw. The bytes do not depend on it. More than one need a
            caller that can be imported (``if __name__ == "__main__"``).
    """
    folder = folder.absolute()
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    keys = [(index, "1") for index in range(spec.images)]
    keys += [(index, "2") for index in manifests.choose_changed(spec)]
    pictures = dict(zip(keys, _write_pictures(images, spec, keys, processes), strict=True))
    damaged = tuple(write_damaged(folder / "damaged")) if spec.damaged else ()

    catalogue = Catalogue(
        folder=folder,
        images=images,
        labelled=folder / "labelled.parquet",
        nights=(
            folder / "night-1.parquet",
            folder / "night-2.parquet",
            folder / "night-3.parquet",
        ),
        truth=folder / "truth.parquet",
        taxonomy=folder / "taxonomy.yaml",
        damaged=damaged,
    )
    first_versions = [pictures[key] for key in keys[: spec.images]]
    labelled = manifests.make_labelled_rows(spec, first_versions)
    manifests.write_rows(catalogue.labelled, manifests.LABELLED_SCHEMA, labelled)
    nights = manifests.make_nights(spec, pictures, damaged)
    for path, rows in zip(catalogue.nights, nights, strict=True):
        manifests.write_rows(path, manifests.NIGHT_SCHEMA, rows)
    truth = manifests.make_truth_rows(pictures.values(), damaged)
    manifests.write_rows(catalogue.truth, manifests.TRUTH_SCHEMA, truth)
    catalogue.taxonomy.write_text(yaml.safe_dump(make_taxonomy(), sort_keys=False))
    return catalogue


def _write_pictures(
    images: Path, spec: CatalogueSpec, keys: Sequence[tuple[int, str]], processes: int
) -> list[Picture]:
    write = functools.partial(_write_picture, images, spec)
    if processes <= 1:
        return [write(key) for key in keys]
    # Spawned, not forked: the caller may hold threads of torch or of a JVM.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(write, keys, chunksize=_CHUNK))


def _write_picture(images: Path, spec: CatalogueSpec, key: tuple[int, str]) -> Picture:
    """Draws and writes one picture; all that is random follows from seed, index and version."""
    index, version = key
    rng = seeded(spec.seed, index, version)
    (width, height) = rng.choices(tuple(_SIZES), tuple(_SIZES.values()))[0]
    scale = min(1.0, spec.max_side / max(width, height))
    scene = draw_scene(rng, width=round(width * scale), height=round(height * scale))
    caption = make_caption(rng, scene, wrong_title_rate=spec.wrong_title_rate)
    image_format = rng.choices(tuple(_FORMATS), tuple(_FORMATS.values()))[0]
    if image_format == "PNG" and width * height > _LARGEST_PNG:
        image_format = "JPEG"
    image_id = f"hotel-{index:06d}"
    suffix = "" if version == "1" else f"-v{version}"
    path = images / f"{image_id}{suffix}.{_ENDINGS[image_format]}"
    _save(rng, scene.image, path, image_format)
    return Picture(
        image_id=image_id,
        version=version,
        uri=str(path),
        split=spec.split(index),
        title=caption.title,
        labels=scene.labels,
        attributes=caption.attributes,
    )


def _save(rng: random.Random, image: Image.Image, path: Path, image_format: str) -> None:
    """Encodes a picture; a few JPEGs lie on their side and say so, as cameras leave them."""
    if image_format == "PNG":
        image.save(path, "PNG", compress_level=1)
    elif image_format == "WEBP":
        image.save(path, "WEBP", quality=rng.randint(70, 88), method=0)
    elif chance(rng, _ROTATED_SHARE):
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = _TURN_RIGHT_TO_VIEW
        lying = image.transpose(Image.Transpose.ROTATE_90)
        lying.save(path, "JPEG", quality=rng.randint(78, 92), exif=exif)
    else:
        image.save(path, "JPEG", quality=rng.randint(78, 92))
