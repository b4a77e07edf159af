"""Makes Spark load the classes that jobs need: setup.sh archives them for every later start.

Two nights of a few rows, each of them a failure, so that no model is needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column
from pyspark.sql.functions import pandas_udf

from pipeline.config import ManifestConfig
from pipeline.spark import open_session
from pipeline.tables.schemas import OUTCOME
from pipeline.tagging.facts import Tagger
from pipeline.tagging.request import RunRequest
from pipeline.tagging.run import run_tagging
from pipeline.taxonomy import parse_taxonomy

TAXONOMY = {"tasks": [{"id": "scene", "kind": "multi_label", "labels": [{"id": "bed"}]}]}


@pandas_udf(OUTCOME)
def fail(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
    """Every image fails."""
    for ids in batches:
        rows = [("not_found", "on purpose", False, *[None] * 7)] * len(ids)
        yield pd.DataFrame(rows, columns=OUTCOME.names, dtype=object)


def tag(image_id: Column, *_others: Column) -> Column:
    """What a tagger is asked."""
    return fail(image_id)


def main() -> None:
    """Publish twice."""
    spark = open_session("mumic warm-up")
    tagger = Tagger(tag=tag, model_version="none", taxonomy=parse_taxonomy(TAXONOMY))
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "manifest.parquet")
        for night in (1, 2):
            ids = [str(number) for number in range(4 * night)]
            pq.write_table(pa.table({"image_id": ids, "uri": ids}), manifest)
            request = RunRequest(
                job="warm_up",
                run_id=f"night-{night}",
                tables_location=f"{folder}/tables",
                manifest=ManifestConfig(path=str(manifest)),
                as_of=datetime(2026, 3, night, tzinfo=UTC),
            )
            run_tagging(spark, request, tagger)


if __name__ == "__main__":
    main()
