"""Two sessions that both believe they hold the lease publish at the same moment.

Each decides its winners first; a barrier straight before the first MERGE lets both go on together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from fake_catalogue import DAY_1, Catalogue, row
from pyspark.sql import SparkSession

from pipeline.errors import TablesError
from pipeline.tables.ledger import Ledger
from pipeline.tables.store import TableSet
from pipeline.tagging.publish import publish_staged

ROUNDS = 3


class Together:
    """A lease that refuses nobody, and lets the first two checks through at once."""

    def __init__(self, barrier: threading.Barrier) -> None:
        self._barrier, self._first = barrier, True

    def check(self) -> None:
        if self._first:
            self._first = False
            self._barrier.wait(60)


def publish(catalogue: Catalogue, run_id: str, barrier: threading.Barrier) -> str:
    """In a session of its own; what became of it."""
    tables = TableSet(catalogue.spark, catalogue.location).in_new_session()
    run = Ledger(tables).find(run_id)
    assert run is not None
    try:
        publish_staged(tables, run, Together(barrier))
    except TablesError:
        return "refused"
    return "published"


@pytest.mark.fault("two sessions publish at once, a barrier before their first MERGE")
@pytest.mark.timeout(900)
def test_two_that_publish_at_once_publish_no_image_twice(
    spark: SparkSession, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    told = []
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        catalogue = Catalogue(spark, folder)
        catalogue.run(catalogue.manifest("none", []), "empty", DAY_1)
        both = {"one": [row("a"), row("b")], "two": [row("b", version="2"), row("c")]}
        for day, (run_id, rows) in enumerate(both.items(), 1):
            at = DAY_1 + timedelta(days=day)
            catalogue.stage(catalogue.manifest(run_id, rows), run_id, at)
        barrier = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            told += pool.map(publish, [catalogue] * 2, both, [barrier] * 2)
        # Whoever comes next finishes what was cut off.
        for run_id, rows in both.items():
            at = DAY_1 + timedelta(days=1 + (run_id == "two"))
            catalogue.run(catalogue.manifest(run_id, rows), run_id, at)
        images = catalogue.images()
        assert {key: image["image_version"] for key, image in images.items()} == {
            "a": "1",
            "b": "2",
            "c": "1",
        }
        catalogue.assert_consistent()
        tags = [(tag["image_id"], tag["label"]) for tag in catalogue.rows("image_tags")]
        assert len(tags) == len(set(tags)) > 0
    record_property("times", ROUNDS)
    record_property(
        "outcome", f"{told.count('refused')} of {len(told)} refused by Delta; ends as by turns"
    )
