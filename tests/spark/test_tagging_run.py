"""Nights over one table set with a fake model: what a run promises, read back without Spark."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from deltalake import DeltaTable
from fake_catalogue import DAY_1, PUBLISHED, Catalogue, row
from fake_model import calls_of, make_tagger, with_thresholds
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.types import BinaryType, StringType, StructField, StructType

import pipeline.tagging.publish as publishing
from pipeline.config import LeaseConfig, StageConfig
from pipeline.errors import ConfigurationError, LeaseError, RunConflictError, SchemaVersionError
from pipeline.tables.create import create_table
from pipeline.tables.lease import hold_lease
from pipeline.tables.ledger import Ledger
from pipeline.tables.schemas import IMAGE_TAGS, IMAGES, LABELS, TABLES
from pipeline.tables.store import TableSet
from pipeline.tagging.estimate import estimate_run
from pipeline.tagging.manifest import canonical_rows, unique_rows
from pipeline.tagging.run import run_tagging

UNICODE = "naïve/ключ 🛏️ %41"

NIGHT_1 = [
    *(row(key) for key in "abcdef"),
    row(UNICODE, "https://cdn.example.com/ok/7.jpg?token=secret#x"),
    row("nearly", "//me:secret@cdn.example.com/bad/corrupt/8.jpg?token=\nsecret"),
    row("twice"),
    row("twice"),
    row("torn", "/ok/one.jpg"),
    row("torn", "/ok/two.jpg", "2"),
    row("broken", "/bad/corrupt/1.jpg"),
    row("late", "/bad/not_found/1.jpg"),
]
NIGHT_2 = [
    row("a", version="2"),
    row("b", deleted=True),
    row("c", "/bad/corrupt/c.jpg", "2"),
    *(row(key) for key in "def"),
    row("late"),
    row("new"),
    row("broken", "/bad/corrupt/1.jpg"),
    row("unheard-of", deleted=True),
]


@pytest.fixture(scope="module")
def nights(spark, tmp_path_factory) -> Catalogue:
    """Two nights published; tests of this module go on from there, or look at it."""
    catalogue = Catalogue(spark, tmp_path_factory.mktemp("nights"))
    first, second = catalogue.manifest("n1", NIGHT_1), catalogue.manifest("n2", NIGHT_2)
    catalogue.summaries = [catalogue.run(first, "night-1", DAY_1)]
    catalogue.after_first = catalogue.images()
    catalogue.published_first = {name: catalogue.rows(name) for name in PUBLISHED}
    catalogue.assert_consistent()
    catalogue.summaries.append(catalogue.run(second, "night-2", DAY_1 + timedelta(days=1)))
    return catalogue


def test_every_row_has_one_outcome(nights):
    images = nights.after_first
    assert images.keys() == {r["image_id"] for r in NIGHT_1}
    failed = {key: r["reason"] for key, r in images.items() if r["status"] == "failed"}
    assert failed == {
        "torn": "contradiction",
        "broken": "corrupt",
        "late": "not_found",
        "nearly": "corrupt",
    }
    assert {r["source"] for r in images.values()} == {"hotels"}
    summary = nights.summaries[0]
    assert (summary["manifest_rows"], summary["tagged"], summary["failed"]) == (12, 8, 4)
    assert summary["tags_published"] == len(nights.published_first["image_tags"])
    assert summary["state"] == "published"


def test_secrets_of_uris_reach_no_table(nights):
    assert nights.after_first[UNICODE]["uri"] == "https://cdn.example.com/ok/7.jpg"
    assert nights.after_first["nearly"]["uri"] == "//cdn.example.com/bad/corrupt/8.jpg"
    for table in TABLES:
        assert "secret" not in str(nights.rows(table.name))


def test_the_second_night_tags_only_what_is_new_changed_or_due(nights):
    nights.assert_consistent()
    images, calls = nights.images(), calls_of(nights.calls)
    assert images.keys() == {*nights.after_first, "new", "unheard-of"}
    assert {key: images[key]["status"] for key in ("b", "unheard-of", "c", "late", "a")} == {
        "b": "deleted",
        "unheard-of": "deleted",
        "c": "failed",
        "late": "tagged",
        "a": "tagged",
    }
    assert images["late"]["reason"] is None
    assert {key for key, count in calls.items() if count == 2} == {"a", "c", "late"}
    assert {key for key, count in calls.items() if count > 2} == set()
    assert "b" not in {tag["image_id"] for tag in nights.rows("image_tags")}
    assert images["d"] == nights.after_first["d"]
    second = nights.summaries[1]
    assert (second["tagged"], second["failed"], second["deleted"]) == (3, 1, 2)
    assert second["skipped"] == 4  # d, e, f, and broken, which no retry can help


def test_published_tags_are_the_staged_scores_above_their_thresholds(nights):
    taxonomy = make_tagger(nights.calls).taxonomy
    limits = {(task.id, label.id): label.threshold for task, label in taxonomy.labels}
    images = nights.images()
    expected = set()
    for fact in nights.rows("tagging_results"):
        if images[fact["image_id"]]["run_id"] != fact["run_id"] or not fact["tags"]:
            continue
        rooms = [tag["score"] for tag in fact["tags"] if tag["task"] == "room"]
        for tag in fact["tags"]:
            best = tag["task"] != "room" or tag["score"] == max(rooms)
            if tag["score"] >= limits[tag["task"], tag["label"]] and best:
                expected.add((fact["image_id"], tag["task"], tag["label"], tag["score"]))
    published = [
        (t["image_id"], t["task"], t["label"], t["score"]) for t in nights.rows("image_tags")
    ]
    assert len(published) == len(set(published))
    assert set(published) == expected


def test_a_repeated_delivery_calls_no_model(nights):
    before, calls = nights.images(), calls_of(nights.calls)
    again = nights.manifest("n3", NIGHT_2 + NIGHT_2)
    summary = nights.run(again, "night-3", DAY_1 + timedelta(days=1, hours=1))
    assert (summary["tagged"], summary["failed"], summary["skipped"]) == (0, 0, 10)
    assert calls_of(nights.calls) == calls
    assert nights.images() == before


def test_a_finished_run_started_again_changes_nothing(nights):
    before = nights.versions()
    second = nights.manifest("n2-again", NIGHT_2)
    summary = nights.run(second, "night-2", DAY_1 + timedelta(days=1))
    assert summary == nights.summaries[1]
    assert nights.versions() == before


def test_a_run_id_of_another_manifest_or_model_is_refused(nights):
    other = nights.manifest("other", [row("a", version="9")])
    with pytest.raises(RunConflictError, match="another manifest"):
        nights.run(other, "night-2", DAY_1 + timedelta(days=1))
    second = nights.manifest("n2-third", NIGHT_2)
    with pytest.raises(RunConflictError, match="another model"):
        nights.run(second, "night-2", DAY_1 + timedelta(days=1), model="fake-2")


def test_two_pictures_under_one_version_contradict_each_other(spark):
    schema = StructType(
        [StructField("image_id", StringType()), StructField("content", BinaryType())]
    )
    raw = spark.createDataFrame([("a", b"1"), ("a", b"2"), ("b", b"1"), ("b", b"1")], schema)
    raw = raw.withColumn("version", F.lit("1"))
    columns = {name: name for name in raw.columns}
    rows = {row["image_id"]: row for row in unique_rows(canonical_rows(raw, columns)).collect()}
    assert {key: row["contradicted"] for key, row in rows.items()} == {"a": True, "b": False}


def test_a_dry_run_counts_and_writes_nothing(nights):
    before = nights.versions()
    manifest = nights.manifest("dry", [*NIGHT_2, row("x1"), row("x2")])
    request = nights.request(manifest, "dry", DAY_1 + timedelta(days=1, hours=2))
    told = estimate_run(nights.spark, request, make_tagger(nights.calls))
    assert (told["to_tag"], told["skipped"], told["state"]) == (2, 10, "dry_run")
    assert told["estimated_seconds"] > 0  # from the speed of the nights before
    assert nights.versions() == before


def test_force_tags_the_listed_images_again_and_limit_takes_some(nights):
    calls = calls_of(nights.calls)
    manifest = nights.manifest("forced", NIGHT_2)
    as_of = DAY_1 + timedelta(days=1, hours=3)
    summary = nights.run(manifest, "forced", as_of, force=True, ids=("d", "e", "f"), limit=2)
    assert (summary["tagged"], summary["reused"]) == (2, 0)
    again = calls_of(nights.calls) - calls
    assert sum(again.values()) == 2
    assert set(again) < {"d", "e", "f"}
    nights.assert_consistent()


@pytest.fixture(scope="module")
def late(nights) -> dict:
    """A stale manifest: one run of it never came to publish, another ran to its end."""
    torn = [row("torn then", "/ok/one.jpg"), row("torn then", "/ok/two.jpg", "2")]
    rows = [row("a"), row("b"), row("only-then"), row("bad", "/bad/corrupt/x.jpg"), *torn]
    manifest = nights.manifest("stale", rows)
    as_of = DAY_1 + timedelta(hours=1)
    told = {"before": nights.images(), "tags": nights.rows("image_tags")}
    with (
        hold_lease(TableSet(nights.spark, nights.location), "somebody", LeaseConfig(wait_s=0)),
        pytest.raises(LeaseError, match="somebody"),
    ):
        nights.run(manifest, "abandoned", as_of, lease=LeaseConfig(wait_s=0))
    calls = calls_of(nights.calls)
    request = nights.request(manifest, "stale", as_of)
    told["estimate"] = estimate_run(nights.spark, request, make_tagger(nights.calls))
    told["summary"] = nights.run(manifest, "stale", as_of)
    told["calls"] = calls_of(nights.calls) - calls
    return told


def test_a_stale_manifest_published_late_replaces_nothing_newer(nights, late):
    assert late["summary"]["superseded"] == 2
    after = nights.images()
    new = {key: after.pop(key)["status"] for key in ("only-then", "bad", "torn then")}
    assert new == {"only-then": "tagged", "bad": "failed", "torn then": "failed"}
    assert after == late["before"]
    tags = [tag for tag in nights.rows("image_tags") if tag["image_id"] != "only-then"]
    assert tags == late["tags"]
    nights.assert_consistent()


def test_facts_of_a_run_that_never_finished_are_reused(late):
    told = late["estimate"]
    assert (told["to_reuse"], told["to_tag"], told["to_fail"]) == (1, 1, 1)
    assert told["superseded"] == 2
    summary = late["summary"]
    # Failed facts are not taken from another run: that image is tried again.
    assert (summary["reused"], summary["tagged"], summary["failed"]) == (1, 0, 2)
    assert set(late["calls"]) == {"bad"}


@pytest.fixture
def fresh(spark, tmp_path) -> Catalogue:
    return Catalogue(spark, tmp_path)


class Killed(Exception):  # noqa: N818
    """What a test kills a run with."""


def dying_before(table):
    merge = publishing.merge_rows

    def merge_rows(tables, other, *args, **kwargs):
        if other is table:
            raise Killed
        return merge(tables, other, *args, **kwargs)

    return merge_rows


def test_a_run_cut_off_anywhere_ends_as_an_undisturbed_one(nights, fresh, monkeypatch):
    manifest = fresh.manifest("m", NIGHT_1)
    small = StageConfig(chunk_rows=3)
    append = TableSet.append

    def die_after_two_chunks(self, name, rows, *, commit_note, **options):
        append(self, name, rows, commit_note=commit_note, **options)
        if "chunk 2" in commit_note:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TableSet, "append", die_after_two_chunks)
        with pytest.raises(Killed):
            fresh.run(manifest, "night-1", DAY_1, stage=small)
    assert not fresh.images()
    assert fresh.rows("tagging_runs")[-1]["detail"] in (None, "Killed:")
    assert {change["state"] for change in fresh.rows("tagging_runs")} == {"started", "failed"}
    # A task that everybody took for dead staged its facts as well.
    tables = TableSet(fresh.spark, fresh.location)
    tables.append("tagging_results", tables.read("tagging_results"), commit_note="zombie")
    for table in (IMAGE_TAGS, IMAGES):
        with monkeypatch.context() as patched:
            patched.setattr(publishing, "merge_rows", dying_before(table))
            with pytest.raises(Killed):
                fresh.run(manifest, "night-1", DAY_1, stage=small)
        assert not fresh.images()
    told = {}

    def die_before_published(ledger, run, state, *, counts, **_told):
        assert state == "published"
        told.update(counts)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "advance", die_before_published)
        with pytest.raises(Killed):
            fresh.run(manifest, "night-1", DAY_1, stage=small)
    assert fresh.images()
    # The tags were there from the attempt before; they count all the same.
    assert told["tags_published"] == nights.summaries[0]["tags_published"] > 0

    # Another run finishes what was cut off before it publishes its own.
    empty = fresh.manifest("empty", [])
    summary = fresh.run(empty, "next", DAY_1)
    assert (summary["manifest_rows"], summary["state"]) == (0, "published")
    assert set(calls_of(fresh.calls).values()) == {1}
    for name in PUBLISHED:
        assert normalised(fresh.rows(name)) == normalised(nights.published_first[name])
    summary = fresh.run(manifest, "night-1", DAY_1)
    speed = ("seconds", "images_per_s", "cost")
    assert {key: summary[key] for key in summary if key not in speed} == {
        key: nights.summaries[0][key] for key in summary if key not in speed
    }


def test_what_is_staged_while_a_run_is_published_is_not_published(fresh, monkeypatch):
    count_fates = publishing.count_fates

    def while_a_zombie_stages(winners):
        tables = TableSet(fresh.spark, fresh.location)
        facts = tables.read("tagging_results").where("status = 'tagged'").limit(1)
        ghost = facts.withColumn("image_id", F.lit("ghost"))
        tables.append("tagging_results", ghost, commit_note="zombie")
        return count_fates(winners)

    monkeypatch.setattr(publishing, "count_fates", while_a_zombie_stages)
    fresh.run(fresh.manifest("m", NIGHT_1[:2]), "night-1", DAY_1)
    assert "ghost" in {row["image_id"] for row in fresh.rows("tagging_results")}
    for name in PUBLISHED:
        assert {row["image_id"] for row in fresh.rows(name)} == {"a", "b"}, name


def normalised(rows: list[dict]) -> list[str]:
    return sorted(str({k: v for k, v in r.items() if k != "tagged_at"}) for r in rows)


def test_tables_of_another_schema_version_and_low_thresholds_are_refused(fresh, monkeypatch):
    manifest = fresh.manifest("m", NIGHT_1)
    tagger = replace(make_tagger(fresh.calls), taxonomy=with_thresholds(0.001))
    with pytest.raises(ConfigurationError, match="below the floor"):
        run_tagging(fresh.spark, fresh.request(manifest, "r", DAY_1), tagger)
    monkeypatch.setattr("pipeline.tables.create.SCHEMA_VERSION", 99)
    create_table(TableSet(fresh.spark, fresh.location), IMAGES)
    monkeypatch.undo()
    with pytest.raises(SchemaVersionError, match="newer"):
        fresh.run(manifest, "r", DAY_1)


def test_a_table_whose_creation_was_killed_is_created(spark, tmp_path):
    half_made = tmp_path / "tables" / "labels" / "_delta_log"
    half_made.mkdir(parents=True)
    (half_made / f".{0:020}.json.3f.tmp").write_text("{}")
    create_table(TableSet(spark, str(tmp_path / "tables")), LABELS)
    assert DeltaTable(str(tmp_path / "tables" / "labels")).version() == 0
