"""Labelled manifests: what is read, what is left out, and what is refused."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from PIL import Image

from pipeline.config import DecodeConfig, FetchConfig, LabelledManifestConfig
from pipeline.errors import ConfigurationError, ManifestError
from pipeline.images.preprocess import Preprocessing
from pipeline.images.reasons import Reason
from pipeline.taxonomy import parse_taxonomy
from pipeline.training.data import LabelledImages, read_labelled
from pipeline.training.pixels import enlarge, make_pixel_set
from pipeline.training.splits import split_group

TAXONOMY = parse_taxonomy(
    {
        "tasks": [
            {"id": "scene", "kind": "multi_label", "labels": [{"id": "bed"}, {"id": "pool"}]},
            {"id": "view", "kind": "multi_label", "labels": [{"id": "sea"}]},
        ]
    }
)
STRINGS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "content": pa.binary(),
        "labels": STRINGS,
        "unknown": STRINGS,
        "split": pa.string(),
    }
)


def png(level: int, side: int = 12) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


def row(image_id: str, **columns: Any) -> dict[str, Any]:
    usual = {"uri": f"/photos/{image_id}.jpg", "labels": [], "unknown": [], "split": "train"}
    return {"image_id": image_id, **usual, **columns}


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=3)
    return str(path)


def read(path: str, **columns: Any) -> LabelledImages:
    return read_labelled(LabelledManifestConfig(path=path, **columns), TAXONOMY)


def test_labels_stand_in_the_order_of_the_taxonomy(tmp_path: Path) -> None:
    images = read(
        write(
            tmp_path / "m.parquet",
            [
                row("a", labels=["sea", "bed"]),
                row("b", labels=[], unknown=["pool"], split="validation"),
                row("c", labels=["pool", "sea"], unknown=["sea"], split="test"),
                row("d", labels=["pool"], unknown=None),
            ],
        )
    )
    assert images.ids == ("a", "b", "c", "d")
    assert images.targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert images.known.tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1]]
    assert images.indices("train").tolist() == [0, 3]
    assert images.indices("validation").tolist() == [1]
    assert images.indices("test").tolist() == [2]
    assert not images.left_out


def test_repeated_rows_count_once_and_contradictions_are_left_out(tmp_path: Path) -> None:
    images = read(
        write(
            tmp_path / "m.parquet",
            [
                row("a", labels=["bed", "pool"]),
                row("b", labels=["bed"]),
                row("a", labels=["pool", "bed"]),
                row("b", labels=["pool"]),
                row("c", uri=None),
                row("d", split="train"),
                row("d", split="test"),
                row("e", uri=None, content=b"x"),
            ],
        )
    )
    assert images.ids == ("a", "e")
    assert images.left_out == Counter({Reason.CONTRADICTION: 2, Reason.NO_SOURCE: 1})


def test_bytes_come_from_the_rows_of_their_images(tmp_path: Path) -> None:
    rows = [
        row(str(index), uri=None, content=png(index), split="test" if index % 3 else "train")
        for index in range(150)
    ]
    write(tmp_path / "parts" / "a.parquet", rows[:70])
    write(tmp_path / "parts" / "b.parquet", rows[70:])
    images = read(str(tmp_path / "parts"))
    requests = list(images.requests(images.indices("train")))
    assert [request.key for request in requests] == [str(index) for index in range(0, 150, 3)]
    assert [request.content for request in requests] == [png(i) for i in range(0, 150, 3)]


def test_columns_have_the_names_they_are_given(tmp_path: Path) -> None:
    schema = pa.schema(
        {"key": pa.int64(), "place": pa.string(), "tags": pa.large_list(pa.string())}
        | {"part": pa.string()}
    )
    rows = [{"key": 7, "place": "/a.jpg", "tags": ["sea"], "part": "train"}]
    images = read(
        write(tmp_path / "m.parquet", rows, schema),
        image_id="key",
        uri="place",
        labels="tags",
        split="part",
    )
    assert images.ids == ("7",)
    assert images.targets.tolist() == [[False, False, True]]
    [request] = images.requests([0])
    assert (request.key, request.uri, request.content) == ("7", "/a.jpg", None)


def test_a_manifest_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", [row("a"), row("b")])
    images = read(path)
    write(tmp_path / "m.parquet", [row("b"), row("a")])
    with pytest.raises(ManifestError, match="changed while it was read"):
        list(images.requests([0, 1]))
    write(tmp_path / "m.parquet", [row("a")])
    with pytest.raises(ManifestError, match="changed while it was read"):
        list(images.requests([0, 1]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", labels=["bed", "sauna"])], "column labels has 1 labels .* got .'sauna'."),
        ([row("a", unknown=["x"])], "column unknown has 1 labels"),
        ([row("a"), row("b", labels=None)], r"1 rows have no labels .* rows \[1\]"),
        ([row("a"), row("")], r"1 rows have no image_id .* rows \[1\]"),
        ([row("a", split=None)], "1 rows have no split"),
        ([row("a", split="dev")], "unknown splits .* expected train, validation, test; got .'dev'"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        read(write(tmp_path / "m.parquet", rows))
    assert "m.parquet" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "no column labels for labels"),
        ({"labels": pa.string()}, "column labels .* wrong type .* array of strings; got string"),
        ({"image_id": pa.float64()}, "column image_id .* wrong type"),
        ({"content": pa.string()}, "column content .* wrong type .* binary"),
        ({"uri": None, "content": None}, "neither a uri nor a content column"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    kinds = {name: SCHEMA.field(name).type for name in SCHEMA.names} | change
    schema = pa.schema({name: kind for name, kind in kinds.items() if kind is not None})
    with pytest.raises(ManifestError, match=message):
        read(write(tmp_path / "m.parquet", [], schema))


def test_a_missing_or_foreign_manifest_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        read(str(tmp_path / "nowhere.parquet"))
    (tmp_path / "m.parquet").write_text("no parquet")
    with pytest.raises(ManifestError, match="cannot be read"):
        read(str(tmp_path / "m.parquet"))


def test_unreadable_images_are_left_out_and_their_neighbours_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(
        tmp_path / "m.parquet",
        [
            row("a", uri=None, content=png(10), labels=["bed"]),
            row("b", uri=None, content=b"no image", labels=["pool"]),
            row("c", uri=str(tmp_path / "missing.png"), labels=["pool"]),
            row("d", uri=None, content=png(40), labels=["sea"], unknown=["bed"]),
        ],
    )
    preprocessing = enlarge(Preprocessing(size=(16, 8)))
    assert (preprocessing.height, preprocessing.width) == (18, 9)
    pixels = make_pixel_set(
        read(path),
        "train",
        preprocessing=preprocessing,
        fetch=FetchConfig(attempts=1),
        decode=DecodeConfig(threads=1),
        folder=tmp_path,
    )
    assert pixels.ids == ("a", "d")
    assert pixels.pixels.shape == (2, 18, 9, 3)
    assert pixels.pixels[:, 5, 5, 0].tolist() == [10, 40]
    assert pixels.targets.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert pixels.known.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert pixels.left_out == Counter({Reason.NOT_AN_IMAGE: 1, Reason.NOT_FOUND: 1})
    assert "2 of 4 train images left out: 1 not_an_image, 1 not_found" in caplog.text
    batch, targets, known = pixels.batch(np.array([1, 0]))
    assert batch[:, 5, 5, 0].tolist() == [40, 10]
    assert targets.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert known.tolist() == [[False, True, True], [True, True, True]]


def test_a_split_without_images_is_an_empty_set(tmp_path: Path) -> None:
    pixels = make_pixel_set(
        read(write(tmp_path / "m.parquet", [row("a", content=png(1))])),
        "validation",
        preprocessing=Preprocessing(size=16),
        fetch=FetchConfig(),
        decode=DecodeConfig(),
        folder=tmp_path,
    )
    assert len(pixels) == 0


# --- groups


GROUPED = pa.schema(
    [SCHEMA.field(n) for n in ("image_id", "uri", "labels")] + [("group", pa.int64())]
)


def grouped(count: int) -> list[dict[str, Any]]:
    return [
        {"image_id": str(n), "uri": "/a.jpg", "labels": [], "group": n // 3} for n in range(count)
    ]


def test_a_group_is_never_torn_apart_and_shares_are_kept(tmp_path: Path) -> None:
    images = read(write(tmp_path / "m.parquet", grouped(3000), GROUPED))
    splits = images.splits.reshape(1000, 3)
    assert (splits == splits[:, :1]).all()
    counts = Counter(splits[:, 0].tolist())
    assert counts["validation"] == pytest.approx(100, abs=30)
    assert counts["test"] == pytest.approx(100, abs=30)


def test_a_groups_split_does_not_depend_on_the_rest_of_the_manifest(tmp_path: Path) -> None:
    all_of_them = read(write(tmp_path / "a.parquet", grouped(300), GROUPED))
    some = read(write(tmp_path / "b.parquet", grouped(300)[150:][::-1], GROUPED))
    split_of = dict(zip(all_of_them.ids, all_of_them.splits.tolist(), strict=True))
    assert {i: split_of[i] for i in some.ids} == dict(
        zip(some.ids, some.splits.tolist(), strict=True)
    )
    # Written down: another hash would move images that a model was tested on into its training.
    splits = [split_group(str(n), validation=0.1, test=0.1) for n in range(12)]
    assert splits == [*["train"] * 8, "validation", "test", "train", "train"]


def test_a_larger_test_share_lets_no_group_go() -> None:
    groups = [str(n) for n in range(300)]
    smaller, larger = (
        {g for g in groups if split_group(g, validation=0.1, test=share) == "test"}
        for share in (0.1, 0.3)
    )
    assert smaller < larger


def test_a_split_column_stands_unless_a_group_is_named(tmp_path: Path) -> None:
    schema = pa.schema([*GROUPED, ("split", pa.string())])
    rows = [r | {"split": "test"} for r in grouped(30)]
    path = write(tmp_path / "m.parquet", rows, schema)
    assert set(read(path).splits.tolist()) == {"test"}
    by_group = read(path, group="group").splits.tolist()
    assert by_group == [split_group(str(n // 3), validation=0.1, test=0.1) for n in range(30)]


def test_one_image_of_two_groups_is_a_contradiction(tmp_path: Path) -> None:
    rows = grouped(3)
    images = read(write(tmp_path / "m.parquet", [*rows, rows[1] | {"group": 9}], GROUPED))
    assert images.ids == ("0", "2")
    assert images.left_out == Counter({Reason.CONTRADICTION: 1})


def test_groups_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    rows = grouped(3)
    rows[1]["group"] = None
    with pytest.raises(ManifestError, match=r"1 rows have no group .* rows \[1\]"):
        read(write(tmp_path / "m.parquet", rows, GROUPED))
    path = write(tmp_path / "m.parquet", grouped(3), GROUPED)
    with pytest.raises(ManifestError, match="no column hotel for group"):
        read(path, group="hotel")
    with pytest.raises(ConfigurationError, match="no group to train on"):
        read(path, validation_share=0.6, test_share=0.4)


ATTRIBUTED = parse_taxonomy(
    {
        "tasks": [
            {"id": "scene", "kind": "multi_label", "labels": [{"id": "bed"}, {"id": "sea"}]},
            {"id": "view", "kind": "single_label", "labels": [{"id": "sea"}, {"id": "city"}]},
        ]
    }
)
ATTRIBUTED_SCHEMA = SCHEMA.append(pa.field("attributes", pa.map_(pa.string(), pa.string()))).append(
    pa.field("title", pa.string())
)


def read_attributed(path: Path, rows: list[dict[str, Any]], **columns: Any) -> LabelledImages:
    manifest = write(path, rows, ATTRIBUTED_SCHEMA)
    return read_labelled(LabelledManifestConfig(path=manifest, **columns), ATTRIBUTED)


def test_attributes_are_the_labels_of_tasks_with_one_label(tmp_path: Path) -> None:
    images = read_attributed(
        tmp_path / "m.parquet",
        [
            row("a", labels=["bed"], attributes=[("view", "city"), ("floor", "wood")]),
            row("b", labels=["sea"], attributes=[]),
            row("c", labels=["sea"], attributes=[("view", "city")]),
            row("d", attributes=None),
            row("e", unknown=["bed"], attributes=[("view", None)]),
        ],
    )
    assert images.targets.tolist() == [
        [1, 0, 0, 1],
        [0, 1, 1, 0],  # among the labels, under an id that two tasks have
        [0, 1, 0, 1],  # the attribute stands above it
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert images.known.tolist() == [
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 0, 0],
        [0, 1, 0, 0],
    ]


def test_an_attribute_that_is_no_label_of_its_task_is_refused(tmp_path: Path) -> None:
    rows = [row("a", attributes=[("view", "bed")])]
    with pytest.raises(ManifestError, match=r"attribute view has 1 values .*got \['bed'\]"):
        read_attributed(tmp_path / "m.parquet", rows)
    with pytest.raises(ManifestError, match="wrong type"):
        read_attributed(tmp_path / "n.parquet", rows, attributes="title")


def test_titles_travel_with_their_images(tmp_path: Path) -> None:
    rows = [
        row("a", title="one", split="test"),
        row("b", title=None, split="test"),
        row("c", title="x"),
        row("c", title="y"),
        row("d", title="four", split="test"),
    ]
    images = read_attributed(tmp_path / "m.parquet", rows, text="title")
    assert images.ids == ("a", "b", "d")  # a title more or less is another row
    assert images.texts == ("one", None, "four")
    requests = images.requests(images.indices("test"))
    assert [request.text for request in requests] == ["one", None, "four"]
    without = read_attributed(tmp_path / "m.parquet", rows)
    assert without.texts == (None,) * 4
