"""Two sessions that both believe they hold the lease publish at the same moment.

Each decides its winners first; a barrier straight before the first MERGE lets both go on together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from fake_catalogue import DAY_1, Catalogue, row
from pyspark.sql import SparkSession
from whole_tags import assert_tags_whole

from demo.verify import KEYS, find_differences, find_repeated_keys, read_state
from pipeline.errors import LeaseError
from pipeline.tables.ledger import Ledger
from pipeline.tables.store import TableSet
from pipeline.tagging.release import publish_run

ROUNDS = 2
BOTH = {"one": [row("a"), row("b"), row("d")], "two": [row("b", version="2"), row("c")]}
AS_OF = {"one": DAY_1 + timedelta(days=1), "two": DAY_1 + timedelta(days=2)}
STANDING = {
    "of nothing": [],
    "of images that stand": [row(image, version="0") for image in "abcd"],
}


class Together:
    """A lease that refuses nobody, and lets the first two checks through at once."""

    def __init__(self, barrier: threading.Barrier) -> None:
        self._barrier, self._first = barrier, True

    def check(self) -> None:
        if self._first:
            self._first = False
            self._barrier.wait(60)


def stage_both(spark: SparkSession, folder: Path, standing: list[dict]) -> Catalogue:
    """A night that is published, and two that are staged."""
    folder.mkdir()
    catalogue = Catalogue(spark, folder)
    catalogue.run(catalogue.manifest("before", standing), "before", DAY_1)
    for run_id, rows in BOTH.items():
        catalogue.stage(catalogue.manifest(run_id, rows), run_id, AS_OF[run_id])
    return catalogue


def run(catalogue: Catalogue, run_id: str) -> None:
    """As whoever comes next would: what was cut off is finished."""
    catalogue.run(catalogue.manifest(run_id, BOTH[run_id]), run_id, AS_OF[run_id])


def publish(run_id: str, *, catalogue: Catalogue, barrier: threading.Barrier) -> str:
    """In a session of its own; what became of it."""
    tables = TableSet(catalogue.spark, catalogue.location).in_new_session()
    ledger = Ledger(tables)
    staged = ledger.find(run_id)
    assert staged is not None
    lease = Together(barrier)
    try:
        done = publish_run(tables, ledger, staged, lease, now=lambda: datetime.now(UTC))
    except LeaseError:
        return "refused"
    return done.state


@pytest.mark.fault("two sessions publish at once, a barrier before their first MERGE")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("standing", STANDING.values(), ids=STANDING)
def test_two_that_publish_at_once_end_as_those_that_publish_by_turns(
    standing: list[dict],
    spark: SparkSession,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    turns = stage_both(spark, tmp_path / "turns", standing)
    for run_id in BOTH:
        run(turns, run_id)
    expected = read_state(Path(turns.location))
    assert {key: image["image_version"] for key, image in turns.images().items()} == {
        "a": "1",
        "b": "2",
        "c": "1",
        "d": "1",
    }
    told = []
    for number in range(ROUNDS):
        catalogue = stage_both(spark, tmp_path / str(number), standing)
        publishing = partial(publish, catalogue=catalogue, barrier=threading.Barrier(2))
        with ThreadPoolExecutor(2) as pool:
            became = dict(zip(BOTH, pool.map(publishing, BOTH), strict=True))
        told += became.values()
        assert "published" in became.values()
        # Only who was refused comes again: what the other one did must stand by itself.
        for run_id, what in became.items():
            if what == "refused":
                run(catalogue, run_id)
        tables = Path(catalogue.location)
        assert find_differences(read_state(tables), expected) == []
        assert find_repeated_keys({table: catalogue.rows(table) for table in KEYS}) == []
        catalogue.assert_consistent()
        assert_tags_whole(tables, undisturbed=Path(turns.location))
        changes = [(change["run_id"], change["state"]) for change in catalogue.rows("tagging_runs")]
        for run_id in BOTH:
            assert changes.count((run_id, "publishing")) == 1
            assert changes.count((run_id, "published")) == 1
    record_property("times", ROUNDS)
    record_property(
        "outcome", f"{told.count('refused')} of {len(told)} refused by Delta; ends as by turns"
    )
