"""The promise of a run, checked in its tables by a second reader.

After a run every manifest row with a valid id has exactly one row in ``images``, at its version or
a newer one: tagged, failed with a reason, deleted, or erased. Tags and embeddings stand there for
tagged images alone, whole, and as staged. Tables are read with deltalake, and what a manifest asks
for is worked out here once more: neither Spark nor the product vouches for itself.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
from deltalake import DeltaTable

Row = dict[str, Any]
State = dict[str, dict[tuple[Any, ...], Row]]

KEYS: dict[str, tuple[str, ...]] = {
    "images": ("image_id",),
    "image_tags": ("image_id", "task", "label"),
    "image_embeddings": ("image_id",),
}
"""Key columns of the published tables."""

_NAMES = (*KEYS, "tagging_results", "tagging_runs", "labels")
_STATUSES = ("tagged", "failed", "deleted", "erased")
# Of what a result is; a tag and an embedding must say the same as their image.
_SAME_OF_TAG = ("image_version", "model_version", "taxonomy_version")
_SAME_OF_EMBEDDING = ("image_version", "model_version")
_LENGTH_TOLERANCE = 1e-3
_WHEN_IT_IS_TAKEN = "tagged_at"  # the one column two equal runs differ in


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a manifest says of one image.

    Attributes:
        version: The image_version; None where the image is deleted or contradicted.
        deleted: The image left the catalogue.
        contradicted: Rows disagree about the image.
    """

    version: str | None
    deleted: bool = False
    contradicted: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found after a run.

    Attributes:
        wanted: Images the manifest names.
        statuses: How many of them stand in ``images`` by status.
        tags: Rows of ``image_tags``.
        embeddings: Rows of ``image_embeddings``.
        broken: What breaks the promise, a sentence each; empty: it is kept.
    """

    wanted: int
    statuses: Mapping[str, int]
    tags: int
    embeddings: int
    broken: tuple[str, ...]


def verify_run(tables: Path, manifest: Path, run_id: str, *, text: str | None = None) -> Report:
    """Check what a run promised about its manifest and all tables.

    Args:
        tables: Folder of the table set.
        manifest: Parquet file or folder, with the product's own names of columns.
        run_id: The run that is over.
        text: The manifest's column that was mapped as text, if one was.
    """
    wanted = read_wanted(manifest, text=text)
    rows = {name: read_rows(tables, name) for name in _NAMES}
    run = find_run(rows["tagging_runs"], run_id)
    if run is None or run["state"] != "published":
        state = "unknown" if run is None else run["state"]
        broken = [f"run {run_id} is {state}, not published"]
    else:
        broken = [*find_repeated_keys(rows), *check_images(wanted, rows["images"], run)]
        broken += check_tags(rows)
        broken += check_embeddings(rows)
    statuses = Counter(row["status"] for row in rows["images"] if row["image_id"] in wanted)
    return Report(
        wanted=len(wanted),
        statuses=dict(statuses),
        tags=len(rows["image_tags"]),
        embeddings=len(rows["image_embeddings"]),
        broken=tuple(broken),
    )


def read_rows(tables: Path, name: str, *, version: int | None = None) -> list[Row]:
    """Rows of a table, at its latest version or at another one."""
    table = DeltaTable(str(tables / name), version=version)
    rows: list[Row] = table.to_pyarrow_table().to_pylist(maps_as_pydicts="strict")
    return rows


def read_versions(tables: Path) -> dict[str, int]:
    """Number of the latest commit of every table: unchanged numbers, unchanged tables."""
    return {name: DeltaTable(str(tables / name)).version() for name in _NAMES}


def find_run(changes: Iterable[Row], run_id: str) -> Row | None:
    """The latest state of a run in the rows of ``tagging_runs``."""
    own = [row for row in changes if row["run_id"] == run_id]
    return max(own, key=lambda row: int(row["change"]), default=None)


def read_wanted(manifest: Path, *, text: str | None = None) -> dict[str, Wanted]:
    """What a manifest says, by image id. Rows without an id say nothing."""
    said: dict[str, set[tuple[bool, str | None, str | None]]] = defaultdict(set)
    for row in pq.read_table(manifest).to_pylist():
        image_id = row["image_id"]
        if image_id is None or not str(image_id).strip():
            continue
        gone = bool(row.get("deleted"))
        place = None if gone else clean_uri(row.get("uri"))
        said[str(image_id)].add((gone, None if gone else version_of(row, text=text), place))
    return {
        image_id: Wanted(version=None, contradicted=True)
        if len(statements) > 1
        else Wanted(version=version, deleted=deleted)
        for image_id, statements in said.items()
        for deleted, version, _ in [next(iter(statements))]
    }


def version_of(row: Row, *, text: str | None = None) -> str:
    """The image_version of a manifest row: what changes when the image is another one."""
    version = row.get("version")
    if version is None and row.get("content") is not None:
        version = hashlib.sha256(row["content"]).hexdigest()
    elif version is None:
        version = hashlib.sha256((clean_uri(row.get("uri")) or "").encode()).hexdigest()
    if text is None:
        return str(version)
    return f"{version}+{hashlib.sha256((row[text] or '').encode()).hexdigest()}"


def clean_uri(uri: str | None) -> str | None:
    """A URI without user info, query and fragment; paths stay as they are."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.\-]*://)(?:[^/?#]*@)?([^?#]*)", uri or "")
    return f"{match[1]}{match[2]}" if match else uri


