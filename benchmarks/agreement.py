"""How far eight bits and scaled decoding are from fp32 and full decoding: embeddings and tags.

    .venv/bin/python benchmarks/agreement.py [--output agreement-output] [--epochs 20]

Random weights embed all pictures alike, so a small vision transformer of 224 pixels is trained on
the drawn catalogue first, and thresholds are chosen for it on validation images. Then other scenes
are drawn and kept as photos of 1, 4 and 12 megapixels, and tagged by the engine that tags: in fp32
with full decoding, which is what the others are compared with. Told of each size: the mean cosine
after the set's mean is subtracted from the embeddings, and of the tags published by either the
share that the other does not publish. What was drawn and trained in the output folder before is not
made again. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from drawn_catalogue import draw_catalogue
from PIL import Image
from threshold_transfer import score, train
from tqdm import tqdm

from pipeline.config import (
    CalibrationConfig,
    DecodeConfig,
    FetchConfig,
    ModelConfig,
    Precision,
)
from pipeline.evaluation.metrics import gap
from pipeline.evaluation.thresholds import calibrate_thresholds, with_calibrated
from pipeline.images.loader import ImageRequest
from pipeline.models.bundle import Bundle, read_bundle, write_with_taxonomy
from pipeline.models.serving import make_engine
from pipeline.models.tags import mark_tags
from pipeline.synthetic import draw_scene, seeded

ARCHITECTURE = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 224,
        "layers": 6,
        "width": 192,
        "head_width": 64,
        "patch_size": 32,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 1,
    },
}
SIZES = {"1": (1152, 864), "4": (2304, 1728), "12": (4000, 3000)}
DRAWN_WIDTH = 1536  # scenes are drawn so wide at most, and enlarged
PROFILES: dict[str, tuple[Precision, bool]] = {
    "fp32 scaled": ("fp32", True),
    "int8 full": ("int8", False),
    "int8 scaled": ("int8", True),
}
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def train_and_calibrate(folder: Path, *, images: int, epochs: int) -> tuple[Bundle, float]:
    """A trained model with calibrated thresholds, and its GAP on test images."""
    drawn = draw_catalogue(folder / "catalogue", images)
    calibrated = folder / f"calibrated-{images}-{epochs}"
    architecture = folder / "architecture.json"
    architecture.write_text(json.dumps(ARCHITECTURE))
    trained = folder / f"trained-{images}"
    bundle = train(drawn, trained, epochs=epochs, seed=0, architecture=architecture)
    scored = score(drawn, bundle)
    test = scored.of("test")
    if not calibrated.exists():
        chosen_on = scored.of("validation")
        chosen = calibrate_thresholds(
            chosen_on.scores,
            chosen_on.targets,
            chosen_on.known,
            bundle.taxonomy,
            CalibrationConfig(goal="f1"),
        )
        taxonomy = with_calibrated(bundle.taxonomy, chosen)
        write_with_taxonomy(calibrated, bundle=bundle, taxonomy=taxonomy)
    return read_bundle(calibrated), gap(test.scores, test.targets, known=test.known)


def draw_large(seed: int, width: int, height: int) -> bytes:
    """A scene as a camera would keep it: a JPEG with the grain of its own size."""
    drawn = min(width, DRAWN_WIDTH)
    scene = draw_scene(seeded("agreement", seed), width=drawn, height=drawn * height // width)
    pixels = np.asarray(scene.image.resize((width, height), Image.Resampling.LANCZOS), np.int16)
    grain = np.random.default_rng(seed).normal(0, 4, (height, width, 1)).astype(np.int16)
    content = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(
        content, "JPEG", quality=88
    )
    return content.getvalue()


def tag(
    bundle: Bundle, photos: Sequence[Path], precision: Precision, *, scaled: bool
) -> tuple[Floats, Bools]:
    """Embeddings [N, D] and published tags [N, L] of photos, by the engine that tags."""
    model = ModelConfig(
        uri=str(bundle.path), device="cpu", precision=precision, scaled_decoding=scaled
    )
    engine, loader = make_engine(bundle, model, FetchConfig(), DecodeConfig())
    with loader:
        requests = (ImageRequest(path.name, str(path), None) for path in photos)
        outcomes = list(engine.run(requests))
    scores = np.stack([one.scores for one in outcomes if one.scores is not None])
    embeddings = np.stack([one.embedding for one in outcomes if one.embedding is not None])
    return embeddings, mark_tags(scores, bundle.taxonomy)


def centred_cosine(ours: Floats, theirs: Floats) -> float:
    """Mean cosine of rows after each set's mean is subtracted."""
    ours, theirs = (rows - rows.mean(axis=0) for rows in (ours, theirs))
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / lengths).mean())


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, trains, tags, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("agreement-output"), help="folder of all it leaves")
    add("--catalogue", type=int, default=4000, help="pictures to train and calibrate on")
    add("--epochs", type=int, default=20, help="passes of the training")
    add("--images", type=int, default=300, help="photos of each size")
    asked = parser.parse_args(argv)
    output = asked.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    bundle, trained_gap = train_and_calibrate(output, images=asked.catalogue, epochs=asked.epochs)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for megapixels, (width, height) in SIZES.items():
        folder = output / f"photos-{megapixels}"
        folder.mkdir(exist_ok=True)
        photos = [folder / f"{seed}.jpg" for seed in range(asked.images)]
        for seed, photo in enumerate(tqdm(photos, desc=f"{megapixels} MP", file=sys.stderr)):
            if not photo.exists():
                photo.write_bytes(draw_large(seed, width, height))
        embeddings, tags = tag(bundle, photos, "fp32", scaled=False)
        for name, (precision, scaled) in PROFILES.items():
            other, others_tags = tag(bundle, photos, precision, scaled=scaled)
            found.setdefault(name, {})[megapixels] = {
                "centred_cosine": round(centred_cosine(other, embeddings), 4),
                "tags_differ": round(
                    float((tags != others_tags).sum() / (tags | others_tags).sum()), 5
                ),
                "tags": int((tags | others_tags).sum()),
            }
    result = {"benchmark": "agreement", "gap": round(trained_gap, 3), "images": asked.images}
    print(json.dumps(result | {"profiles": found}))


if __name__ == "__main__":
    main()
