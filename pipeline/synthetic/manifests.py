"""The manifests of a catalogue: labelled, of three nights, and the truth."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from pipeline.images.reasons import Reason
from pipeline.synthetic.colours import chance, seeded
from pipeline.synthetic.damaged import DamagedInput
from pipeline.synthetic.specification import CatalogueSpec, Picture
from pipeline.synthetic.vocabulary import LABELS

Row = dict[str, object]

CONTRADICTION_ID = "damaged-contradiction"

_STRINGS = pa.list_(pa.string())
_MAP = pa.map_(pa.string(), pa.string())
NIGHT_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "version": pa.string(),
        "deleted": pa.bool_(),
        "title": pa.string(),
    }
)
LABELLED_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "version": pa.string(),
        "title": pa.string(),
        "labels": _STRINGS,
        "attributes": _MAP,
        "unknown": _STRINGS,
        "split": pa.string(),
    }
)
TRUTH_SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "version": pa.string(),
        "labels": _STRINGS,
        "attributes": _MAP,
        "reason": pa.string(),
    }
)


def write_rows(path: Path, schema: pa.Schema, rows: Sequence[Row]) -> None:
    """Writes a manifest as one Parquet file."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def make_labelled_rows(spec: CatalogueSpec, pictures: Iterable[Picture]) -> list[Row]:
    """Returns the labelled manifest: labels moved and left unknown at the chosen rates."""
    rows: list[Row] = []
    for picture in pictures:
        labels, unknown = set(picture.labels), set[str]()
        if picture.split != "test":
            labels = _move_labels(spec, picture)
        if picture.split == "train":
            rng = seeded(spec.seed, "unknown", picture.image_id)
            unknown = {label for label in LABELS if chance(rng, spec.unknown_rate)}
        rows.append(
            {
                "image_id": picture.image_id,
                "uri": picture.uri,
                "version": picture.version,
                "title": picture.title,
                "labels": sorted(labels - unknown),
                "attributes": sorted(picture.attributes.items()),
                "unknown": sorted(unknown),
                "split": picture.split,
            }
        )
    return rows


def _move_labels(spec: CatalogueSpec, picture: Picture) -> set[str]:
    rng = seeded(spec.seed, "moved", picture.image_id)
    return move_labels(picture.labels, tuple(LABELS), rate=spec.moved_rate, rng=rng)


def move_labels(
    labels: Sequence[str], vocabulary: Sequence[str], *, rate: float, rng: random.Random
) -> set[str]:
    """Returns labels of an image, some of them replaced by labels that it does not have.

    Args:
        labels: The true ones.
        vocabulary: All that there are, more than the image has.
        rate: Share of labels that move, 0 to 1.
        rng: Decides which, and where to.
    """
    moved: set[str] = set()
    for label in labels:
        if chance(rng, rate):
            taken = moved.union(labels)
            moved.add(rng.choice([other for other in vocabulary if other not in taken]))
        else:
            moved.add(label)
    return moved


def choose_changed(spec: CatalogueSpec) -> list[int]:
    """Returns the indexes of the images that show another picture on night 2."""
    return _choose_nightly(spec)[1]


def _choose_nightly(spec: CatalogueSpec) -> tuple[set[int], list[int], set[int]]:
    """Returns which of the nights' images are new, changed, deleted on night 2; none is two."""
    nightly = [index for index in range(spec.images) if spec.split(index) == "test"]
    seeded(spec.seed, "nights").shuffle(nightly)
    chosen: list[list[int]] = []
    for share in (spec.new_share, spec.changed_share, spec.deleted_share):
        count = min(len(nightly), max(round(share * len(nightly)), int(share > 0)))
        chosen.append(nightly[:count])
        nightly = nightly[count:]
    new, changed, deleted = chosen
    return set(new), sorted(changed), set(deleted)


def make_nights(
    spec: CatalogueSpec,
    pictures: dict[tuple[int, str], Picture],
    damaged: Sequence[DamagedInput],
) -> tuple[list[Row], list[Row], list[Row]]:
    """Returns the manifests of three nights, each of the whole catalogue.

    Night 2 has new, changed and deleted images and an id with two contradicting rows. Night 3
    delivers night 2 again in another order, some rows twice.

    Args:
        spec: Of the catalogue.
        pictures: By index and version.
        damaged: Inputs that are delivered on every night.
    """
    new, changed, deleted = _choose_nightly(spec)
    broken = [_damaged_row(item) for item in damaged]
    first, second = list(broken), list(broken)
    for (index, version), picture in pictures.items():
        if picture.split != "test":
            continue
        if version == "1":
            if index not in new:
                first.append(_night_row(picture))
            if index not in changed:
                second.append(_night_row(picture, deleted=index in deleted))
        else:
            second.append(_night_row(picture))
    if damaged and len(second) > len(broken):
        row = second[-1]
        second.append({**row, "image_id": CONTRADICTION_ID, "version": "1"})
        second.append({**row, "image_id": CONTRADICTION_ID, "version": "2"})
    rng = seeded(spec.seed, "duplicates")
    repeatable = [row for row in second if row["image_id"] != CONTRADICTION_ID]
    third = second + rng.sample(repeatable, round(spec.duplicate_share * len(repeatable)))
    rng.shuffle(third)
    return first, second, third


def make_truth_rows(pictures: Iterable[Picture], damaged: Sequence[DamagedInput]) -> list[Row]:
    """Returns true labels of every picture and the expected reason of every failure."""
    rows: list[Row] = [
        {
            "image_id": picture.image_id,
            "version": picture.version,
            "labels": list(picture.labels),
            "attributes": sorted(picture.attributes.items()),
        }
        for picture in pictures
    ]
    failures = {damaged_id(item): item.expected_reason for item in damaged}
    if damaged:
        failures[CONTRADICTION_ID] = Reason.CONTRADICTION
    rows += [
        {"image_id": image_id, "version": "1", "reason": reason.value}
        for image_id, reason in failures.items()
    ]
    return rows


def damaged_id(item: DamagedInput) -> str:
    """Returns the image id under which the nights deliver a damaged input."""
    return f"damaged-{item.name}"


def _night_row(picture: Picture, *, deleted: bool = False) -> Row:
    return {
        "image_id": picture.image_id,
        "uri": picture.uri,
        "version": picture.version,
        "deleted": deleted,
        "title": picture.title,
    }


def _damaged_row(item: DamagedInput) -> Row:
    return {
        "image_id": damaged_id(item),
        "uri": item.uri,
        "version": "1",
        "deleted": False,
        "title": item.name.replace("-", " ").capitalize(),
    }
