"""The images of an ablation: decoded once into the output folder, shared by all trainings.

Labels are kept beside the pixels, so an ablation that goes on reads nothing else again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from trials.images import keep_marks
from trials.kept import write_json

from loss_ablation.settings import Settings
from pipeline.config import DecodeConfig, FetchConfig, LabelledManifestConfig, TowersConfig
from pipeline.errors import ManifestError
from pipeline.evaluation.metrics import gap, label_frequencies
from pipeline.models.towers import load_towers
from pipeline.synthetic import CatalogueSpec, write_catalogue
from pipeline.taxonomy import read_taxonomy
from pipeline.training.data import read_labelled
from pipeline.training.pixels import PixelSet, enlarge, make_pixel_set
from pipeline.training.splits import SPLITS

MOVED_RATE = 0.2
_DESCRIPTION = "data.json"


def prepare_data(settings: Settings, folder: Path, *, processes: int) -> dict[str, Any]:
    """Draw or read the images, decode them, describe them.

    Args:
        settings: What is asked for.
        folder: Keeps pixels, labels and taxonomy. What is there already is not made again.
        processes: Processes that draw.

    Returns:
        images (by split), labels, labels_per_image, gap_of_label_frequencies (on the test images),
        left_out (by reason), seconds.

    Raises:
        PipelineError: Manifest or taxonomy cannot be used, or a split has no image.
    """
    described = folder / _DESCRIPTION
    if described.exists():
        found: dict[str, Any] = json.loads(described.read_text())
        return found
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ablation-catalogue-") as drawn:
        manifest, taxonomy = settings.manifest, settings.taxonomy
        if manifest is None or taxonomy is None:
            spec = CatalogueSpec(
                images=settings.images,
                moved_rate=MOVED_RATE,
                validation_share=settings.validation_share,
                test_share=settings.test_share,
                changed_share=0.0,
                damaged=False,
                max_side=settings.max_side,
            )
            catalogue = write_catalogue(Path(drawn), spec, processes=processes)
            manifest, taxonomy = str(catalogue.labelled), str(catalogue.taxonomy)
        (folder / "taxonomy.yaml").write_bytes(Path(taxonomy).read_bytes())
        sets = _decode(settings, folder, manifest)
    keep_marks(sets, folder)
    description = _describe(sets) | {"seconds": round(time.monotonic() - started, 1)}
    write_json(described, description)  # last: it says that all else is there
    return description


def _decode(settings: Settings, folder: Path, manifest: str) -> dict[str, PixelSet]:
    images = read_labelled(
        LabelledManifestConfig(path=manifest), read_taxonomy(folder / "taxonomy.yaml")
    )
    preprocessing = load_towers(
        TowersConfig(architecture=settings.architecture, pretrained=settings.pretrained)
    ).preprocessing
    sets = {
        split: make_pixel_set(
            images,
            split,
            preprocessing=enlarge(preprocessing) if split == "train" else preprocessing,
            fetch=FetchConfig(),
            decode=DecodeConfig(),
            folder=folder,
        )
        for split in SPLITS
    }
    for split, found in sets.items():
        if not found.targets.any():
            raise ManifestError(
                f"no {split} image with a label can be used",
                where=manifest,
                expected="images in the splits train, validation and test",
                got={split: len(one) for split, one in sets.items()},
            )
    return sets


def _describe(sets: dict[str, PixelSet]) -> dict[str, Any]:
    train, test = sets["train"], sets["test"]
    frequencies = label_frequencies(train.targets, train.known)
    left_out = sum((images.left_out for images in sets.values()), Counter())
    return {
        "images": {split: len(images) for split, images in sets.items()},
        "labels": train.targets.shape[1],
        "labels_per_image": round(float(train.targets.sum(axis=1).mean()), 2),
        "rarest_label": round(float(frequencies.min()), 4),
        "gap_of_label_frequencies": round(
            gap(np.tile(frequencies, (len(test), 1)), test.targets, known=test.known), 4
        ),
        "left_out": {str(reason): count for reason, count in left_out.items()},
    }
