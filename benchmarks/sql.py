"""How much of the tables a question reads after maintenance: bytes of files, and seconds.

    .venv/bin/python benchmarks/sql.py [--rows 20000000] [--rounds 5]

``image_tags`` holds ``--rows`` tags of 60 runs, one a day, ``images`` an image for each four of
them: 120 labels with a long tail (the k-th about 1/k as often as the first), image ids in random
order (``--ids sequential``: growing from run to run, which is easier). The product creates the
tables, Spark appends rows to them run by run, the product's maintenance sorts them. Then each
question is asked once a round, each time about another run, label, image and day:

    label_in_run  image ids and scores of the label in the middle by frequency, in one run
    label         how many images have that label
    image         the tags of one image
    run           tags by label of one run
    day           images by status that were tagged on one day

``files_share``: bytes of the files a scan opens, of all files of its table: the scan's own metrics
"size of files read" in Spark's event log, after Delta has skipped files, by the table's size.
``read_share``: bytes its tasks then read of them (columns and row groups that are not needed are
left out). Medians and, of the shares, the largest; the last line as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from data_plane import make_session
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from tag_throughput import read_events
from tqdm import tqdm

from pipeline.config import MaintainTablesConfig, TablesConfig
from pipeline.tables.create import create_tables
from pipeline.tables.maintain import Maintenance
from pipeline.tables.schemas import IMAGE_TAGS, IMAGES, TableDefinition
from pipeline.tables.store import TableSet, open_tables

RUNS, LABELS = 60, 120
DRAWS = 5  # labels drawn for an image; those drawn twice count once
DAY_S = 86_400
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
MODEL, TAXONOMY = ("0123456789abcdef" * 4, "fedcba9876543210" * 4)
SIZE, READ = "size of files read", "Bytes Read"


def tags_of_an_image() -> float:
    """How many different labels an image gets on average."""
    drawn = np.random.default_rng(0).random((100_000, DRAWS))
    labels = np.sort(np.exp(drawn * math.log(LABELS + 1)).astype(int), axis=1)
    return float(1 + (np.diff(labels, axis=1) > 0).sum(axis=1).mean())


def draw(id_: Column, salt: int) -> Column:
    """A number of 0 to 1."""
    return F.pmod(F.xxhash64(id_, F.lit(salt)), F.lit(1_000_003)) / 1_000_003


def make_images(spark: SparkSession, images: int, ids: str) -> DataFrame:
    """Columns id, image_id, run (0 to 59)."""
    number = F.col("id")
    image_id = F.lpad(number.cast("string"), 10, "0") if ids == "sequential" else F.md5("key")
    keyed = spark.range(images).withColumn("key", number.cast("string"))
    return keyed.select(
        "id",
        F.concat(F.lit("image-"), image_id).alias("image_id"),
        F.floor(number * RUNS / images).cast("int").alias("run"),
    )


def complete(rows: DataFrame, table: TableDefinition, said: dict[str, Column]) -> DataFrame:
    """The table's columns; null where nothing is said."""
    return rows.select(
        *(
            said.get(field.name, F.lit(None)).cast(field.dataType).alias(field.name)
            for field in table.columns.fields
        )
    )


def image_rows(images: DataFrame) -> DataFrame:
    """Rows of the table ``images``."""
    tagged_at = F.timestamp_seconds(
        F.lit(int(FIRST_DAY.timestamp()))
        + F.col("run") * DAY_S
        + (draw(F.col("id"), 200) * 3600).cast("int")
    )
    return complete(
        images,
        IMAGES,
        {
            "image_id": F.col("image_id"),
            "source": F.lit("default"),
            "status": F.lit("tagged"),
            "image_version": F.sha2("image_id", 256),
            "as_of": tagged_at,
            "as_of_seq": F.col("run"),
            "model_version": F.lit(MODEL),
            "taxonomy_version": F.lit(TAXONOMY),
            "run_id": run_name(F.col("run")),
            "run_seq": F.col("run"),
            "tagged_at": tagged_at,
            "content_sha256": F.sha2(F.concat("image_id", F.lit("bytes")), 256),
            "width": F.lit(1024),
            "height": F.lit(768),
            "uri": F.concat(F.lit("s3://photos/"), "image_id", F.lit(".jpg")),
            "attempts": F.lit(0),
            "refetchable": F.lit(True),
            "embedding_seq": F.col("run"),
        },
    )


