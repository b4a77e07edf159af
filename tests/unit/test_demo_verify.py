"""The check of the promise finds every way in which tables can break it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from demo.verify import (
    Wanted,
    check_images,
    clean_uri,
    find_differences,
    read_state,
    read_wanted,
    verify_run,
    version_of,
)

NIGHT = datetime(2026, 3, 1, 2, tzinfo=UTC)
Rows = dict[str, list[dict[str, Any]]]

RESULT = {"model_version": "m", "taxonomy_version": "t", "run_id": "r"}
BED = {"task": "scene", "label": "bed", "score": 0.75, "source": "image"}
LAMP = {"task": "scene", "label": "lamp", "score": 0.25, "source": "image"}
SMALL = {"task": "size", "label": "small", "score": 0.625, "source": "image"}
LARGE = {"task": "size", "label": "large", "score": 0.5, "source": "image"}

FLOATS = pa.list_(pa.float32())
TAG = pa.struct(
    {"task": pa.string(), "label": pa.string(), "score": pa.float32(), "source": pa.string()}
)
SCHEMAS = {
    "images": {
        **dict.fromkeys(("image_id", "status", "image_version", "reason"), pa.string()),
        **dict.fromkeys(RESULT, pa.string()),
        "as_of": pa.timestamp("us", "UTC"),
        "as_of_seq": pa.int64(),
        "tagged_at": pa.timestamp("us", "UTC"),
    },
    "image_tags": {
        **dict.fromkeys(("image_id", "image_version", "task", "label", "source"), pa.string()),
        **dict.fromkeys(RESULT, pa.string()),
        "score": pa.float32(),
    },
    "image_embeddings": {
        **dict.fromkeys(("image_id", "image_version", "model_version", "run_id"), pa.string()),
        "embedding": FLOATS,
    },
    "tagging_results": {
        **dict.fromkeys(("image_id", "image_version", "status"), pa.string()),
        **dict.fromkeys(RESULT, pa.string()),
        "tags": pa.list_(TAG),
        "embedding": FLOATS,
    },
    "tagging_runs": {
        **dict.fromkeys(("run_id", "state"), pa.string()),
        "change": pa.int32(),
        "run_seq": pa.int64(),
        "as_of": pa.timestamp("us", "UTC"),
        "table_versions": pa.map_(pa.string(), pa.int64()),
    },
    "labels": {
        **dict.fromkeys(("taxonomy_version", "task", "kind", "label"), pa.string()),
        "threshold": pa.float32(),
    },
}


def kept_promise() -> Rows:
    """Tables after a night with a tagged, a failed, and a deleted image."""

    def image(image_id: str, **columns: Any) -> dict[str, Any]:
        standing = {"as_of": NIGHT, "as_of_seq": 1, "image_version": "1"}
        return {"image_id": image_id, **standing, **columns}

    def label(tag: dict[str, Any], kind: str) -> dict[str, Any]:
        named = {"task": tag["task"], "label": tag["label"], "kind": kind}
        return {"taxonomy_version": "t", **named, "threshold": 0.5}

    tagged = {"image_id": "a", "image_version": "1", **RESULT}
    return {
        "images": [
            image("a", status="tagged", tagged_at=NIGHT, **RESULT),
            image("b", status="failed", reason="truncated"),
            image("c", status="deleted", image_version=None),
        ],
        "image_tags": [{**tagged, **BED}, {**tagged, **SMALL}],
        "image_embeddings": [
            {name: tagged[name] for name in SCHEMAS["image_embeddings"] if name in tagged}
            | {"embedding": [0.6, 0.8]}
        ],
        "tagging_results": [
            {
                **tagged,
                "status": "tagged",
                "tags": [BED, SMALL, LARGE, LAMP],
                "embedding": [0.6, 0.8],
            },
        ],
        "tagging_runs": [
            {"run_id": "r", "state": "started", "change": 1, "run_seq": None, "as_of": NIGHT},
            {"run_id": "r", "state": "published", "change": 2, "run_seq": 1, "as_of": NIGHT},
        ],
        "labels": [
            *(label(tag, "multi_label") for tag in (BED, LAMP)),
            *(label(tag, "single_label") for tag in (SMALL, LARGE)),
        ],
    }


MANIFEST = [
    {"image_id": "a", "uri": "/a.jpg", "version": "1", "deleted": False},
    {"image_id": "a", "uri": "/a.jpg", "version": "1", "deleted": False},
    {"image_id": "b", "uri": "/b.jpg", "version": "1", "deleted": None},
    {"image_id": "c", "uri": "/c.jpg", "version": "7", "deleted": True},
]


def write_tables(folder: Path, rows: Rows) -> Path:
    for name, columns in SCHEMAS.items():
        table = pa.Table.from_pylist(rows[name], pa.schema(columns))
        write_deltalake(str(folder / name), table)
    return folder


def write_manifest(folder: Path) -> Path:
    path = folder / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(MANIFEST), path)
    return path


def test_a_kept_promise_is_counted(tmp_path: Path) -> None:
    tables = write_tables(tmp_path / "tables", kept_promise())

    report = verify_run(tables, write_manifest(tmp_path), "r")

    assert report.broken == ()
    assert (report.wanted, report.tags, report.embeddings) == (3, 2, 1)
    assert report.statuses == {"tagged": 1, "failed": 1, "deleted": 1}


def change(table: str, place: int, **columns: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[table][place].update(columns)


def drop(table: str, place: int) -> Callable[[Rows], None]:
    def apply(rows: Rows) -> None:
        del rows[table][place]

    return apply


def repeat(table: str) -> Callable[[Rows], None]:
    return lambda rows: rows[table].append(dict(rows[table][0]))


@pytest.mark.parametrize(
    ("breaking", "said"),
    [
        (drop("images", 1), "image b: it has no row in images"),
        (repeat("images"), "images has 2 rows of a"),
        (repeat("image_tags"), "image_tags has 2 rows of a, scene, bed"),
        (repeat("image_embeddings"), "image_embeddings has 2 rows of a"),
        (change("images", 0, status="lost"), "image a: its status is 'lost'"),
        (change("images", 1, reason=None), "image b: it failed without a reason"),
        (change("images", 1, image_version="0"), "image b: it is at version 0, not 1"),
        (change("images", 1, status="deleted"), "image b: it is deleted, but the manifest has it"),
        (change("images", 2, status="tagged"), "image c: it was deleted, but is tagged"),
        (drop("image_tags", 0), "image a: its tags are not those that were staged"),
        (change("image_tags", 0, score=0.5), "image a: its tags are not those that were staged"),
        (change("image_tags", 0, label="lamp"), "image a: its tags are not those that were staged"),
        (
            change("image_tags", 0, image_id="b"),
            "image b: it is not tagged, but stands in image_ta",
        ),
        (change("image_tags", 0, taxonomy_version="u"), "image a: image_tags says another taxonom"),
        (drop("image_embeddings", 0), "image a: it is tagged without an embedding"),
        (change("image_embeddings", 0, image_id="c"), "image c: it is not tagged, but stands in i"),
        (change("image_embeddings", 0, model_version="n"), "image a: image_embeddings says anothe"),
        (change("image_embeddings", 0, embedding=[0.6, 0.9]), "image a: its embedding is not of l"),
        (change("image_embeddings", 0, embedding=[0.8, 0.6]), "image a: its embedding is not the "),
        (change("tagging_results", 0, run_id="other"), "image a: its tags are not those that were"),
        (change("tagging_runs", 1, state="staged"), "run r is staged, not published"),
        (change("tagging_runs", 1, run_id="q"), "run r is started, not published"),
    ],
)
def test_a_broken_promise_is_named(
    tmp_path: Path, breaking: Callable[[Rows], None], said: str
) -> None:
    rows = kept_promise()
    breaking(rows)
    tables = write_tables(tmp_path / "tables", rows)

    report = verify_run(tables, write_manifest(tmp_path), "r")

    assert any(sentence.startswith(said) for sentence in report.broken), report.broken


RUN = {"as_of": NIGHT, "run_seq": 4}


def standing(**columns: Any) -> dict[str, Any]:
    row = {"image_id": "a", "status": "tagged", "image_version": "1", "reason": None}
    return {**row, "as_of": NIGHT, "as_of_seq": 4, **columns}


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (standing(image_version="2", as_of=NIGHT + timedelta(days=1), as_of_seq=2), True),
        (standing(image_version="2", as_of_seq=5), True),
        (standing(image_version="2"), False),
        (standing(image_version="2", as_of=NIGHT - timedelta(days=1), as_of_seq=5), False),
        (standing(image_version="1", as_of=NIGHT - timedelta(days=1), as_of_seq=1), True),
        (standing(status="deleted", image_version=None, as_of_seq=5), True),
        (standing(status="erased", image_version=None, as_of_seq=1), True),
    ],
)
def test_another_version_is_right_only_where_it_is_newer(row: dict[str, Any], kept: bool) -> None:
    assert (check_images({"a": Wanted(version="1")}, [row], RUN) == []) is kept


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (
            standing(status="failed", reason="contradiction", image_version="contradiction:f0"),
            True,
        ),
        (standing(status="failed", reason="truncated", image_version="contradiction:f0"), False),
        (standing(status="tagged"), False),
    ],
)
def test_a_contradiction_has_to_end_as_one(row: dict[str, Any], kept: bool) -> None:
    wanted = {"a": Wanted(version=None, contradicted=True)}

    assert (check_images(wanted, [row], RUN) == []) is kept


def test_a_manifest_is_read_as_its_contract_says(tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "uri": "https://u:p@host/a.jpg?sig=1#x", "version": None},
        {"image_id": 1, "uri": "https://host/a.jpg?sig=2", "version": None},
        {"image_id": 2, "uri": "/a.jpg", "version": "5"},
        {"image_id": 2, "uri": "/b.jpg", "version": "5"},
        {"image_id": None, "uri": "/c.jpg", "version": "5"},
    ]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)

    assert read_wanted(path) == {
        "1": Wanted(version=hashlib.sha256(b"https://host/a.jpg").hexdigest()),
        "2": Wanted(version=None, contradicted=True),
    }


def test_content_and_text_are_part_of_the_version() -> None:
    row = {"version": None, "content": b"bytes", "uri": "/a.jpg", "title": None}
    nothing = hashlib.sha256(b"").hexdigest()

    assert version_of(row) == hashlib.sha256(b"bytes").hexdigest()
    assert version_of({**row, "version": "5"}, text="title") == f"5+{nothing}"


@pytest.mark.parametrize(
    ("uri", "cleaned"),
    [
        ("s3://key:secret@bucket/a b.jpg?x=1", "s3://bucket/a b.jpg"),
        ("https://host/a@b.jpg#part", "https://host/a@b.jpg"),
        ("/folder/what?.jpg", "/folder/what?.jpg"),
        (None, None),
    ],
)
def test_credentials_are_no_part_of_a_place(uri: str | None, cleaned: str | None) -> None:
    assert clean_uri(uri) == cleaned


def test_states_that_differ_in_the_time_of_tagging_alone_are_equal(tmp_path: Path) -> None:
    rows = kept_promise()
    one = read_state(write_tables(tmp_path / "one", rows))
    rows["images"][0]["tagged_at"] = NIGHT + timedelta(hours=1)
    rows["image_tags"][0]["score"] += 1e-6
    close = read_state(write_tables(tmp_path / "close", rows))
    rows["image_tags"][0]["score"] += 1e-3
    rows["images"][1]["reason"] = "corrupt"
    rows["image_embeddings"].clear()
    other = read_state(write_tables(tmp_path / "other", rows))

    assert find_differences(one, close) == []
    assert find_differences(one, other) == [
        "images b: another reason",
        "image_tags a, scene, bed: another score",
        "image_embeddings a: stands in one of them only",
    ]
