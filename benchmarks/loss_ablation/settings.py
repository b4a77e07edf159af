"""What an ablation is told, and how it is kept so that it can go on where it was."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError

# A small residual network as CLIP's (3 million weights, half of them token embeddings) on small
# pictures, since it is trained some eighty times: a core takes it through 290 images a second,
# one of 64 pixels through 140.
ARCHITECTURE = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 48,
        "layers": [1, 1, 1, 1],
        "width": 16,
        "head_width": 64,
        "patch_size": None,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that results depend on, but for the machine.

    Attributes:
        manifest: A labelled manifest; None: the synthetic catalogue.
        taxonomy: Its taxonomy file.
        architecture: An open_clip name or a model configuration (.json).
        pretrained: Weights the towers start from; None: random ones.
        images: Of the synthetic catalogue, all splits together.
        validation_share: Of the synthetic catalogue.
        test_share: Of the synthetic catalogue.
        max_side: Longest side of its pictures.
        taus: Fixed temperatures of the tempered sigmoid.
        variants: Names of those that are screened; empty: all that there are.
        screening_epochs: Passes of a training of the screening.
        final_epochs: Passes of a training of the finals.
        seeds: Of the finals. None of them is the screening's, which chose who is there.
        batch_size: Images per step.
        learning_rate: Peak rate of the towers.
        resamples: Of the bootstrap over test images.
    """

    manifest: str | None
    taxonomy: str | None
    architecture: str
    pretrained: str | None
    images: int
    validation_share: float
    test_share: float
    max_side: int
    taus: tuple[float, ...]
    variants: tuple[str, ...]
    screening_epochs: int
    final_epochs: int
    seeds: int
    batch_size: int
    learning_rate: float
    resamples: int


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all: an ablation that was killed reads it when it goes on.

    Args:
        path: Its folder is there.
        value: Plain JSON data.
    """
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(beside, path)


def keep_settings(settings: Settings, folder: Path) -> None:
    """Write the settings into the output folder, or hold them against those that are there.

    Args:
        settings: Of this start.
        folder: Made where it is missing.

    Raises:
        ConfigurationError: The folder holds results of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    asked = json.loads(json.dumps(asdict(settings)))
    if not path.exists():
        write_json(path, asked)
        return
    kept = json.loads(path.read_text())
    if kept != asked:
        differing = sorted(
            key for key in kept.keys() | asked.keys() if kept.get(key) != asked.get(key)
        )
        raise ConfigurationError(
            "the output folder holds an ablation of other settings",
            where=path,
            expected={key: kept.get(key) for key in differing},
            got={key: asked.get(key) for key in differing},
            todo="choose another --output, or start with the same options",
        )