def tag_rows(images: DataFrame) -> DataFrame:
    """Rows of the table ``image_tags``."""
    drawn = F.array_distinct(
        F.array(
            *(
                F.floor(F.exp(draw(F.col("id"), salt) * math.log(LABELS + 1))).cast("int")
                for salt in range(DRAWS)
            )
        )
    )
    rows = images.select("*", F.explode(drawn).alias("number"))
    score = 0.5 + draw(F.col("id") * LABELS + F.col("number"), 100) / 2
    return complete(
        rows,
        IMAGE_TAGS,
        {
            "image_id": F.col("image_id"),
            "task": F.lit("scene"),
            "label": label_name(F.col("number")),
            "score": score,
            "source": F.lit("image"),
            "image_version": F.sha2("image_id", 256),
            "model_version": F.lit(MODEL),
            "taxonomy_version": F.lit(TAXONOMY),
            "run_id": run_name(F.col("run")),
        },
    )


def run_name(number: Column) -> Column:
    """As tag_nightly names its runs."""
    day = F.date_add(F.lit(FIRST_DAY.date()), number)
    return F.concat(F.lit("tag_nightly-"), F.date_format(day, "yyyyMMdd"), F.lit("T020000Z"))


def label_name(number: Column) -> Column:
    """Names whose order has nothing to do with their frequency."""
    return F.concat(F.lit("label_"), F.substring(F.md5(number.cast("string")), 1, 8))


def fill(spark: SparkSession, tables: TableSet, images: int, ids: str) -> None:
    """Append the rows of all runs, a file or more for each."""
    create_tables(tables, existing=set())
    made = make_images(spark, images, ids)
    by_run = made.repartitionByRange(RUNS, "run")
    for table, rows in ((IMAGES, image_rows(by_run)), (IMAGE_TAGS, tag_rows(by_run))):
        tables.append(table.name, rows, commit_note="benchmark", computed=True)


def ask(spark: SparkSession, tables: TableSet, asked: dict[str, Any], number: int) -> dict:
    """Ask every question once; seconds of each."""
    tags, images = (tables.sql_name(table.name) for table in (IMAGE_TAGS, IMAGES))
    day, run = asked["day"], asked["run"]
    questions = {
        "label_in_run": f"SELECT image_id, score FROM {tags} "
        f"WHERE label = '{asked['label']}' AND run_id = '{run}'",
        "label": f"SELECT count(DISTINCT image_id) FROM {tags} WHERE label = '{asked['label']}'",
        "image": f"SELECT label, score FROM {tags} WHERE image_id = '{asked['image']}'",
        "run": f"SELECT label, count(*) FROM {tags} WHERE run_id = '{run}' GROUP BY label",
        "day": f"SELECT status, count(*) FROM {images} "
        f"WHERE tagged_at >= timestamp'{day} 00:00:00' "
        f"AND tagged_at < timestamp'{day} 00:00:00' + INTERVAL 1 DAY GROUP BY status",
    }
    seconds = {}
    for name, question in questions.items():
        spark.sparkContext.setJobDescription(f"{name} {number}")
        began = time.perf_counter()
        rows = spark.sql(question).collect()
        seconds[name] = time.perf_counter() - began
        if not rows:
            raise SystemExit(f"nothing was found: {question}")
    spark.sparkContext.setJobDescription("")
    return seconds


