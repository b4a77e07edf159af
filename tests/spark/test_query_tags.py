"""query_tags, from its command line to what it prints."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.query_tags import main
from pipeline.tables.create import create_table
from pipeline.tables.schemas import IMAGE_TAGS, IMAGES
from pipeline.tables.store import TableSet


@pytest.fixture(scope="module")
def location(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    tables = TableSet(spark, str(tmp_path_factory.mktemp("query") / "tables"))
    for definition in (IMAGES, IMAGE_TAGS):
        create_table(tables, definition)
    spark.sql(
        f"INSERT INTO delta.`{tables.path('images')}`"
        " (image_id, source, status, as_of, as_of_seq, attempts, reason) VALUES"
        " ('a', 's', 'deleted', timestamp'2026-03-01 12:00:00Z', 1, 0, null),"
        " ('b', 's', 'failed', timestamp'2026-03-01 12:00:00Z', 1, 1, 'not_found')"
    )
    spark.sql(
        f"INSERT INTO delta.`{tables.path('image_tags')}` VALUES"
        " ('a', 'scene', 'pool', 0.9f, 'image', 'v1', 'm1', 't1', 'r1'),"
        " ('a', 'scene', 'bed, \"big\"', 0.8f, 'image', 'v1', 'm1', 't1', 'r1')"
    )
    return tables.location


def query(location: str, *argv: str) -> int:
    return main(["--tables.location", location, "--log.level", "ERROR", *argv])


def test_rows_are_printed_as_a_table(location: str, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT i.image_id, label, score, i.reason FROM images i JOIN image_tags t"
    code = query(location, "--sql", f"{sql} ON i.image_id = t.image_id ORDER BY score DESC;")

    assert code == 0
    assert capsys.readouterr().out.splitlines() == [
        "image_id  label       score  reason",
        "--------  ----------  -----  ------",
        "a         pool          0.9  NULL",
        'a         bed, "big"    0.8  NULL',
    ]


def test_rows_are_printed_as_csv(location: str, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT label, array(score) AS scores, null AS n FROM image_tags ORDER BY score"

    assert query(location, "--sql", sql, "--format", "csv") == 0
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [
        ["label", "scores", "n"],
        ['bed, "big"', "[0.8]", ""],
        ["pool", "[0.9]", ""],
    ]


def test_rows_are_printed_as_json_with_times_in_utc(
    location: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    file = tmp_path / "query.sql"
    file.write_text("SELECT image_id, as_of, status, status FROM images ORDER BY image_id")

    assert query(location, "--file", str(file), "--format", "json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"image_id": "a", "as_of": "2026-03-01T12:00:00.000Z", "status": s, "status_2": s}
        if image == "a"
        else {"image_id": "b", "as_of": "2026-03-01T12:00:00.000Z", "status": s, "status_2": s}
        for image, s in (("a", "deleted"), ("b", "failed"))
    ]


def test_what_is_asked_most_has_a_view(location: str, capsys: pytest.CaptureFixture[str]) -> None:
    sql = (
        "SELECT image_id, (SELECT sum(images) FROM coverage) AS n FROM tagging_failures"
        " WHERE cosine_similarity(array(1f), array(2f)) = 1"
    )

    assert query(location, "--sql", sql, "--format", "csv") == 0
    assert capsys.readouterr().out == "image_id,n\nb,2\n"


def test_all_tables_and_views_are_shown(location: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert query(location, "--sql", "SHOW VIEWS", "--format", "json") == 0

    shown = {json.loads(line)["viewName"] for line in capsys.readouterr().out.splitlines()}
    assert shown >= {"images", "image_tags", "coverage", "tagging_failures"}


def test_rows_beyond_the_limit_are_announced(
    location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("--sql", "SELECT image_id FROM images ORDER BY 1", "--max_rows", "1")

    assert main(["--tables.location", location, "--log.level", "WARNING", *argv]) == 0

    written = capsys.readouterr()
    assert written.out.splitlines()[2:] == ["a"]
    assert "only the first 1 rows" in written.err


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELCT 1", "Syntax error at or near 'SELCT'"),
        ("SELECT * FROM imags", "The table or view `imags` cannot be found"),
        ("SELECT nmae FROM images", "with name `nmae` cannot be resolved. Did you mean"),
        ("SELECT CAST(image_id AS INT) FROM images", "cannot be cast to"),
    ],
)
def test_a_wrong_statement_is_one_line_and_exit_code_1(
    location: str, sql: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query(location, "--sql", sql) == 1

    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("mumic-query-tags: error: ")
    assert said in written.err
    assert written.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "expected one of --sql and --file"),
        (("--sql", "SELECT 1", "--file", "x.sql"), "expected one of --sql and --file"),
        (("--file", "/no/such.sql"), "cannot be read [/no/such.sql]"),
        (("--sql", "SELECT Embed_Text('a bed')"), "needs a model; give --model.uri"),
    ],
)
def test_a_command_line_that_says_too_little_is_exit_code_2(
    argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert query(str(tmp_path), *argv) == 2
    assert said in capsys.readouterr().err


def test_tables_that_are_not_there_are_named(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query(str(tmp_path / "nowhere"), "--sql", "SELECT 1") == 1
    assert f"there are no tables [{tmp_path / 'nowhere'}]" in capsys.readouterr().err
