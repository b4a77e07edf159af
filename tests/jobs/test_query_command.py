"""query_tags as it is typed: under plain Python, in a session of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipeline.tables.schemas import SCHEMA_VERSION

ROOT = Path(__file__).parents[2]


@pytest.fixture
def location(tmp_path: Path) -> str:
    """A table ``images`` of two rows, written without Spark."""
    folder = tmp_path / "tables" / "images"
    write_deltalake(folder, pa.table({"image_id": ["a", "b"]}))
    # delta-rs refuses properties that it does not know.
    commit = folder / "_delta_log" / f"{0:020}.json"
    ours = f'"configuration":{{"mumic.schema_version":"{SCHEMA_VERSION}"}}'
    text = commit.read_text().replace('"configuration":{}', ours)
    assert ours in text
    commit.write_text(text)
    return str(tmp_path / "tables")


def test_the_command_starts_its_own_session_under_plain_python(
    location: str, tmp_path: Path
) -> None:
    # Of the variables for Spark only where its classes are: nothing about Python, nothing of tests.
    environment = {
        key: value
        for key, value in os.environ.items()
        if "SPARK" not in key or key == "SPARK_SUBMIT_OPTS"
    }
    sql = "SELECT count(*) AS n, current_timezone() AS zone FROM images"

    found = subprocess.run(
        [
            *(sys.executable, "-m", "jobs.query_tags", "--tables.location", location),
            *("--sql", sql, "--format", "json"),
        ],
        cwd=tmp_path,
        env={
            **environment,
            "PYTHONPATH": str(ROOT),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "TZ": "Asia/Tokyo",
            # a JVM that lives for one query, and a log of three commits: half the seconds
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            "PYSPARK_SUBMIT_ARGS": "--conf spark.databricks.delta.snapshotPartitions=2"
            " pyspark-shell",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 0, found.stderr
    assert found.stdout == '{"n": 2, "zone": "UTC"}\n'


def test_without_java_the_command_says_what_to_install(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"}

    found = subprocess.run(
        [sys.executable, "-m", "jobs.query_tags", "--tables.location", "t", "--sql", "SELECT 1"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT), "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith(
        "mumic-query-tags: error: Java was not found; expected Java 17 or newer"
    )