def choose(tables: TableSet, number: int, rounds: int) -> dict[str, Any]:
    """What a round asks about: a run, its label in the middle by frequency, one of its images."""
    place = round((number + 0.5) * RUNS / rounds)
    spark = tables.spark
    named = spark.range(1).select(
        run_name(F.lit(place)).alias("run"), F.date_add(F.lit(FIRST_DAY.date()), place).alias("day")
    )
    run, day = named.collect()[0]
    tags = tables.read(IMAGE_TAGS.name).where(F.col("run_id") == run)
    counted = tags.groupBy("label").agg(F.count("*").alias("rows"), F.max("image_id").alias("one"))
    by_frequency = counted.orderBy("rows", "label").collect()
    middle = by_frequency[len(by_frequency) // 2]
    return {"run": run, "day": str(day), "label": middle["label"], "image": middle["one"]}


def scans(node: dict[str, Any], table: str) -> Iterator[dict[str, Any]]:
    """The nodes of a plan that scan a table."""
    if table in node.get("metadata", {}).get("Location", "") and "Scan" in node["nodeName"]:
        yield node
    for child in node["children"]:
        yield from scans(child, table)


def read_costs(event_log: Path, folders: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Bytes of the files opened, and of what was read of them, by the description of a query.

    Args:
        event_log: Spark's.
        folders: Of the table a question scans, by its name.
    """
    names: dict[int, str] = {}  # of executions
    metrics: dict[int, int] = {}  # executions of the metrics that hold sizes of files
    opened: dict[int, int] = {}
    stages: dict[int, int] = {}  # executions of stages
    read: dict[int, int] = {}
    for event in read_events(event_log):
        kind = event["Event"].rpartition(".")[2]
        if kind == "SparkListenerSQLExecutionStart":
            question = event["description"].partition(" ")[0]
            if question in folders:
                names[event["executionId"]] = event["description"]
        if kind in ("SparkListenerSQLExecutionStart", "SparkListenerSQLAdaptiveExecutionUpdate"):
            name = names.get(event["executionId"])
            found = scans(event["sparkPlanInfo"], folders[name.split()[0]]) if name else ()
            for node in found:
                for metric in node["metrics"]:
                    if metric["name"] == SIZE:
                        metrics[metric["accumulatorId"]] = event["executionId"]
        if kind == "SparkListenerDriverAccumUpdates":
            for metric, value in event["accumUpdates"]:
                if metric in metrics:
                    opened[metrics[metric]] = value
        if kind == "SparkListenerJobStart":
            execution = int(event["Properties"].get("spark.sql.execution.id", -1))
            stages |= dict.fromkeys(event["Stage IDs"], execution)
        if kind == "SparkListenerTaskEnd" and event["Stage ID"] in stages:
            execution = stages[event["Stage ID"]]
            told = event["Task Metrics"]["Input Metrics"][READ]
            read[execution] = read.get(execution, 0) + told
    return {name: (opened[one], read.get(one, 0)) for one, name in names.items()}


def main() -> None:
    """Makes the tables, asks, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ids", default="random", choices=("random", "sequential"))
    parser.add_argument("--memory", default="8g", help="of the driver, which is all there is")
    asked = parser.parse_args()
    images = math.ceil(asked.rows / tags_of_an_image())
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="sql-") as name:
        folder = Path(name)
        (folder / "events").mkdir()
        log = {
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": (folder / "events").as_uri(),
            "spark.eventLog.compress": "false",
            "spark.eventLog.rolling.enabled": "false",
        }
        spark = make_session(folder, asked.memory, log)
        config = MaintainTablesConfig(tables=TablesConfig(location=str(folder / "tables")))
        tables = open_tables(spark, config.tables)
        began = time.monotonic()
        fill(spark, tables, images, asked.ids)
        print(f"filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
        maintained = Maintenance(spark=spark, config=config, now=datetime.now(UTC)).run()
        print(f"maintained: {maintained}", file=sys.stderr)
        rows = tables.read(IMAGE_TAGS.name).count()
        size = {
            table.name: tables.delta(table.name).detail().collect()[0]
            for table in (IMAGES, IMAGE_TAGS)
        }
        for number in tqdm(range(asked.rounds), unit="round", file=sys.stderr):
            about = choose(tables, number, asked.rounds)
            for question, spent in ask(spark, tables, about, number).items():
                seconds.setdefault(question, []).append(spent)
        spark.stop()
        scanned = {
            question: IMAGES.name if question == "day" else IMAGE_TAGS.name for question in seconds
        }
        folders = {question: f"{folder / 'tables' / table}" for question, table in scanned.items()}
        costs = read_costs(next((folder / "events").iterdir()), folders)
    questions = {}
    for question, spent in seconds.items():
        whole = size[scanned[question]]["sizeInBytes"]
        told = [costs[f"{question} {number}"] for number in range(asked.rounds)]
        files, read = ([one[place] / whole for one in told] for place in range(2))
        questions[question] = {
            "files_share": round(statistics.median(files), 4),
            "files_share_most": round(max(files), 4),
            "read_share": round(statistics.median(read), 4),
            "seconds": round(statistics.median(spent), 2),
        }
    result = {
        "benchmark": "sql",
        "rows": rows,
        "images": images,
        "runs": RUNS,
        "labels": LABELS,
        "ids": asked.ids,
        "rounds": asked.rounds,
        "tables": {
            name: {"files": detail["numFiles"], "mb": round(detail["sizeInBytes"] / 2**20, 1)}
            for name, detail in size.items()
        },
        "maintenance_s": maintained["seconds"],
        "questions": questions,
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
