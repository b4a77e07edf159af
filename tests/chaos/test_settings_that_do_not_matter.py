"""Whatever Spark's batches, partitions and planner are set to, the tables are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from session_settings import COMPILED
from submitted import draw_night, nightly

from demo.verify import find_differences, read_state, verify_run
from jobs.tag_nightly import main
from pipeline import few_rows
from pipeline.spark import temporary_settings
from pipeline.tagging import stage
from udfs import worker

BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"
PARTITIONS = "spark.sql.shuffle.partitions"
CHOICES = (
    *({BATCH: str(rows)} for rows in (1, 7, 10_000)),
    *({PARTITIONS: str(count)} for count in (1, 2, 7)),
    {"spark.sql.adaptive.enabled": "true"},
    COMPILED,
)


@pytest.mark.fault(
    "Arrow batches of 1, 7 and 10,000 rows; 1, 2 and 7 partitions; AQE; compiled plans"
)
@pytest.mark.timeout(1200)
def test_answers_do_not_depend_on_settings(
    spark: SparkSession,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    manifest = draw_night(tmp_path, 25)
    anew = "--model.remember_images=0"
    states = []
    for number, chosen in enumerate(({}, *CHOICES)):
        tables = tmp_path / f"tables-{number}"
        tasks = int(chosen.get(PARTITIONS, 2))  # of shuffles, and of each chunk of images
        monkeypatch.setattr(stage, "count_tasks", lambda *_, count=tasks, **__: count)
        # All but the first night keep to what is set, however few its rows.
        monkeypatch.setattr(few_rows, "FEW_BYTES", -1 if chosen else few_rows.FEW_BYTES)
        with temporary_settings(spark, chosen):
            assert main(nightly(tables, manifest, tiny_bundle, anew)) == 0
        worker._engines.clear()
        assert verify_run(tables, manifest, "night-1").broken == ()
        states.append(read_state(tables))
    first = states[0]
    assert first["image_tags"]
    assert len({row["status"] for row in first["images"].values()}) == 2
    for state in states[1:]:
        assert find_differences(state, first) == []
    record_property("times", len(CHOICES))
    record_property("outcome", "equal tables; scores and embeddings to 1e-5")
