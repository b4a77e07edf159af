"""What a run says about its settings, its data and its code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.config import TrackingConfig
from pipeline.errors import ConfigurationError
from pipeline.registry.connection import connect
from pipeline.registry.provenance import describe_code, digest_labels
from pipeline.registry.tracking import flatten, tracked_run


def test_settings_become_flat_texts() -> None:
    settings = {"a": {"b": 1, "c": None, "d": {"e": [1, "x"]}}, "f": "text", "g": True}
    assert flatten(settings) == {
        "a.b": "1",
        "a.c": "null",
        "a.d.e": '[1, "x"]',
        "f": "text",
        "g": "true",
    }


def test_a_digest_of_labels_knows_no_order_but_every_label() -> None:
    rows = [("1", "train", ["pool", "bed"], []), ("2", "test", [], ["pool"])]
    same = [("2", "test", [], ["pool"]), ("1", "train", ["bed", "pool"], [])]
    assert digest_labels(rows) == digest_labels(same)
    others = [
        [("1", "train", ["pool"], []), rows[1]],
        [("1", "train", ["pool", "bed"], ["sea"]), rows[1]],
        [("1", "test", ["pool", "bed"], []), rows[1]],
        [("3", "train", ["pool", "bed"], []), rows[1]],
        rows[:1],
    ]
    assert len({digest_labels(rows), *(digest_labels(other) for other in others)}) == 6


def test_code_is_named_by_version_and_content() -> None:
    told = describe_code()
    assert told["product_version"] == __version__
    assert re.fullmatch("[0-9a-f]{12}", told["code_digest"])
    assert re.fullmatch(r"[0-9a-f]{40}\+?", told.get("git_commit", "0" * 40))


class _Config:
    tracking = TrackingConfig(enabled=False)


def test_tracking_that_is_switched_off_keeps_and_costs_nothing(tmp_path: Path) -> None:
    with tracked_run(_Config(), job="train_model", folder=tmp_path) as tracker:
        tracker.log_metrics({"gap": 0.5}, step=1)
        tracker.log_file(tmp_path / "none")
        assert tracker.run_id is None
        assert tracker.describe() == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("runs", "cannot be a store"),
        ("file:///tmp/runs", "cannot be a store"),
        ("ftp://key:secret@place/runs", "cannot be a store"),
        ("sqlite://", "in memory"),
        (None, "not said where"),
    ],
)
def test_places_that_cannot_be_a_store_are_refused_before_anything_is_made(
    uri: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigurationError, match=told) as caught:
        connect(TrackingConfig(uri=uri))
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
