"""Faults on purpose: what fails leaves tables that the next run brings to their end.

The short part; the long one is in ``tests/chaos``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_catalogue import DAY_1, Catalogue, row
from fake_model import calls_of
from hostile_images import assert_hostile_images_cost_themselves_alone
from pyspark.errors import PythonException
from pyspark.sql import SparkSession
from whole_tags import assert_tags_whole

import pipeline.tagging.publish as publishing
from demo.verify import find_differences, read_state
from pipeline.config import MaintainTablesConfig, StageConfig, TablesConfig
from pipeline.errors import ModelError, TablesError
from pipeline.query import register_tables
from pipeline.spark import explain
from pipeline.tables.last_commit import find_damage
from pipeline.tables.maintain import Maintenance
from pipeline.tables.store import TableSet

ROWS = [row("a"), row("b"), row("model", "/fatal/1.jpg"), row("c", "/bad/corrupt/c.jpg")]
ONE_TASK = StageConfig(chunk_rows=100)


@pytest.fixture(scope="module")
def expected(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The same night, undisturbed."""
    catalogue = Catalogue(spark, tmp_path_factory.mktemp("undisturbed"))
    catalogue.run(catalogue.manifest("m", ROWS), "night-1", DAY_1)
    return catalogue


@pytest.fixture
def fresh(spark: SparkSession, tmp_path: Path) -> Catalogue:
    return Catalogue(spark, tmp_path)


def test_a_fault_of_the_model_and_lost_answers_leave_what_the_next_run_ends(
    fresh: Catalogue, expected: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = fresh.manifest("m", ROWS)
    fatal = fresh.folder / "fatal"
    fatal.touch()
    with pytest.raises(PythonException) as raised:
        fresh.run(manifest, "night-1", DAY_1)
    assert isinstance(explain(raised.value), ModelError)
    # Nothing is staged of a chunk in which the model failed, and nothing is published.
    assert fresh.rows("tagging_results") == []
    assert not fresh.images()
    assert {change["state"] for change in fresh.rows("tagging_runs")} == {"started", "failed"}
    fatal.unlink()

    merge, lost = publishing.merge_rows, []

    def lose_the_answer(tables, table, *args, **kwargs):
        told = merge(tables, table, *args, **kwargs)
        if table.name not in lost:
            lost.append(table.name)
            raise TablesError("the answer was lost")
        return told

    monkeypatch.setattr(publishing, "merge_rows", lose_the_answer)
    for _ in range(3):
        with pytest.raises(TablesError, match="answer was lost"):
            fresh.run(manifest, "night-1", DAY_1)
    assert fresh.run(manifest, "night-1", DAY_1)["state"] == "published"
    assert lost == ["image_embeddings", "image_tags", "images"]
    tables = Path(fresh.location)
    assert find_differences(read_state(tables), read_state(Path(expected.location))) == []
    assert_tags_whole(tables)
    assert calls_of(fresh.calls)["a"] == 2  # once in the chunk that was lost


def test_a_commit_that_is_cut_off_is_named_and_nothing_is_changed(
    spark: SparkSession, expected: Catalogue
) -> None:
    place = TablesConfig(location=expected.location)
    manifest = expected.manifest("next", [*ROWS, row("new")])
    for table in ("tagging_runs", "images"):
        log = Path(expected.location, table, "_delta_log")
        last = max(log.glob("*.json"))
        whole, versions = last.read_bytes(), expected.versions()
        for kept in (0, len(whole) // 2):
            last.write_bytes(whole[:kept])
            for job in (
                lambda: expected.run(manifest, "night-2", DAY_1),
                Maintenance(spark=spark, config=MaintainTablesConfig(tables=place), now=DAY_1).run,
                lambda: register_tables(TableSet(spark, expected.location), "SHOW TABLES"),
            ):
                with pytest.raises(TablesError, match=f"damaged.*{table}/_delta_log/{last.name}"):
                    job()
        last.write_bytes(whole)
        assert expected.versions() == versions
    assert expected.run(manifest, "night-2", DAY_1)["tagged"] == 1


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"", "empty"),
        (b'{"a": 1}\n', None),
        (b'{"a": 1}', None),
        (b'{"a": 1}\n{"b": ', "not whole, in a file of 15 bytes"),
        (b'{"a": 1}\n\xff\xfe', "not whole"),
        (b'{"a": 1}\n' + b"\0" * 512 + b'\n{"b": 1}\n', "not whole"),
        (b"\0" * 4096, "not whole"),  # what some file systems leave
        *(
            case
            for line in (b'{"a": "' + b"x" * 3_000_000, b'{"a": "' + b"x" * 9_000_000)
            for case in (
                (line + b'"}\n', None),
                (line, "not whole"),
                (line + b'"}\n{"b": 1}\n', None),
                (line + b'"}\n{"b": ', "not whole"),
                (b'{"b": 1}\n' + line + b'"}\n', None),
            )
        ),
    ],
)
def test_the_end_of_a_commit_tells_whether_it_is_whole(
    content: bytes, damage: str | None, tmp_path: Path
) -> None:
    commit = tmp_path / "0.json"
    commit.write_bytes(content)
    found = find_damage(commit)
    assert found is None if damage is None else found is not None and damage in found


def test_hostile_images_cost_themselves_alone(
    spark: SparkSession, tmp_path: Path, tiny_bundle: Path
) -> None:
    assert_hostile_images_cost_themselves_alone(
        spark, tiny_bundle, tmp_path, one_in=40, timeout_s=8.0
    )
