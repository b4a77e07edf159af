"""Tables in a schema of a metastore: a night, and plain SQL by those who have none of our code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from demo.nights import FEW_ROWS
from pipeline.synthetic import draw_scene, seeded
from pipeline.tables.schemas import TABLES
from pipeline.tables.views import VIEWS

ROOT = Path(__file__).parents[2]

PLAIN_SQL = """
import json, sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
for statement in sys.argv[1:]:
    print(json.dumps([list(row) for row in spark.sql(statement).collect()], default=str))
"""


class Metastore:
    """An embedded metastore under a folder, for one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def submit(self, *arguments: str) -> list[str]:
        """Run spark-submit in an empty folder; the lines it told."""
        url = f"jdbc:derby:;databaseName={self.folder}/metastore;create=true"
        settings = [
            *FEW_ROWS,
            "spark.sql.catalogImplementation=hive",
            f"spark.sql.warehouse.dir={self.folder}/warehouse",
            f"spark.hadoop.javax.jdo.option.ConnectionURL={url}",
        ]
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("spark-submit")),
                *("--properties-file", str(ROOT / "conf" / "spark" / "laptop.conf")),
                *("--master", "local[2,3]"),
                *(part for setting in settings for part in ("--conf", setting)),
                *arguments,
            ],
            cwd=self.folder,
            env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        self.returncode = done.returncode
        return done.stdout.splitlines()

    def job(self, name: str, *arguments: str) -> list[str]:
        (zipped,) = self.distribution.glob("*-pyfiles.zip")
        return self.submit(
            *("--py-files", str(zipped)), str(ROOT / "jobs" / f"{name}.py"), *arguments
        )

    def sql(self, *statements: str) -> list[list[Any]]:
        """Rows of each statement, in a session without our code."""
        script = self.folder / "plain_sql.py"
        script.write_text(PLAIN_SQL, encoding="utf-8")
        told = self.submit(str(script), *statements)
        assert self.returncode == 0, told[-20:]
        # Under spark-submit what Python writes to stderr is on stdout, too.
        return [json.loads(line) for line in told if line.startswith("[")]

    distribution: Path


@pytest.mark.timeout(1500)
def test_a_night_in_a_catalog_is_seen_by_plain_sql(
    distribution: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    metastore = Metastore(tmp_path)
    metastore.distribution = distribution
    photo = tmp_path / "photo é.jpg"
    draw_scene(seeded(7, 0), width=160, height=120).image.save(photo)
    rows = [
        {"image_id": "photo", "uri": str(photo), "version": "1"},
        {"image_id": "gone", "uri": str(tmp_path / "no such.jpg"), "version": "1"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "night.parquet")
    night = (
        "--tables.schema=tagging",
        "--tables.location=not-used",
        f"--manifest.path={tmp_path / 'night.parquet'}",
        f"--model.uri={tiny_bundle}",
        "--as_of=2026-03-01T00:00:00Z",
        "--run_id=night-1",
        "--fetch.attempts=1",
    )

    told = metastore.job("tag_nightly", *night)
    assert metastore.returncode == 1
    assert "CREATE SCHEMA `tagging`" in json.loads(told[-1])["error"]

    metastore.sql(f"CREATE SCHEMA tagging LOCATION '{tmp_path}/schema'")
    told = metastore.job("tag_nightly", *night)
    assert metastore.returncode == 0, told[-20:]
    summary = json.loads(told[-1])
    assert (summary["tagged"], summary["failed"], summary["state"]) == (1, 1, "published")

    names, runs, coverage, failures, images, changes = metastore.sql(
        "SHOW TABLES IN tagging",
        "SELECT run_id, state, run_seq FROM tagging.runs",
        "SELECT status, images FROM tagging.coverage ORDER BY status",
        "SELECT image_id, reason FROM tagging.tagging_failures",
        "SELECT image_id FROM tagging.images VERSION AS OF 1 ORDER BY image_id",
        "SELECT count(*) FROM table_changes('tagging.images', 1, 1)",
    )
    assert {row[1] for row in names} == {*(table.name for table in TABLES), *VIEWS}
    assert runs == [["night-1", "published", 1]]
    assert coverage == [["failed", 1], ["tagged", 1]]
    assert failures == [["gone", "not_found"]]
    assert images == [["gone"], ["photo"]]
    assert changes == [[2]]
    # The locks lie in the schema's folder, the tables where the catalog says.
    assert (tmp_path / "schema" / ".mumic-commits").exists()
    assert not (tmp_path / "not-used").exists()
    stored = DeltaTable(str(tmp_path / "schema" / "images")).to_pyarrow_table().to_pylist()
    assert {row["image_id"]: row["status"] for row in stored} == {
        "photo": "tagged",
        "gone": "failed",
    }

    question = "SELECT r.run_id, i.image_id FROM runs r JOIN images i ON r.run_id = i.run_id"
    told = metastore.job(
        *("query_tags", "--tables.schema=tagging", "--log.level=ERROR"),
        *("--format=csv", f"--sql={question}"),
    )
    assert (metastore.returncode, told[-2:]) == (0, ["run_id,image_id", "night-1,photo"])
