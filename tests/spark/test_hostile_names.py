"""Names from outside that try to be SQL: folders, runs, feeds, columns, images and schemas."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_catalogue import DAY_1, Catalogue
from pyspark.sql import SparkSession

from pipeline.config import ColumnsConfig, ManifestConfig
from pipeline.errors import ConfigurationError
from pipeline.query import register_tables, run_query
from pipeline.tables.compaction import compact
from pipeline.tables.store import TableSet, quoted
from pipeline.tagging.request import RunRequest
from pipeline.tagging.run import run_tagging

NAMES = (
    "a'; DROP TABLE images; --",
    "b` OR `1`=`1",
    'c" \\',
    "d' OR '1'='1' \\'",
    "e.f%00 ${spark.app.name} $(id)",
)


class Held:
    def check(self) -> None:
        pass


def test_names_that_are_sql_are_names(spark: SparkSession, tmp_path: Path) -> None:
    catalogue = Catalogue(spark, tmp_path)
    place = tmp_path / "a'; DROP TABLE images; --" / 'b" OR 1=1'
    manifest = tmp_path / "night`s '.parquet"
    columns = dict(zip(("image_id", "uri", "version", "deleted"), NAMES, strict=False))
    rows = [(name, f"/ok/{number}'`.jpg", name, False) for number, name in enumerate(NAMES)]
    table = pa.table(dict(zip(columns.values(), map(list, zip(*rows, strict=True)), strict=True)))
    pq.write_table(table, manifest)
    catalogue.location = str(place)
    summaries = []
    for run_id in NAMES[3], NAMES[1]:
        request = RunRequest(
            **{
                **vars(catalogue.request(None, run_id, DAY_1)),
                "manifest": ManifestConfig(
                    path=str(manifest), source=NAMES[0], columns=ColumnsConfig(**columns)
                ),
                "force": True,
                "ids": NAMES[:4],
            }
        )
        summaries.append(run_tagging(spark, request, catalogue.tagger()))
    assert [(one["tagged"], one["state"]) for one in summaries] == [(4, "published")] * 2
    images = catalogue.images()
    assert images.keys() == set(NAMES[:4])
    assert {row["source"] for row in images.values()} == {NAMES[0]}
    assert {row["image_version"] for row in images.values()} == set(NAMES[:4])

    # OPTIMIZE takes its partition as a text.
    tables = TableSet(spark, catalogue.location)
    tables.append("tagging_results", tables.read("tagging_results"), commit_note="twice")
    before = len(catalogue.rows("tagging_results"))
    compact(tables, "tagging_results", cluster=False, runs=[NAMES[3]], lease=Held())
    assert len(catalogue.rows("tagging_results")) == before
    assert tables.delta("tagging_results").history(1).first()["operation"] == "OPTIMIZE"

    query = "SELECT run_id FROM runs WHERE run_id LIKE '%DROP%' OR state = 'published'"
    register_tables(tables, query)
    answer = run_query(spark, query, max_rows=10)
    assert {row[0] for row in answer.rows} == {NAMES[1], NAMES[3]}


def test_a_place_whose_name_delta_cannot_take_is_refused(spark: SparkSession) -> None:
    with pytest.raises(ConfigurationError, match="backtick"):
        TableSet(spark, "/data/a`b")


@pytest.mark.parametrize("schema", ["", "a..b", "a.", "a`; DROP TABLE b; --", "a.`b`c`"])
def test_what_names_no_schema_is_refused(schema: str) -> None:
    with pytest.raises(ConfigurationError, match="names no schema"):
        quoted(schema)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ("main.tagging", "`main`.`tagging`"),
        ("`main`.tagging", "`main`.`tagging`"),
        ("a'; DROP TABLE b; --", "`a'; DROP TABLE b; --`"),
    ],
)
def test_a_schema_is_quoted_part_by_part(schema: str, expected: str) -> None:
    assert quoted(schema) == expected
