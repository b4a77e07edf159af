"""A model without torch: what it says of an image follows from the image's uri alone.

Its embedding holds the scores of all labels the model knows, so that it can be scored again.

``/ok/...`` is tagged, ``/bad/REASON/...`` fails for that reason, ``/fatal/...`` is an error of the
model as long as there is a file ``fatal`` beside the folder in which calls are noted, so that tests
can count how often an image went through the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pyspark.sql.functions import pandas_udf

from pipeline.tables.schemas import OUTCOME, TAGS
from pipeline.tagging.facts import Tagger
from pipeline.taxonomy import Label, Task, Taxonomy, parse_taxonomy

TAXONOMY: Taxonomy = parse_taxonomy(
    {
        "tasks": [
            {
                "id": "scene",
                "kind": "multi_label",
                "threshold": 0.5,
                "templates": ["a photo of {}."],
                "labels": [{"id": "bed"}, {"id": "pool"}, {"id": "bathtub"}],
            },
            {
                "id": "room",
                "kind": "single_label",
                "threshold": 0.3,
                "labels": [{"id": "single"}, {"id": "double"}],
            },
        ]
    }
)


KNOWN = ("bed", "pool", "bathtub", "single", "double", "sauna")
"""Labels of the model; a taxonomy may use some of them."""


def make_tagger(
    calls: Path,
    *,
    model: str = "fake-1",
    taxonomy: Taxonomy = TAXONOMY,
    without: str | None = None,
) -> Tagger:
    """The fake as a run sees it.

    Args:
        calls: Where it notes the images it saw.
        model: Other names give other scores.
        taxonomy: Its labels.
        without: A label it has forgotten: another model, and all other scores the same.
    """
    labels = [(task.id, label.id, KNOWN.index(label.id)) for task, label in taxonomy.labels]
    forgotten = None if without is None else KNOWN.index(without)
    folder = str(calls)

    def tags_of(vector):
        scored = sorted(((vector[place], task, label) for task, label, place in labels))
        return [
            {"task": task, "label": label, "score": score, "source": "image"}
            for score, task, label in reversed(scored)
            if score >= 0.01
        ]

    @pandas_udf(OUTCOME)
    def tag(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        import hashlib
        import os
        import uuid

        from pipeline.errors import ModelError

        for image_ids, uris, contents, _ in batches:
            rows = []
            seen = list(image_ids)
            with open(f"{folder}/{uuid.uuid4().hex}", "w", encoding="utf-8") as note:
                note.write("\n".join(seen))
            for uri, content in zip(uris, contents, strict=True):
                place = (uri or "").split("?")[0]
                if "/fatal/" in place and os.path.exists(f"{folder}/../fatal"):
                    raise ModelError("the model gave no numbers")
                if "/bad/" in place:
                    reason = place.split("/bad/")[1].split("/")[0]
                    retriable = reason in ("not_found", "server_error")
                    rows.append((reason, "on purpose", retriable, *[None] * 7))
                    continue
                place = place.replace("/fatal/", "/ok/")
                place = place[max(0, place.find("/ok/")) :]  # the same in every temporary folder
                digest = hashlib.sha256(content or (model + place).encode()).digest()
                vector = [byte / 255 for byte in digest[: len(KNOWN)]]
                if forgotten is not None:
                    vector[forgotten] /= 10
                tags = tags_of(vector)
                rows.append((None, None, None, digest.hex(), 40, 30, tags, None, None, vector))
            yield pd.DataFrame(rows, columns=OUTCOME.names, dtype=object)

    @pandas_udf(TAGS)
    def rescore(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        for vectors in batches:
            yield pd.Series([tags_of(vector) for vector in vectors], dtype=object)

    version = model if without is None else f"{model} without {without}"
    return Tagger(
        tag=tag.asNondeterministic(), rescore=rescore, model_version=version, taxonomy=taxonomy
    )


def calls_of(calls: Path) -> Counter[str]:
    """How often each image went through the model."""
    return Counter(
        image_id
        for note in calls.iterdir()
        for image_id in note.read_text(encoding="utf-8").splitlines()
    )


def with_thresholds(threshold: float) -> Taxonomy:
    """The same taxonomy with one threshold for all labels."""
    return Taxonomy(
        tasks=tuple(
            Task(
                id=task.id,
                kind=task.kind,
                labels=tuple(
                    Label(id=one.id, name=one.name, texts=one.texts, threshold=threshold)
                    for one in task.labels
                ),
            )
            for task in TAXONOMY.tasks
        )
    )
