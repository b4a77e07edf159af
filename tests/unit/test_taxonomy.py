"""The taxonomy file: defaults, versions, and one clear line for every mistake."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import TaxonomyError
from pipeline.taxonomy import Taxonomy, parse_taxonomy, read_taxonomy, write_taxonomy

DATA: dict[str, Any] = {
    "tasks": [
        {
            "id": "scene",
            "kind": "multi_label",
            "threshold": 0.4,
            "templates": ["a photo of a {}.", "{} at a hotel"],
            "labels": [
                {"id": "pool", "name": "swimming pool", "threshold": 0.7},
                {"id": "sea_view", "texts": ["waves", "the {} from a balcony"]},
            ],
        },
        {"id": "room", "kind": "single_label", "labels": [{"id": "double"}]},
    ]
}


def changed(*path: str | int, value: Any) -> dict[str, Any]:
    """DATA with one value replaced."""
    data = copy.deepcopy(DATA)
    place: Any = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return data


def test_templates_texts_names_and_thresholds_have_their_defaults() -> None:
    (_, pool), (_, sea), (room, double) = parse_taxonomy(DATA).labels
    assert pool.texts == ("a photo of a swimming pool.", "swimming pool at a hotel")
    assert pool.threshold == 0.7
    assert sea.name == "sea view"
    assert sea.texts == ("waves", "the sea view from a balcony")
    assert sea.threshold == 0.4
    assert (room.kind, double.threshold) == ("single_label", 0.5)
    assert double.texts == ("a photo of a double.",)


def test_a_name_with_braces_is_filled_in_as_it_is() -> None:
    label = parse_taxonomy(changed("tasks", 0, "labels", 0, "name", value="{x} {}")).labels[0][1]
    assert label.texts[0] == "a photo of a {x} {}."


def test_writing_and_reading_gives_an_equal_taxonomy(tmp_path: Path) -> None:
    taxonomy = parse_taxonomy(changed("tasks", 0, "labels", 0, "name", value="Übergröße: 'x'"))
    write_taxonomy(taxonomy, tmp_path / "t.yaml")
    again = read_taxonomy(tmp_path / "t.yaml")
    assert again == taxonomy
    assert again.version == taxonomy.version


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tasks", 0, "id"), "scenes"),
        (("tasks", 0, "kind"), "single_label"),
        (("tasks", 0, "threshold"), 0.41),
        (("tasks", 0, "templates"), ["a {}"]),
        (("tasks", 0, "labels", 0, "id"), "pools"),
        (("tasks", 0, "labels", 0, "name"), "pool"),
        (("tasks", 0, "labels", 0, "threshold"), 0.71),
        (("tasks", 0, "labels", 1, "texts"), ["waves"]),
    ],
)
def test_the_version_changes_with_all_that_is_said(path: tuple[str | int, ...], value: Any) -> None:
    assert parse_taxonomy(changed(*path, value=value)).version != parse_taxonomy(DATA).version


def test_the_version_ignores_how_it_is_said() -> None:
    spelled_out = changed("tasks", 1, "labels", 0, value={"id": "double", "name": "double"})
    spelled_out["tasks"][1]["templates"] = ["a photo of a {}."]
    assert parse_taxonomy(spelled_out).version == parse_taxonomy(DATA).version
    assert len(parse_taxonomy(DATA).version) == 12


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], ["not a mapping", "list"]),
        ({}, ["tasks", "at least one"]),
        ({"tasks": []}, ["tasks", "at least one"]),
        ({"tasks": [1]}, ["task 1", "not a mapping"]),
        ({**DATA, "task": []}, ["unknown key", "'task'"]),
        (changed("tasks", 0, "kind", value="many"), ["task 1 (scene)", "kind", "'many'"]),
        (changed("tasks", 1, "id", value="scene"), ["task ids must be unique", "scene"]),
        (changed("tasks", 0, "id", value=None), ["task 1, id", "None"]),
        (changed("tasks", 0, "labels", value=[]), ["task 1 (scene)", "labels", "at least one"]),
        (changed("tasks", 0, "labels", 1, "id", value="pool"), ["label ids", "unique", "pool"]),
        (changed("tasks", 0, "labels", 1, "id", value=True), ["label 2, id", "quote"]),
        (changed("tasks", 0, "labels", 1, "id", value="a\tb"), ["label 2", "printable"]),
        (changed("tasks", 0, "labels", 1, "id", value="x" * 201), ["label 2", "200"]),
        (changed("tasks", 0, "labels", 1, "txt", value="x"), ["label 2", "unknown key", "txt"]),
        (changed("tasks", 0, "labels", 1, "texts", value=[]), ["label 2", "at least one"]),
        (changed("tasks", 0, "labels", 1, "texts", value="waves"), ["label 2", "lists"]),
        (changed("tasks", 0, "labels", 1, "texts", value=["x", " "]), ["text 2", "blank"]),
        (changed("tasks", 0, "labels", 1, "name", value=3), ["label 2 (sea_view), name", "3"]),
        (changed("tasks", 0, "labels", 0, "threshold", value=1.01), ["label 1", "0 to 1", "1.01"]),
        (changed("tasks", 0, "threshold", value=float("nan")), ["task 1 (scene)", "nan"]),
        (changed("tasks", 0, "threshold", value="0.5"), ["task 1 (scene)", "threshold"]),
        (changed("tasks", 0, "threshold", value=True), ["task 1 (scene)", "threshold"]),
        (changed("tasks", 0, "threshold", value=10**400), ["task 1 (scene)", "0 to 1"]),
        (changed("tasks", 0, "threshold", value=16**5000), ["task 1 (scene)", "too long"]),
        (changed("tasks", 0, "labels", 1, "name", value="\ud800"), ["label 2", "no character"]),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(data: object, words: list[str]) -> None:
    with pytest.raises(TaxonomyError) as caught:
        parse_taxonomy(data, where="t.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for word in ["t.yaml", *words]:
        assert word in message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"tasks: [", "not valid YAML"),
        (b"tasks: []\ntasks: []\n", "twice"),
        (b"tasks: 2026-13-01", "not valid YAML"),
        (b"tasks: !!int x", "not valid YAML"),
        (b"tasks: !!bool x", "not valid YAML"),
        (b"tasks: " + b"[" * 5000, "not valid YAML"),
        (b"tasks: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"\xff\xfe\xfa", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, word: str
) -> None:
    path = tmp_path / "t.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaxonomyError, match=word) as caught:
        read_taxonomy(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_small_file_of_aliases_makes_no_large_error(tmp_path: Path) -> None:
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = tmp_path / "laughs.yaml"
    path.write_text("\n".join(lines) + "\ntasks: [{id: t, kind: *a11, labels: *a11}]\n")
    with pytest.raises(TaxonomyError) as caught:
        read_taxonomy(path)
    assert len(str(caught.value)) < 2000
    with pytest.raises(TaxonomyError) as caught:
        parse_taxonomy({"tasks": [{"id": "t", "kind": yaml.safe_load("\n".join(lines))["a11"]}]})
    assert len(str(caught.value)) < 2000


def test_thresholds_move_one_by_one() -> None:
    taxonomy: Taxonomy = parse_taxonomy(DATA)
    moved = taxonomy.with_thresholds({("scene", "pool"): 0.2})
    assert [label.threshold for _, label in moved.labels] == [0.2, 0.4, 0.5]
    assert moved.version != taxonomy.version
    assert moved.with_thresholds({("scene", "pool"): 0.7}) == taxonomy


@pytest.mark.parametrize("thresholds", [{("scene", "none"): 0.5}, {("scene", "pool"): 1.5}])
def test_thresholds_of_unknown_labels_or_out_of_range_are_refused(
    thresholds: dict[tuple[str, str], float],
) -> None:
    with pytest.raises(TaxonomyError):
        parse_taxonomy(DATA).with_thresholds(thresholds)
