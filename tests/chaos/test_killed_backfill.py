"""A catalogue brought to another model by a backfill that is stopped and killed on its way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fake_backfill import NIGHT, TAGGED, backfill, expected_tags, published_tags
from fake_catalogue import DAY_1, Catalogue
from fake_model import calls_of

import pipeline.tagging.publish as publishing
from pipeline.config import PaceConfig
from pipeline.tables.schemas import IMAGES


@pytest.fixture(scope="module")
def night(spark, tmp_path_factory) -> Catalogue:
    catalogue = Catalogue(spark, tmp_path_factory.mktemp("backfill"))
    catalogue.run(catalogue.manifest("n1", NIGHT), "night-1", DAY_1)
    catalogue.calls_of_nights = calls_of(catalogue.calls)
    return catalogue


@pytest.fixture(scope="module")
def moved(night) -> Catalogue:
    """Another model: stopped by its window, killed in its second run, then brought to its end."""
    opens = datetime(2026, 3, 9, 22, tzinfo=UTC)
    clock = iter([opens] * 3 + [opens + timedelta(hours=9)] * 99)
    window = PaceConfig(window="22:00-06:00")
    night.paused = backfill(night, "model-2", model="fake-2", pace=window, now=lambda: next(clock))
    merge = publishing.merge_rows

    def die_before_images(tables, table, *args, **kwargs):
        if table is IMAGES:
            raise KeyboardInterrupt
        return merge(tables, table, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publishing, "merge_rows", die_before_images)
        with pytest.raises(KeyboardInterrupt):
            backfill(night, "model-2", model="fake-2")
    night.moved = backfill(night, "model-2", model="fake-2")
    return night


def test_a_backfill_stops_with_its_window_and_publishes_what_is_staged(moved):
    assert (moved.paused["state"], moved.paused["runs"]) == ("paused", 1)
    assert 0 < moved.paused["tagged"] + moved.paused["failed"] < 9
    assert moved.paused["remaining"] == 9 - moved.paused["tagged"] - moved.paused["failed"]


def test_a_backfill_killed_and_started_again_ends_without_tagging_twice(moved):
    assert (moved.moved["state"], moved.moved["remaining"]) == ("published", 0)
    images = moved.images()
    assert {images[key]["model_version"] for key in TAGGED} == {"fake-2"}
    assert {key: images[key]["failed_model_version"] for key in ("late", "broken", "signed")} == {
        "late": "fake-2",
        "broken": "fake-2",
        "signed": "fake-1",  # its place is not known any more
    }
    assert moved.moved["unreachable"] == 1
    tried = calls_of(moved.calls) - moved.calls_of_nights
    assert tried == dict.fromkeys([*TAGGED, "late", "broken"], 1)
    for key, tags in published_tags(moved).items():
        assert tags == expected_tags(key, model="fake-2")
    moved.assert_consistent()


def test_a_backfill_at_its_end_starts_no_run(moved):
    before = moved.versions()
    again = backfill(moved, "model-2", model="fake-2")
    assert moved.versions() == before
    assert again == moved.moved


def test_a_backfill_of_nothing_is_done(spark, tmp_path: Path):
    catalogue = Catalogue(spark, tmp_path)
    empty = catalogue.manifest("empty", [])
    catalogue.run(empty, "night-1", DAY_1)
    summary = backfill(catalogue, "none", model="fake-2")
    assert (summary["state"], summary["runs"], summary["remaining"]) == ("published", 0, 0)
