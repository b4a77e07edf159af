"""What planning and publishing cost, without a model: rows/s against a plain append.

    .venv/bin/python benchmarks/data_plane.py [--rows 1000000] [--rounds 1]
        [--also 4000000] [--also_rounds 1]

A null model (Spark expressions: 32 floats and four tags for each row, no Python) tags a catalogue
of new rows, then one in which every row has changed. Measured is planning and publishing:
``start``, ``select`` and ``publish`` of the ledger's timings; ``beside_tagging_s`` is all that the
job does but tag, the audit and the ledger too. The reference is a plain Spark append of the same
staged rows to an empty Delta table in the same minute, with the same session. The last line is the
result as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from delta import configure_spark_with_delta_pip
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.config import AuditConfig, ManifestConfig, StageConfig, TablesConfig
from pipeline.spark import LAPTOP_SETTINGS
from pipeline.tables.schemas import OUTCOME, TAGGING_RESULTS
from pipeline.tagging.facts import Tagger
from pipeline.tagging.request import RunRequest
from pipeline.tagging.run import run_tagging
from pipeline.taxonomy import parse_taxonomy

FLOATS, TAGS = 32, 4
FIRST_ROWS = 1_000  # of a night before those that are measured: tables exist as a rule
LABELS = 40
DAY = datetime(2026, 3, 1, tzinfo=UTC)
TAXONOMY = parse_taxonomy(
    {
        "tasks": [
            {
                "id": "scene",
                "kind": "multi_label",
                "threshold": 0.5,
                "labels": [{"id": f"label-{number}"} for number in range(LABELS)],
            }
        ]
    }
)


def tag(image_id: Column, uri: Column, content: Column, text: Column) -> Column:
    """The null model: floats and tags made from a hash of the place."""
    del content, text
    seed = F.xxhash64(image_id, uri)

    def unit(salt: int) -> Column:
        return (F.pmod(F.xxhash64(seed, F.lit(salt)), F.lit(1000)) / 1000).cast("float")

    first = F.pmod(seed, F.lit(LABELS - TAGS))
    tags = F.array(
        *(
            F.struct(
                F.lit("scene").alias("task"),
                F.concat(F.lit("label-"), (first + place).cast("string")).alias("label"),
                (F.lit(0.5) + unit(place) / 2).cast("float").alias("score"),
                F.lit("image").alias("source"),
            )
            for place in range(TAGS)
        )
    )
    said = {
        "content_sha256": F.sha2(uri, 256),
        "width": F.lit(1024),
        "height": F.lit(768),
        "tags": tags,
        "embedding": F.array(*(unit(100 + place) for place in range(FLOATS))),
    }
    return F.struct(
        *(
            said.get(field.name, F.lit(None)).cast(field.dataType).alias(field.name)
            for field in OUTCOME.fields
        )
    )


def make_session(folder: Path, memory: str, more: Mapping[str, str] | None = None) -> SparkSession:
    """The laptop's settings, with the memory a million rows need, and others beside them."""
    builder = SparkSession.builder.appName("data plane")
    for name, value in {
        **LAPTOP_SETTINGS,
        "spark.driver.memory": memory,
        "spark.ui.enabled": "false",
        "spark.local.dir": str(folder / "local"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        **(more or {}),
    }.items():
        builder = builder.config(name, value)
    session = configure_spark_with_delta_pip(builder).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def write_manifest(
    spark: SparkSession, path: Path, rows: int, *, version: int, name: str = "image"
) -> str:
    """Every image at a version."""
    spark.range(rows).select(
        F.concat(F.lit(f"{name}-"), "id").alias("image_id"),
        F.concat(F.lit("s3://photos/"), F.col("id") % 1000, F.lit("/"), "id").alias("uri"),
        F.lit(str(version)).alias("version"),
    ).write.parquet(str(path))
    return str(path)


def run_night(
    spark: SparkSession, tables: Path, manifest: str, rows: int, *, night: int
) -> tuple[float, float]:
    """Seconds a run took for planning and publishing, and for all but tagging."""
    request = RunRequest(
        job="tag_nightly",
        run_id=f"night-{night}",
        tables=TablesConfig(location=str(tables)),
        manifest=ManifestConfig(path=manifest),
        stage=StageConfig(chunk_rows=rows),
        audit=AuditConfig(),
        as_of=DAY + timedelta(days=night),
        slots=2,
    )
    tagger = Tagger(tag=tag, model_version="null", taxonomy=TAXONOMY)
    began = time.monotonic()
    summary = run_tagging(spark, request, tagger)
    seconds = time.monotonic() - began
    assert (summary["state"], summary["tagged"]) == ("published", rows), summary
    ledger = spark.read.format("delta").load(f"{tables}/tagging_runs")
    last = ledger.where((F.col("run_id") == request.run_id) & (F.col("state") == "published"))
    timings = dict(last.select("timings").collect()[0][0])
    print(f"  night {night}: {seconds:.1f} s, of which {timings}", flush=True)
    measured = sum(float(timings[step]) for step in ("start", "select", "publish"))
    return measured, seconds - float(timings["tag"])


def append_staged(spark: SparkSession, tables: Path, folder: Path, *, night: int) -> float:
    """Seconds of a plain append of what a night staged."""
    staged = spark.read.format("delta").load(f"{tables}/{TAGGING_RESULTS.name}")
    staged = staged.where(F.col("run_id") == f"night-{night}")
    target = folder / f"appended-{night}"
    shutil.rmtree(target, ignore_errors=True)
    began = time.monotonic()
    staged.write.format("delta").mode("append").save(str(target))
    return time.monotonic() - began


def measure(spark: SparkSession, folder: Path, rows: int) -> dict[str, float]:
    """Rows/s of new and of changed rows, each beside the append of the same minute."""
    folder.mkdir()
    tables, told = folder / "tables", {}
    first = write_manifest(spark, folder / "manifest-0", FIRST_ROWS, version=0, name="first")
    run_night(spark, tables, first, FIRST_ROWS, night=0)  # creates the tables
    for night, kind in enumerate(("new", "changed"), start=1):
        manifest = write_manifest(spark, folder / f"manifest-{night}", rows, version=night)
        spent, beside = run_night(spark, tables, manifest, rows, night=night)
        plain = append_staged(spark, tables, folder, night=night)
        print(
            f"  {kind}: {rows / spent:,.0f} rows/s, append {rows / plain:,.0f} rows/s", flush=True
        )
        told |= {
            f"{kind}_s": spent,
            f"{kind}_append_s": plain,
            f"{kind}_ratio": plain / spent,
            f"{kind}_beside_tagging_s": beside,
        }
    shutil.rmtree(folder)
    return told


def main() -> None:
    """Measure, and print the medians as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--also", type=int, default=0, help="rows of a second, larger catalogue")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--also_rounds", type=int, default=1, help="of the larger catalogue")
    parser.add_argument("--memory", default="8g", help="of the driver, which is all there is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="data-plane-") as temporary:
        folder = Path(temporary)
        spark = make_session(folder, options.memory)
        measure(spark, folder / "warm", 10_000)  # the JVM compiles what it runs often
        result: dict[str, Any] = {}
        sizes = {options.rows: options.rounds}
        if options.also:
            sizes[options.also] = options.also_rounds
        for rows, times in sizes.items():
            rounds = []
            for number in range(times):
                print(f"{rows:,} rows, round {number + 1}", flush=True)
                rounds.append(measure(spark, folder / f"{rows}-{number}", rows))
            result[str(rows)] = {
                name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]
            }
        if options.also:
            for kind in ("new", "changed"):
                few, many = (result[str(n)][f"{kind}_s"] / n for n in (options.rows, options.also))
                result[f"{kind}_cost_per_row_ratio"] = round(many / few, 3)
        spark.stop()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