def find_repeated_keys(rows: Mapping[str, list[Row]]) -> list[str]:
    """Keys of published tables that stand there more than once."""
    return [
        f"{table} has {count} rows of {', '.join(map(str, key))}"
        for table, columns in KEYS.items()
        for key, count in Counter(_key(row, columns) for row in rows[table]).items()
        if count > 1
    ]


def check_images(wanted: Mapping[str, Wanted], images: Iterable[Row], run: Row) -> list[str]:
    """What ``images`` owes the manifest of a run."""
    standing = {row["image_id"]: row for row in images}
    broken = []
    for image_id, want in wanted.items():
        row = standing.get(image_id)
        wrong = "it has no row in images" if row is None else _wrong_row(row, want, run)
        if wrong:
            broken.append(f"image {image_id}: {wrong}")
    return broken


def _wrong_row(row: Row, want: Wanted, run: Row) -> str | None:
    """What is wrong with the row of ``images`` of a wanted image."""
    status, version = row["status"], row["image_version"]
    if status not in _STATUSES:
        return f"its status is {status!r}"
    if status == "failed" and not row["reason"]:
        return "it failed without a reason"
    if status == "erased" or _moment(row) > (run["as_of"], run["run_seq"]):
        return None  # nothing wins over an erasure, and newer rows answer for newer manifests
    if want.deleted:
        return None if status == "deleted" else f"it was deleted, but is {status}"
    if status == "deleted":
        return "it is deleted, but the manifest has it"
    if want.contradicted:
        said = (status, row["reason"], str(version).partition(":")[0])
        known = ("failed", "contradiction", "contradiction")
        return None if said == known else f"its rows contradict each other, but it is {status}"
    return None if version == want.version else f"it is at version {version}, not {want.version}"


def _moment(row: Row) -> tuple[datetime, int]:
    return row["as_of"], row["as_of_seq"]


def check_tags(rows: Mapping[str, list[Row]]) -> list[str]:
    """Tags stand at tagged images alone: all that its staged scores reach, no other."""
    limits = {
        (row["taxonomy_version"], row["task"], row["label"]): (row["kind"], row["threshold"])
        for row in rows["labels"]
    }
    facts = _facts_of(rows)
    published: dict[str, list[Row]] = defaultdict(list)
    for tag in rows["image_tags"]:
        published[tag["image_id"]].append(tag)
    broken = _strangers(rows, "image_tags", _SAME_OF_TAG)
    for image in rows["images"]:
        if image["status"] != "tagged":
            continue
        image_id = image["image_id"]
        own = facts[image["run_id"], image_id]
        stand = {(t["task"], t["label"]): (t["score"], t["source"]) for t in published[image_id]}
        if stand not in [reached_tags(fact, limits) for fact in own]:
            broken.append(f"image {image_id}: its tags are not those that were staged")
    return broken


