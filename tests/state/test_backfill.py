"""A catalogue brought to another taxonomy; what nobody names; what vanished."""

from __future__ import annotations

import pytest
from fake_backfill import (
    DAY_2,
    DAY_3,
    NIGHT,
    OTHER,
    TAGGED,
    backfill,
    expected_tags,
    published_tags,
)
from fake_catalogue import DAY_1, Catalogue
from fake_model import calls_of

from pipeline.config import AuditConfig
from pipeline.errors import ConfigurationError, HeldByAudit
from pipeline.tagging.estimate import estimate_run


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


@pytest.mark.long
def test_what_vanished_is_retired_within_the_limit_of_the_audit(rescored):
    manifest = rescored.manifest("n3", NIGHT[:5])
    retire = {"retire_missing": True}
    with pytest.raises(ConfigurationError, match="whole run"):
        rescored.run(manifest, "night-3", DAY_3, feed=retire, limit=3)
    before = rescored.images()
    strict = AuditConfig(min_images=5, max_removed_share=0.4)
    with pytest.raises(HeldByAudit, match=r"removed share 50\.0%"):
        rescored.run(manifest, "night-3", DAY_3, feed=retire, audit=strict)
    assert rescored.images() == before
    loose = AuditConfig(min_images=5, max_removed_share=0.5)
    summary = rescored.run(manifest, "night-3b", DAY_3, feed=retire, audit=loose)
    assert summary["deleted"] == 5
    gone = {key for key, image in rescored.images().items() if image["status"] == "deleted"}
    assert gone == {"f", "g", "late", "signed", "broken"}
    rescored.assert_consistent()
