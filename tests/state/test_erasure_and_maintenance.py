"""One table set, an erasure and a maintenance: what goes, what stays, and what no file holds."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from fake_catalogue import HeldLease
from fake_model import TAXONOMY
from pyspark.sql import functions as F  # noqa: N812

import pipeline.tables.erase as erasing
from jobs.erase_images import main as erase_main
from jobs.maintain_tables import main as maintain_main
from pipeline.config import (
    EraseImagesConfig,
    LeaseConfig,
    MaintainTablesConfig,
    RetryConfig,
    TablesConfig,
)
from pipeline.errors import ConfigurationError, LeaseError, TablesError
from pipeline.tables.labels import write_labels
from pipeline.tables.lease import hold_lease
from pipeline.tables.ledger import Ledger
from pipeline.tables.maintain import Maintenance
from pipeline.tables.merge import merge_rows
from pipeline.tables.schemas import IMAGES, SCHEMA_VERSION, TABLES
from pipeline.tables.store import TableSet
from pipeline.tagging.erase import read_ids, run_erasure
from pipeline.tagging.release import publish_run
from pipeline.tagging.selection import plan_actions

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=90)
MARK = "zz-erase-me-17"
UNHEARD = "zz-erase-me-17 никогда 🛏️"
RUNS = {  # by run_seq; the last published run of a job is never forgotten
    "old": ("published", LONG_AGO),
    "cut-off": ("publishing", LONG_AGO),
    "failed": ("failed", LONG_AGO),
    "failed-lately": ("failed", NOW),
    "discarded": ("discarded", LONG_AGO),
    "held": ("held", LONG_AGO),
    "staged": ("staged", LONG_AGO),
    "started": ("started", LONG_AGO),
    "last": ("published", LONG_AGO),
}


class Care:
    """A table set that is erased from and maintained."""

    def __init__(self, spark: Any, folder: Path) -> None:
        self.spark, self.folder = spark, folder
        self.tables = TableSet(spark, str(folder / "tables"))

    def append(self, name: str, rows: list[dict[str, Any]]) -> None:
        columns = next(table.columns for table in TABLES if table.name == name)
        values = [tuple(row.get(column) for column in columns.names) for row in rows]
        self.tables.append(name, self.spark.createDataFrame(values, columns), commit_note="made")

    def stage(self, run_id: str, *image_ids: str) -> None:
        self.append("tagging_results", [fact(run_id, image_id) for image_id in image_ids])

    def erase(self, *ids: str, **options: Any) -> dict[str, Any]:
        config = EraseImagesConfig(tables=TablesConfig(location=self.tables.location), ids=ids)
        config = EraseImagesConfig(**{**vars(config), **options})
        return run_erasure(self.spark, config, now=lambda: NOW)

    def maintain(self, **options: Any) -> dict[str, Any]:
        place = TablesConfig(location=self.tables.location)
        config = MaintainTablesConfig(tables=place, **options)
        return Maintenance(spark=self.spark, config=config, now=NOW).run()

    def rows(self, name: str) -> list[dict[str, Any]]:
        """A second reader: delta-rs, not Spark."""
        return DeltaTable(self.tables.path(name)).to_pyarrow_table().to_pylist()

    def versions(self) -> dict[str, int]:
        return {t.name: DeltaTable(self.tables.path(t.name)).version() for t in TABLES}

    def facts(self) -> Counter[str]:
        return Counter(row["run_id"] for row in self.rows("tagging_results"))

    def action(self, image_id: str) -> str:
        """What a manifest that names the image again makes of it."""
        row = {"image_id": image_id, "image_version": "9", "deleted": False, "contradicted": False}
        rows = self.spark.createDataFrame(
            [tuple(row.values())],
            "image_id string, image_version string, deleted boolean, contradicted boolean",
        )
        images = self.tables.read("images")
        moment = {"as_of": F.lit(NOW), "run_seq": F.lit(99)}
        plan = plan_actions(rows, images, **moment, retry=RetryConfig(), force=True)
        return str(plan.collect()[0]["action"])

    def files_with(self, marker: str) -> list[str]:
        """Data files of any table, also of change data, that hold the text in any column."""
        return [
            str(path.relative_to(self.folder))
            for path in sorted(self.folder.rglob("*.parquet"))
            if "_delta_log" not in path.parts
            and marker in str(pq.ParquetFile(path).read().to_pylist())
        ]


def fact(run_id: str, image_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "image_id": image_id,
        "source": "hotels",
        "status": "tagged",
        "origin": "model",
        "image_version": "1",
        "as_of": LONG_AGO,
        "run_seq": [*RUNS].index(run_id),
        "model_version": "fake-1",
        "taxonomy_version": TAXONOMY.version,
        "tagged_at": LONG_AGO,
        "uri": f"/photos/{image_id}.jpg",
        "tags": [("scene", "bed", 0.75, "image")],
        "embedding": [0.5, 0.5],
    }


def published(image_id: str) -> dict[str, Any]:
    row = fact("old", image_id)
    return {**row, "as_of_seq": 0, "attempts": 0, "embedding_seq": 0}


def ledger_rows(run_id: str) -> list[dict[str, Any]]:
    state, at = RUNS[run_id]
    same = {
        "run_id": run_id,
        "run_seq": [*RUNS].index(run_id),
        "job": "tag_nightly",
        "as_of": LONG_AGO,
        "manifest_digest": "m",
        "model_version": "fake-1",
        "taxonomy_version": TAXONOMY.version,
        "config": "{}",
        "product_version": "0",
    }
    first = {**same, "change": 1, "state": "started", "at": LONG_AGO}
    return (
        [first] if state == "started" else [first, {**same, "change": 2, "state": state, "at": at}]
    )


@pytest.fixture(scope="module")
def care(spark, tmp_path_factory) -> Care:
    """Tables with runs in every state, each with a fact of the image that will be erased."""
    care = Care(spark, tmp_path_factory.mktemp("care"))
    care.created = care.maintain(vacuum=False, optimize=False, retain=False)
    write_labels(care.tables, TAXONOMY, HeldLease())
    care.append("tagging_runs", [row for run_id in RUNS for row in ledger_rows(run_id)])
    facts = [fact(run_id, image_id) for run_id in RUNS for image_id in (MARK, f"of {run_id}")]
    care.append("tagging_results", facts)
    care.stage("last", "more of last")
    care.append("images", [published(image_id) for image_id in (MARK, "of old")])
    care.append("image_embeddings", [published(image_id) for image_id in (MARK, "of old")])
    tag = {"task": "scene", "label": "pool", "score": 0.75, "source": "image"}
    tags = [{**published(image_id), **tag} for image_id in (MARK, "of old")]
    care.append("image_tags", tags)
    # A change of the image, so that change data holds it as well.
    moved = (
        care.tables.read("images").where(F.col("image_id") == MARK).withColumn("width", F.lit(7))
    )
    merge_rows(care.tables, IMAGES, moved, values=("width",), note="made", lease=HeldLease())
    return care


def test_maintenance_creates_the_tables(care):
    assert care.created["created"] == [table.name for table in TABLES]
    assert (care.created["state"], care.created["schema_version"]) == ("done", SCHEMA_VERSION)


def test_dry_runs_say_what_would_be_done_and_change_nothing(care):
    before = care.versions()
    told = care.maintain(dry_run=True)
    assert (told["state"], told["expired_runs"]) == ("dry_run", ["discarded", "failed", "old"])
    assert told["facts_deleted"] == 6
    works = {name: one["optimized"] for name, one in told["tables"].items()}
    assert works["images"] == works["image_tags"] == "clustered"
    assert works["tagging_results"] == "compacted"
    erasure = care.erase(MARK, UNHEARD, dry_run=True)
    assert (erasure["erased"], erasure["unknown"]) == (2, 1)
    assert erasure["rows_deleted"]["tagging_results"] == len(RUNS)
    assert care.versions() == before


@pytest.fixture(scope="module")
def erased(care) -> dict[str, Any]:
    """The image erased: cut off before the facts went, done again, done a third time."""
    told: dict[str, Any] = {}
    delete = erasing.delete_rows

    def cut_off(tables: Any, name: str, *args: Any, **kwargs: Any) -> int:
        if name == "tagging_results":
            raise KeyboardInterrupt
        return delete(tables, name, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(erasing, "delete_rows", cut_off)
        with pytest.raises(KeyboardInterrupt):
            care.erase(MARK, UNHEARD, MARK)
    told["cut off"] = {row["image_id"]: row for row in care.rows("images")}
    told["facts when cut off"] = care.facts()
    told["again"] = care.erase(MARK, UNHEARD, as_of="2027-01-01")
    told["versions"] = care.versions()
    told["third"] = care.erase(MARK, UNHEARD)
    return told


def test_the_tombstone_is_written_first_and_says_nothing_but_id_feed_and_date(care, erased):
    tombstone = erased["cut off"][MARK]
    kept = {key: value for key, value in tombstone.items() if value is not None}
    assert kept == {
        "image_id": MARK,
        "source": "hotels",
        "status": "erased",
        "as_of": NOW,
        "as_of_seq": 0,
        "attempts": 0,
    }
    assert erased["cut off"][UNHEARD]["source"] == "erased"
    assert erased["facts when cut off"]["held"] == 2


def test_every_row_of_the_image_goes_in_runs_of_every_state(care, erased):
    assert erased["again"]["rows_deleted"] == {
        "image_tags": 0,
        "image_embeddings": 0,
        "tagging_results": len(RUNS),
    }
    assert (erased["again"]["erased"], erased["again"]["erased_before"]) == (0, 2)
    assert erased["again"]["history_gone_after"] == (NOW + timedelta(days=7)).isoformat()
    for name in ("image_tags", "image_embeddings", "tagging_results"):
        left = {row["image_id"] for row in care.rows(name)}
        assert MARK not in left
        assert "of old" in left


def test_an_erasure_done_again_changes_nothing(care, erased):
    images = {row["image_id"]: row for row in care.rows("images")}
    assert images[MARK] == erased["cut off"][MARK]
    assert sum(erased["third"]["rows_deleted"].values()) == 0
    assert care.versions() == erased["versions"]


def test_a_publish_that_was_cut_off_is_finished_before_the_erasure(care, erased):
    runs = {row["run_id"]: row["state"] for row in care.rows("tagging_runs") if row["change"] > 2}
    assert runs == {"cut-off": "published"}
    assert "of cut-off" in {row["image_id"] for row in care.rows("images")}


def test_what_is_staged_of_it_since_goes_when_its_run_is_published(care, erased):
    care.stage("staged", MARK)
    ledger = Ledger(care.tables)
    run = publish_run(care.tables, ledger, ledger.find("staged"), HeldLease(), now=lambda: NOW)
    assert (run.counts["tagged"], run.counts["superseded"]) == (1, 1)
    assert [r["image_id"] for r in care.rows("tagging_results") if r["run_id"] == "staged"] == [
        "of staged"
    ]
    status = {row["image_id"]: row["status"] for row in care.rows("images")}
    assert (status[MARK], status["of staged"]) == ("erased", "tagged")


def test_no_later_manifest_brings_it_back(care, erased):
    assert [care.action(image_id) for image_id in (MARK, UNHEARD, "of old")] == [
        "erased",
        "erased",
        "tag",
    ]


@pytest.fixture(scope="module")
def maintained(care, erased) -> dict[str, Any]:
    """After a maintenance that keeps no history, with a fact of the erased image staged since."""
    care.stage("started", MARK)
    assert care.files_with(MARK)
    return care.maintain(retention_h=0.0, assume_idle=True)


def test_after_the_vacuum_no_data_file_holds_the_image_but_its_tombstone(care, maintained):
    assert maintained["erased_rows_deleted"] == 1
    assert maintained["vacuumed_files"] > 0
    (holding,) = care.files_with(MARK)
    assert holding.startswith("tables/images/part-")
    tombstones = [row for row in care.rows("images") if MARK in row["image_id"]]
    assert {row["status"] for row in tombstones} == {"erased"}


def test_facts_go_with_their_run_but_not_those_that_may_still_be_published(care, maintained):
    assert maintained["expired_runs"] == ["discarded", "failed", "old"]
    assert maintained["facts_deleted"] == 3
    assert care.facts().keys() == {
        "cut-off",  # published a moment ago
        "failed-lately",
        "held",
        "staged",
        "started",
        "last",
    }
    assert care.facts()["last"] == 2


def test_files_of_published_runs_are_brought_together(care, maintained):
    files = DeltaTable(care.tables.path("tagging_results")).file_uris()
    assert sum("run_id=last/" in file for file in files) == 1
    results = maintained["tables"]["tagging_results"]
    assert results["files_after"] < results["files_before"]
    assert maintained["tables"]["image_tags"]["optimized"] == "clustered"
    before = care.versions()
    again = care.maintain(vacuum=False)
    assert {one["optimized"] for one in again["tables"].values()} <= {"unchanged", "compacted"}
    assert care.versions() == before


def test_an_id_that_is_allowed_again_may_come_back(care, maintained):
    told = care.erase(MARK, "of old", "nobody", allow_again=True)
    assert (told["state"], told["allowed_again"], told["ids"]) == ("allowed_again", 1, 3)
    assert care.action(MARK) == "tag"
    assert care.action(UNHEARD) == "erased"
    assert care.erase(MARK, allow_again=True)["allowed_again"] == 0


def test_both_jobs_wait_for_who_publishes_and_name_him(care, erased):
    none = LeaseConfig(wait_s=0)
    with hold_lease(care.tables, "run night-1", none):
        with pytest.raises(LeaseError, match="run night-1"):
            care.erase("of held", lease=none)
        with pytest.raises(LeaseError, match="run night-1"):
            care.maintain(lease=none, retain=True)


def test_a_place_without_tables_is_no_successful_erasure(spark, tmp_path):
    with pytest.raises(TablesError, match="tables are missing"):
        Care(spark, tmp_path).erase("a")


# --- what the command line is told


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (erase_main, [], "one of --ids and --ids_file"),
        (erase_main, ["--ids", "[]"], "one of --ids and --ids_file"),
        (erase_main, ["--ids", '["a"]', "--ids_file", "x"], "got both"),
        (erase_main, ["--ids", '["a", ""]'], "an image id is empty"),
        (erase_main, ["--ids", '["a"]', "--as_of", "soon"], "as_of is no moment"),
        (maintain_main, ["--retention_h", "0"], "say so with --assume_idle"),
        (maintain_main, ["--keep_facts_days", "-1"], "keep_facts_days"),
    ],
)
def test_wrong_command_lines_are_told_before_anything_starts(main, arguments, message, capsys):
    assert main(["--tables.location", "/nowhere", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_ids_are_read_from_text_and_parquet(spark, tmp_path):
    text = tmp_path / "ids.txt"
    text.write_bytes("\ufeffa\r\n\r\nnaïve/ключ 🛏️\r\n a \r\n".encode())
    assert sorted(read_ids(spark, str(text))) == [" a ", "a", "naïve/ключ 🛏️"]
    parquet = tmp_path / "ids.parquet"
    pq.write_table(pa.table({"image_id": [1, 2]}), parquet)
    assert sorted(read_ids(spark, f"file://{parquet}")) == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("gone.txt", None, "cannot be read"),
        ("empty.parquet", {"image_id": pa.array([], pa.string())}, "names no images"),
        ("null.parquet", {"image_id": ["a", None]}, "no image in some rows"),
        ("other.parquet", {"id": ["a"]}, "no column image_id"),
        ("parquet.txt", {"image_id": ["a"]}, "is Parquet"),
    ],
)
def test_files_that_name_no_ids_are_refused(spark, tmp_path, name, columns, message):
    if columns is not None:
        pq.write_table(pa.table(columns), tmp_path / name)
    with pytest.raises(ConfigurationError, match=message):
        read_ids(spark, str(tmp_path / name))