def reached_tags(
    fact: Row, limits: Mapping[tuple[str, str, str], tuple[str, float]]
) -> dict[tuple[str, str], tuple[float, str]]:
    """The tags a staged fact publishes: from the threshold up, of a single_label task the best."""
    reached: dict[tuple[str, str], tuple[float, str]] = {}
    answered = set()
    for tag in sorted(fact["tags"], key=lambda tag: -float(tag["score"])):
        kind, threshold = limits[fact["taxonomy_version"], tag["task"], tag["label"]]
        if tag["score"] >= threshold and tag["task"] not in answered:
            reached[tag["task"], tag["label"]] = (tag["score"], tag["source"])
        if kind == "single_label":
            answered.add(tag["task"])
    return reached


def check_embeddings(rows: Mapping[str, list[Row]]) -> list[str]:
    """Embeddings stand at tagged images, one at each, of length 1 and as staged."""
    facts = _facts_of(rows)
    runs = {row["image_id"]: row["run_id"] for row in rows["images"] if row["status"] == "tagged"}
    broken = _strangers(rows, "image_embeddings", _SAME_OF_EMBEDDING)
    found = {row["image_id"]: row["embedding"] for row in rows["image_embeddings"]}
    for image_id, run_id in runs.items():
        vector = found.get(image_id)
        if vector is None:
            broken.append(f"image {image_id}: it is tagged without an embedding")
        elif abs(math.hypot(*vector) - 1) > _LENGTH_TOLERANCE:
            broken.append(f"image {image_id}: its embedding is not of length 1")
        elif vector not in [fact["embedding"] for fact in facts[run_id, image_id]]:
            broken.append(f"image {image_id}: its embedding is not the one that was staged")
    return broken


def _facts_of(rows: Mapping[str, list[Row]]) -> dict[tuple[str, str], list[Row]]:
    """Tagged facts by run and image; there may be two, since a lost task can stage again."""
    facts: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for fact in rows["tagging_results"]:
        if fact["status"] == "tagged":
            facts[fact["run_id"], fact["image_id"]].append(fact)
    return facts


def _strangers(rows: Mapping[str, list[Row]], table: str, same: tuple[str, ...]) -> list[str]:
    """Images with rows in a table that have no right to them, or rows that say something else."""
    tagged = {row["image_id"]: row for row in rows["images"] if row["status"] == "tagged"}
    broken = {}
    for row in rows[table]:
        image_id = row["image_id"]
        if image_id not in tagged:
            broken[image_id] = f"image {image_id}: it is not tagged, but stands in {table}"
        elif wrong := [name for name in same if row[name] != tagged[image_id][name]]:
            broken[image_id] = f"image {image_id}: {table} says another {wrong[0]} than images"
    return list(broken.values())


def read_state(tables: Path) -> State:
    """All that is published, by key, less the times at which the model looked."""
    return {
        table: {
            _key(row, columns): {name: row[name] for name in row if name != _WHEN_IT_IS_TAKEN}
            for row in read_rows(tables, table)
        }
        for table, columns in KEYS.items()
    }


def find_differences(one: State, other: State, *, tolerance: float = 1e-5) -> list[str]:
    """How two states differ, a sentence each; numbers that are close are equal."""
    found = []
    for table in KEYS:
        for key in sorted({*one[table], *other[table]}):
            name = f"{table} {', '.join(map(str, key))}"
            mine, theirs = one[table].get(key), other[table].get(key)
            if mine is None or theirs is None:
                found.append(f"{name}: stands in one of them only")
                continue
            for column in mine:
                if not _close(mine[column], theirs[column], tolerance):
                    found.append(f"{name}: another {column}")
    return found


def _close(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            _close(a, b, tolerance) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
    return bool(one == other)


def _key(row: Row, columns: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row[name] for name in columns)
