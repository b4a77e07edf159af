"""Two processes commit to one local table set at the same moment, many times: nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

ROOT = Path(__file__).parents[2]
ROUNDS = 6

# Starts Spark, waits until the other is ready too, then appends facts and starts runs in turn.
WRITER = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path

from pyspark.sql import functions as F

from pipeline.spark import open_session
from pipeline.tables.create import create_tables, existing_tables
from pipeline.tables.ledger import Ledger
from pipeline.tables.schemas import TAGGING_RESULTS
from pipeline.tables.store import TableSet

name, other, folder, rounds = *sys.argv[1:4], int(sys.argv[4])
spark = open_session("writer")
tables = TableSet(spark, f"{folder}/tables")
if name == "one":
    create_tables(tables, existing=existing_tables(tables))
moment = datetime(2026, 3, 1, tzinfo=UTC)
told = {"source": "s", "status": "deleted", "origin": "manifest", "run_id": name}
columns = TAGGING_RESULTS.columns


def facts(first, last):
    rows = spark.range(first, last, numPartitions=1).select(
        F.concat(F.lit(f"{name}-"), F.col("id").cast("string")).alias("image_id"),
        *(F.lit(value).alias(column) for column, value in told.items()),
        F.lit(moment).alias("as_of"),
        F.lit(0).cast("bigint").alias("run_seq"),
    )
    missing = [field for field in columns.fields if field.name not in rows.columns]
    return rows.select(
        "*", *(F.lit(None).cast(field.dataType).alias(field.name) for field in missing)
    ).select(*columns.names)


Path(folder, f"ready-{name}").touch()
while not Path(folder, f"ready-{other}").exists():
    time.sleep(0.01)
ledger = Ledger(tables)
for number in range(rounds):
    # By turns rows that are computed before the lock and rows that are made under it.
    tables.append(
        "tagging_results", facts(2 * number, 2 * number + 2), commit_note="facts",
        computed=number % 2 == 0,
    )
    run = ledger.start(
        run_id=f"{name}-{number}", job="j", as_of=moment, manifest_digest="d",
        model_version="m", taxonomy_version="t", config="{}", at=moment,
    )
    ledger.advance(run, "failed", at=moment)
spark.stop()
"""


@pytest.mark.fault("two processes commit to one table set at the same moment, each commit is late")
@pytest.mark.timeout(600)
def test_two_processes_that_commit_at_the_same_moment_lose_nothing(
    tmp_path: Path, failing_calls: Path, record_property: Callable[[str, object], None]
) -> None:
    # Delta's log looks whether a version is there, and renames; in between the other one comes.
    late = {
        "LD_PRELOAD": str(failing_calls),
        "FAILING_UNDER": str(tmp_path / "tables"),
        "LATE_COMMITS_MS": "1000",
    }
    command = [sys.executable, "-c", WRITER]
    writers = []
    for name, other in (("one", "two"), ("two", "one")):
        with (tmp_path / f"{name}.log").open("w") as log:
            asked = [*command, name, other, str(tmp_path), str(ROUNDS)]
            writers.append(
                subprocess.Popen(asked, cwd=ROOT, env=os.environ | late, stdout=log, stderr=log)
            )
    try:
        codes = [writer.wait(500) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    logs = "".join((tmp_path / f"{name}.log").read_text()[-3000:] for name in ("one", "two"))
    assert codes == [0, 0], logs

    facts = DeltaTable(str(tmp_path / "tables" / "tagging_results"))
    expected = {f"{name}-{number}" for name in ("one", "two") for number in range(2 * ROUNDS)}
    staged = Counter(facts.to_pyarrow_table(columns=["image_id"])["image_id"].to_pylist())
    assert staged == Counter(expected)
    assert facts.version() == 2 * ROUNDS

    ledger = DeltaTable(str(tmp_path / "tables" / "tagging_runs"))
    changes = ledger.to_pyarrow_table(columns=["run_id", "state", "run_seq"]).to_pylist()
    told = Counter((change["run_id"], change["state"]) for change in changes)
    runs = {f"{name}-{number}" for name in ("one", "two") for number in range(ROUNDS)}
    assert told == Counter((run, state) for run in runs for state in ("started", "failed"))
    sequences = [change["run_seq"] for change in changes if change["state"] == "failed"]
    assert len(set(sequences)) == len(runs)
    assert ledger.version() == len(changes)
    record_property("times", len(changes) + facts.version())
    record_property("outcome", "no commit was lost")
