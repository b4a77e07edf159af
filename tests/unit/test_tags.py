"""Which labels a run publishes, in numpy and as the UDF does it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny_models import TAXONOMY

from pipeline.models.engine import Outcome
from pipeline.models.tags import find_candidates, mark_tags
from pipeline.taxonomy import parse_taxonomy
from udfs.functions import publishable_tags


def test_marks_are_the_tags_that_runs_publish() -> None:
    taxonomy = TAXONOMY.with_thresholds({("scene", "pool"): 0.3, ("room", "double"): 0.8})
    random = np.random.default_rng(0)
    scores = random.integers(0, 11, (200, len(taxonomy.labels))).astype(np.float32) / 10
    scores[0, 0] = np.float32(0.3)
    marked = mark_tags(scores, taxonomy)
    assert marked[0, 0]
    for row, expected in zip(scores, marked, strict=True):
        tags = publishable_tags(Outcome("1", scores=row), taxonomy.labels)
        assert tags is not None
        published = {(tag["task"], tag["label"]) for tag in tags}
        named = {
            (task.id, label.id)
            for (task, label), mark in zip(taxonomy.labels, expected, strict=True)
            if mark
        }
        assert named == published


def test_of_single_label_tasks_one_label_each_is_marked() -> None:
    (first, second) = TAXONOMY.tasks
    both = replace(TAXONOMY, tasks=(replace(first, kind="single_label"), second))
    scores = np.full((1, len(both.labels)), 0.9, np.float32)
    scores[0, 1] = 0.95
    assert mark_tags(scores, both).tolist() == [[False, True, False, True, False]]


def test_equal_scores_and_thresholds_meet_as_float32() -> None:
    taxonomy = parse_taxonomy(
        {
            "tasks": [
                {"id": "a", "kind": "multi_label", "labels": [{"id": "p"}, {"id": "q"}]},
                {"id": "b", "kind": "single_label", "threshold": 0.1, "labels": [{"id": "x"},
                 {"id": "y"}]},
            ]
        }
    )  # fmt: skip
    # 0.1 as float32 is more than 0.1 as float64: the threshold is rounded as the score is
    scores = np.array([[0.5, 0.49, 0.3, 0.3], [0.2, 0.9, 0.05, 0.1]], np.float32)
    assert find_candidates(scores, taxonomy)[:, 2:].tolist() == [[True, False], [False, True]]
    assert mark_tags(scores, taxonomy).tolist() == [
        [True, False, True, False],
        [False, True, False, True],
    ]
