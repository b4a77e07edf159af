"""A catalogue to bring to another taxonomy and model, and what must stand in the end."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
from fake_catalogue import DAY_1, Catalogue, row
from fake_model import KNOWN

from pipeline.config import PaceConfig, StageConfig
from pipeline.tagging.backfill import run_backfill
from pipeline.tagging.pace import BackfillPace
from pipeline.taxonomy import parse_taxonomy

DAY_2, DAY_3 = DAY_1 + timedelta(days=1), DAY_1 + timedelta(days=2)
# One label is new, one is gone, one has another threshold, and a task asks for the best only.
OTHER = parse_taxonomy(
    {
        "tasks": [
            {
                "id": "scene",
                "kind": "multi_label",
                "threshold": 0.4,
                "labels": [{"id": "bed", "threshold": 0.7}, {"id": "pool"}, {"id": "sauna"}],
            },
            {
                "id": "room",
                "kind": "single_label",
                "threshold": 0.1,
                "labels": [{"id": "single"}, {"id": "double"}],
            },
        ]
    }
)
TAGGED = "abcdefg"
NIGHT = [
    *(row(key) for key in TAGGED),
    row("late", "/bad/not_found/1.jpg"),
    row("signed", "https://cdn.example.com/bad/not_found/2.jpg?token=secret"),
    row("broken", "/bad/corrupt/1.jpg"),
]


def expected_tags(image_id: str, *, model: str) -> set[tuple[str, str, float]]:
    """What tagging afresh with the other taxonomy publishes, worked out without the product."""
    digest = hashlib.sha256(f"{model}/ok/{image_id}.jpg".encode()).digest()
    score = {label: float(np.float32(digest[place] / 255)) for place, label in enumerate(KNOWN)}
    scene = {"bed": 0.7, "pool": 0.4, "sauna": 0.4}
    tags = {("scene", label, score[label]) for label in scene if score[label] >= scene[label]}
    best = max(("single", "double"), key=lambda label: score[label])
    return tags | {("room", best, score[best])} if score[best] >= 0.1 else tags


def published_tags(catalogue: Catalogue) -> dict[str, set[tuple[str, str, float]]]:
    tags: dict[str, set[tuple[str, str, float]]] = {key: set() for key in TAGGED}
    for tag in catalogue.rows("image_tags"):
        tags[tag["image_id"]].add((tag["task"], tag["label"], tag["score"]))
    return tags


def backfill(catalogue: Catalogue, backfill_id: str, *, model: str, publish_every=2, **options):
    """Of what the tables know, two images to a chunk."""
    pace = options.pop("pace", PaceConfig())
    now = options.pop("now", lambda: datetime.now(UTC))
    request = catalogue.request(
        None,
        backfill_id,
        None,
        job="backfill_catalog",
        selection="backfill",
        backfill_id=backfill_id,
        stage=StageConfig(chunk_rows=2),
        **options,
    )
    return run_backfill(
        catalogue.spark,
        request,
        catalogue.tagger(model, OTHER),
        publish_every=publish_every,
        pace=BackfillPace(pace, now=now),
    )
