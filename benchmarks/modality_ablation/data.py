"""The images of the ablation: the synthetic catalogue with its titles and three attributes.

``wall_colour`` stands in the picture alone, ``room_type`` in the title alone, ``view`` in the
picture where it shows one and else in the title (see :mod:`pipeline.synthetic.titles`).
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from trials.images import keep_marks
from trials.kept import write_json

from modality_ablation.pretraining import pretrain_towers
from modality_ablation.settings import Settings
from modality_ablation.tasks import make_attributes, make_tasks
from pipeline.config import DecodeConfig, FetchConfig, LabelledManifestConfig, TowersConfig
from pipeline.models.towers import load_towers
from pipeline.synthetic import CatalogueSpec, write_catalogue
from pipeline.training.data import read_labelled
from pipeline.training.pixels import PixelSet, enlarge, make_pixel_set
from pipeline.training.splits import SPLITS

_DESCRIPTION = "data.json"
_TITLES = "titles.json"


def prepare_data(settings: Settings, folder: Path, *, processes: int) -> dict[str, Any]:
    """Draw the images, decode them, train towers on them, describe them.

    Args:
        settings: What is asked for.
        folder: Keeps pixels, marks and titles. What is there already is not made again.
        processes: Processes that draw.

    Returns:
        images (by split), known (test images of each attribute), pretraining (what
        :func:`pretrain_towers` says), seconds.
    """
    described = folder / _DESCRIPTION
    if described.exists():
        found: dict[str, Any] = json.loads(described.read_text())
        return found
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ablation-catalogue-") as drawn:
        spec = CatalogueSpec(
            images=settings.images,
            validation_share=settings.validation_share,
            test_share=settings.test_share,
            changed_share=0.0,
            damaged=False,
            max_side=settings.max_side,
        )
        catalogue = write_catalogue(Path(drawn), spec, processes=processes)
        sets, titles = _decode(settings, folder, str(catalogue.labelled))
    keep_marks(sets, folder)
    write_json(folder / _TITLES, titles)
    test = sets["test"]
    pretraining = pretrain_towers(settings, folder)
    description = {
        "pretraining": pretraining,
        "images": {split: len(images) for split, images in sets.items()},
        "known": {
            task.id: int(test.known[:, at].any(axis=1).sum())
            for task, at in make_attributes().columns
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(described, description)  # last: it says that all else is there
    return description


def load_titles(folder: Path) -> list[str | None]:
    """The titles of the test images, in their order."""
    found: list[str | None] = json.loads((folder / _TITLES).read_text())
    return found


def _decode(
    settings: Settings, folder: Path, manifest: str
) -> tuple[dict[str, PixelSet], list[str | None]]:
    images = read_labelled(LabelledManifestConfig(path=manifest, text="title"), make_tasks())
    towers = load_towers(TowersConfig(architecture=settings.architecture))
    sets = {
        split: make_pixel_set(
            images,
            split,
            preprocessing=enlarge(towers.preprocessing)
            if split == "train"
            else towers.preprocessing,
            fetch=FetchConfig(),
            decode=DecodeConfig(),
            folder=folder,
            tokenizer=towers.tokenizer,
        )
        for split in SPLITS
    }
    title_of = dict(zip(images.ids, images.texts, strict=True))
    return sets, [title_of[image_id] for image_id in sets["test"].ids]
