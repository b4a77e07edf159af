"""What consumers read: changes since a version, and all tables at one moment."""

from __future__ import annotations

import shutil

import pytest
from deltalake import DeltaTable

from pipeline.errors import TablesError
from pipeline.tables.changes import read_at, read_changes
from pipeline.tables.create import create_table
from pipeline.tables.schemas import IMAGE_TAGS, LABELS
from pipeline.tables.store import TableSet


@pytest.fixture(scope="module")
def tables(spark, tmp_path_factory) -> TableSet:
    """Three versions: nothing, two tags, one of them changed and one gone."""
    made = TableSet(spark, str(tmp_path_factory.mktemp("changes") / "tables é"))
    create_table(made, IMAGE_TAGS)
    tags = [(image, "scene", "pool", 0.9, "image", "1", "m", "t", "r") for image in ("a", "ключ 🛏️")]
    rows = spark.createDataFrame(tags, IMAGE_TAGS.columns)
    made.append("image_tags", rows, commit_note="two", computed=True)
    (
        made.delta("image_tags")
        .alias("t")
        .merge(rows.alias("s"), "t.image_id = s.image_id")
        .whenMatchedDelete("s.image_id = 'a'")
        .whenMatchedUpdate(set={"score": "0.5f"})
        .execute()
    )
    return made


def changes_of(frame) -> list[tuple[str, str, int]]:
    rows = frame.select("image_id", "_change_type", "_commit_version").collect()
    return sorted(tuple(row) for row in rows)


def test_changes_since_a_version_tell_all_that_came_after_it(tables):
    later = [
        ("a", "delete", 2),
        ("ключ 🛏️", "update_postimage", 2),
        ("ключ 🛏️", "update_preimage", 2),
    ]
    first = [("a", "insert", 1), ("ключ 🛏️", "insert", 1)]

    assert changes_of(read_changes(tables, "image_tags", since=1)) == later
    assert changes_of(read_changes(tables, "image_tags", since=0, until=1)) == first
    told = DeltaTable(tables.path("image_tags")).load_cdf(starting_version=2).read_all()
    assert sorted(told["_change_type"].to_pylist()) == sorted(kind for _, kind, _ in later)


def test_nothing_changed_since_the_latest_version(tables):
    latest = tables.version("image_tags")
    nothing = read_changes(tables, "image_tags", since=latest)
    something = read_changes(tables, "image_tags", since=latest - 1)

    assert nothing.collect() == []
    assert nothing.dtypes == something.dtypes
    assert read_changes(tables, "image_tags", since=1, until=1).collect() == []


@pytest.mark.parametrize(("since", "until"), [(-1, None), (3, None), (1, 3), (2, 1)])
def test_versions_that_do_not_exist_are_refused(tables, since, until):
    with pytest.raises(TablesError, match=r"no such versions .* 2, the latest version"):
        read_changes(tables, "image_tags", since=since, until=until)


def test_a_table_without_a_feed_is_refused(tables):
    with pytest.raises(TablesError, match=r"no change data feed .*expected image_tags or images"):
        read_changes(tables, LABELS.name, since=0)


def test_changes_that_were_vacuumed_are_told_before_they_are_read(tables, tmp_path, spark):
    copy = TableSet(spark, str(tmp_path))
    shutil.copytree(tables.path("image_tags"), copy.path("image_tags"))
    shutil.rmtree(tmp_path / "image_tags" / "_change_data")
    with pytest.raises(TablesError, match=r"no longer kept .*versions 2 to 2"):
        read_changes(copy, "image_tags", since=1)


def test_tables_are_read_at_one_moment(tables):
    frames = read_at(tables, {"image_tags": 1})

    assert frames["image_tags"].count() == 2
    assert read_at(tables, {}) == {}
    with pytest.raises(TablesError, match=r"not kept .*version 7"):
        read_at(tables, {"image_tags": 7})
    with pytest.raises(TablesError, match="no such tables; got tags"):
        read_at(tables, {"tags": 1})
