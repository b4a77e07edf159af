"""A catalogue brought to another taxonomy and another model; what nobody names; what vanished."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from fake_catalogue import DAY_1, Catalogue, row
from fake_model import KNOWN, calls_of

import pipeline.tagging.publish as publishing
from pipeline.config import AuditConfig, PaceConfig, StageConfig
from pipeline.errors import ConfigurationError, HeldByAudit
from pipeline.tables.schemas import IMAGES
from pipeline.tagging.backfill import run_backfill
from pipeline.tagging.estimate import estimate_run
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


@pytest.fixture(scope="module")
def nights(spark, tmp_path_factory) -> Catalogue:
    """Two nights: the second names some images only, and counts those it does not."""
    catalogue = Catalogue(spark, tmp_path_factory.mktemp("backfill"))
    catalogue.run(catalogue.manifest("n1", NIGHT), "night-1", DAY_1)
    some = catalogue.manifest("n2", NIGHT[:4])
    catalogue.summaries = [
        catalogue.run(some, "night-2", DAY_2, feed={"complete": True}),
    ]
    catalogue.after_nights = catalogue.images()
    catalogue.calls_of_nights = calls_of(catalogue.calls)
    return catalogue


def test_a_failure_that_is_due_is_tried_again_without_being_named(nights):
    images = nights.after_nights
    assert {key: images[key]["attempts"] for key in ("late", "signed", "broken")} == {
        "late": 2,
        "signed": 1,  # nobody keeps the token it would take
        "broken": 1,  # no other try can help
    }
    assert images["late"]["last_failed_as_of"] == DAY_2
    # Nobody asserted the version again: the moment is that of the night that named it.
    assert images["late"]["as_of"] == DAY_1
    assert images["late"]["source"] == "hotels"
    (published,) = (
        change
        for change in nights.rows("tagging_runs")
        if (change["run_id"], change["state"]) == ("night-2", "published")
    )
    counts = dict(published["counts"])
    told = {name: counts[name] for name in ("retried", "retry_unreachable", "missing", "scored")}
    assert told == {"retried": 1, "retry_unreachable": 1, "missing": 6, "scored": 1}
    assert (nights.summaries[0]["manifest_rows"], nights.summaries[0]["skipped"]) == (4, 4)


@pytest.fixture(scope="module")
def rescored(nights) -> Catalogue:
    """The same model with another taxonomy."""
    estimate = nights.request(None, "dry", None, selection="backfill", backfill_id="dry")
    nights.estimate = estimate_run(nights.spark, estimate, nights.tagger(taxonomy=OTHER))
    nights.rescored = backfill(nights, "taxonomy-2", model="fake-1", publish_every=9)
    nights.after_rescoring = nights.images()
    return nights


def test_another_taxonomy_is_scored_again_as_tagging_afresh_without_reading_an_image(rescored):
    assert (rescored.estimate["to_rescore"], rescored.estimate["to_tag"]) == (len(TAGGED), 0)
    assert (rescored.rescored["rescored"], rescored.rescored["tagged"]) == (len(TAGGED), 0)
    assert (rescored.rescored["state"], rescored.rescored["remaining"]) == ("published", 0)
    assert calls_of(rescored.calls) == rescored.calls_of_nights
    published = published_tags(rescored)
    for key in TAGGED:
        expected = expected_tags(key, model="fake-1")
        assert {tag[:2] for tag in published[key]} == {tag[:2] for tag in expected}
        assert {tag[:2]: tag[2] for tag in published[key]} == pytest.approx(
            {tag[:2]: tag[2] for tag in expected}, abs=1e-5
        )
    rescored.assert_consistent()


def test_scoring_again_asserts_and_looks_at_nothing(rescored):
    of_the_result = ("taxonomy_version", "run_id", "run_seq")
    for key, image in rescored.after_rescoring.items():
        before = rescored.after_nights[key]
        changed = {name for name in image if image[name] != before[name]}
        assert changed == (set(of_the_result) if key in TAGGED else set())


@pytest.fixture(scope="module")
def moved(rescored) -> Catalogue:
    """Another model: stopped by its window, killed in its second run, then brought to its end."""
    opens = datetime(2026, 3, 9, 22, tzinfo=UTC)
    clock = iter([opens] * 3 + [opens + timedelta(hours=9)] * 99)
    window = PaceConfig(window="22:00-06:00")
    rescored.paused = backfill(
        rescored, "model-2", model="fake-2", pace=window, now=lambda: next(clock)
    )
    merge = publishing.merge_rows

    def die_before_images(tables, table, *args, **kwargs):
        if table is IMAGES:
            raise KeyboardInterrupt
        merge(tables, table, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publishing, "merge_rows", die_before_images)
        with pytest.raises(KeyboardInterrupt):
            backfill(rescored, "model-2", model="fake-2")
    rescored.moved = backfill(rescored, "model-2", model="fake-2")
    return rescored


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


def test_what_vanished_is_retired_within_the_limit_of_the_audit(moved):
    manifest = moved.manifest("n3", NIGHT[:5])
    retire = {"retire_missing": True}
    with pytest.raises(ConfigurationError, match="whole run"):
        moved.run(manifest, "night-3", DAY_3, feed=retire, limit=3)
    before = moved.images()
    strict = AuditConfig(min_images=5, max_removed_share=0.4)
    with pytest.raises(HeldByAudit, match=r"removed share 50\.0%"):
        moved.run(manifest, "night-3", DAY_3, feed=retire, audit=strict)
    assert moved.images() == before
    loose = AuditConfig(min_images=5, max_removed_share=0.5)
    summary = moved.run(manifest, "night-3b", DAY_3, feed=retire, audit=loose)
    assert summary["deleted"] == 5
    gone = {key for key, image in moved.images().items() if image["status"] == "deleted"}
    assert gone == {"f", "g", "late", "signed", "broken"}
    moved.assert_consistent()


def test_a_backfill_of_nothing_is_done(spark, tmp_path: Path):
    catalogue = Catalogue(spark, tmp_path)
    empty = catalogue.manifest("empty", [])
    catalogue.run(empty, "night-1", DAY_1)
    summary = backfill(catalogue, "none", model="fake-2")
    assert (summary["state"], summary["runs"], summary["remaining"]) == ("published", 0, 0)
