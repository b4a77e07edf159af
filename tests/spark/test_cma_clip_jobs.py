"""Jobs with a CMA-CLIP bundle: a manifest that lacks texts and images, and other thresholds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs import backfill_catalog, tag_nightly
from pipeline.synthetic import draw_photo
from pipeline.tables.store import TableSet
from pipeline.tagging.facts import Tagger
from pipeline.tagging.rescoring import find_rescorable
from pipeline.taxonomy import Taxonomy, parse_taxonomy, read_taxonomy
from udfs import worker

AS_OF = "2026-03-01T00:00:00Z"
LONG = "a room with a view of the sea and of the mountains, quiet, with two beds and a bath"
# A third has no text; two images are gone, one of them with a text.
TITLES: dict[str, str | None] = {
    "both-1": "a double room",
    "both-2": LONG,
    "both-3": "日本語 🏝️",
    "none-1": None,
    "none-2": "  ",
    "none-3": "",
    "gone-1": "a single room",
    "gone-2": "\u200b",
    "both-4": "pool",
}
SOURCES = {"both": "both", "none": "image", "gone-1": "text"}


class Catalogue:
    """Tables that jobs with a CMA-CLIP bundle work on."""

    def __init__(self, spark: SparkSession, folder: Path, capsys_of: Any) -> None:
        self.spark, self.folder = spark, folder
        self._capsys_of = capsys_of
        rows = []
        for number, (key, title) in enumerate(TITLES.items()):
            place = folder / f"{key}.jpg"
            if not key.startswith("gone"):
                place.write_bytes(draw_photo(64, 48, number))
            rows.append({"image_id": key, "uri": str(place), "version": "1", "title": title})
        pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")

    def run(self, job: Any, bundle: Path, *more: str, named: bool = True) -> dict[str, Any]:
        manifest = [
            f"--manifest.path={self.folder / 'manifest.parquet'}",
            "--manifest.columns.text=title",
        ]
        code = job.main(
            [
                f"--tables.location={self.folder / 'tables'}",
                f"--model.uri={bundle}",
                "--model.batch_size=2",
                "--log.progress=false",
                f"--as_of={AS_OF}",
                *(manifest if named else []),
                *more,
            ]
        )
        told = self._capsys_of()
        assert code == 0, told.err[-2000:]
        self.log = told.err
        summary: dict[str, Any] = json.loads(told.out.splitlines()[-1])
        return summary

    def rows(self, table: str) -> list[Any]:
        return self.spark.read.format("delta").load(str(self.folder / "tables" / table)).collect()

    def tags(self) -> dict[str, set[tuple[str, str, float, str]]]:
        found: dict[str, set[tuple[str, str, float, str]]] = {}
        for row in self.rows("image_tags"):
            tag = (row["task"], row["label"], round(row["score"], 5), row["source"])
            found.setdefault(row["image_id"], set()).add(tag)
        return found

    def facts(self, run_id: str) -> dict[str, Any]:
        facts = self.rows("tagging_results")
        return {row["image_id"]: row for row in facts if row["run_id"] == run_id}


@pytest.fixture
def catalogue(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Catalogue]:
    yield Catalogue(spark, tmp_path, capsys.readouterr)
    worker._engines.clear()


def expected_tags(facts: dict[str, Any], taxonomy: Taxonomy) -> dict[str, set[Any]]:
    """What staged scores come to under thresholds; of a single_label task its best label."""
    thresholds = {(task.id, label.id): label.threshold for task, label in taxonomy.labels}
    single = {task.id for task in taxonomy.tasks if task.kind == "single_label"}
    tags: dict[str, set[Any]] = {}
    for key, fact in facts.items():
        answered = set()
        for tag in fact["tags"] or []:
            if (
                tag["task"] not in answered
                and tag["score"] >= thresholds[tag["task"], tag["label"]]
            ):
                one = (tag["task"], tag["label"], round(tag["score"], 5), tag["source"])
                tags.setdefault(key, set()).add(one)
            answered |= {tag["task"]} & single
    return tags


def changed(taxonomy: Taxonomy, **changes: Any) -> Taxonomy:
    """The taxonomy with something else about each label."""
    data = taxonomy.to_dict()
    for task in data["tasks"]:
        for label in task["labels"]:
            label.update(changes)
    return parse_taxonomy(data)


def test_rows_without_text_or_image_are_tagged_by_what_they_have_and_other_thresholds_need_no_model(
    catalogue: Catalogue, tiny_cma_bundle: Path, tmp_path: Path
) -> None:
    from pipeline.models.bundle import read_bundle, write_with_taxonomy

    alone = "--model.tag_without_image=true"
    told = catalogue.run(tag_nightly, tiny_cma_bundle, "--run_id=night", alone)
    assert {name: told[name] for name in ("manifest_rows", "tagged", "failed", "text_cut")} == {
        "manifest_rows": 9,
        "tagged": 7,
        "failed": 2,
        "text_cut": 1,
    }
    images = {row["image_id"]: row for row in catalogue.rows("images")}
    facts = catalogue.facts("night")
    assert images.keys() == facts.keys() == TITLES.keys()
    for key, row in images.items():
        gone = key.startswith("gone")
        assert (row["status"], row["reason"]) == (
            ("failed", "not_found") if gone else ("tagged", None)
        )
        kind = SOURCES.get(key, SOURCES.get(key.split("-")[0]))
        tags = facts[key]["tags"] or []
        assert {tag["source"] for tag in tags} == ({kind} if kind else set())
        weights = facts[key]["modality_weights"]
        if kind is None:
            assert weights is None
        else:
            assert set(weights) == {"scene", "room"}
            for shares in weights.values():
                assert (shares["text"] == 0, shares["image"] == 0) == (
                    kind == "image",
                    kind == "text",
                )
    assert {key: fact["text_cut"] for key, fact in facts.items()} == {
        key: (title == LONG if title and title.strip("\u200b ") else None)
        for key, title in TITLES.items()
    }
    taxonomy = read_taxonomy(tiny_cma_bundle / "taxonomy.yaml")
    assert catalogue.tags() == expected_tags(facts, taxonomy)
    assert images["gone-1"]["model_version"] == told["model_version"]
    assert images["gone-2"]["model_version"] is None
    vectors = {row["image_id"] for row in catalogue.rows("image_embeddings")}
    assert vectors == {key for key in TITLES if not key.startswith("gone")}

    # Other thresholds, and nobody says where the images are: their bytes are not there any more.
    for key in TITLES:
        (catalogue.folder / f"{key}.jpg").unlink(missing_ok=True)
    thresholds = changed(taxonomy, threshold=0.02)
    bundle = read_bundle(tiny_cma_bundle)
    lower = write_with_taxonomy(tmp_path / "lower", bundle=bundle, taxonomy=thresholds).path
    filled = catalogue.run(backfill_catalog, lower, "--backfill_id=fill", named=False)
    assert (filled["rescored"], filled["tagged"], filled["state"]) == (7, 0, "published")
    assert "7 images differ in thresholds alone" in catalogue.log
    again = catalogue.facts("fill.0001")
    assert {fact["origin"] for fact in again.values()} == {"scores"}
    seen = {key: fact for key, fact in facts.items() if key in again}
    assert {
        key: tags for key, tags in catalogue.tags().items() if not key.startswith("gone")
    } == expected_tags(seen, thresholds)
    after = {row["image_id"]: row for row in catalogue.rows("images")}
    for key in again:
        assert after[key]["taxonomy_version"] == thresholds.version
        assert after[key]["tagged_at"] == images[key]["tagged_at"]

    # Names are no matter of thresholds; below a floor that once was, scores may be missing.
    tables = TableSet(catalogue.spark, str(catalogue.folder / "tables"))
    named, lowest = changed(taxonomy, name="another name"), changed(taxonomy, threshold=0.005)
    for other, found in (
        (taxonomy, {taxonomy.version, thresholds.version}),
        (changed(taxonomy, threshold=0.01), {taxonomy.version, thresholds.version}),
        (named, set()),
        (lowest, set()),
    ):
        tagger = Tagger(tag=no_model, model_version=told["model_version"], taxonomy=other)
        assert find_rescorable(tables, tagger) == found


def no_model(*_: Any) -> Any:
    raise AssertionError("nobody asks the model")
