"""The whole job in this process: what wrong input gets, and that an empty manifest is fine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from jobs.tag_nightly import main
from pipeline.config import ManifestConfig
from pipeline.few_rows import few_rows
from pipeline.tagging.manifest import read_manifest
from udfs import worker

ROOT = Path(__file__).parents[2]
AS_OF = "2026-03-01T00:00:00Z"


@pytest.fixture
def run(
    spark: SparkSession, capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> Iterator[Any]:
    """Run the job here; its exit code and the last line it told."""

    def call(*more: str) -> tuple[int, str]:
        defaults = {
            "--tables.location": str(tmp_path / "tables"),
            "--manifest.path": str(tmp_path / "manifest.parquet"),
            "--model.uri": str(tiny_bundle),
            "--as_of": AS_OF,
            "--log.level": "ERROR",
        }
        given = {option.split("=")[0] for option in more}
        argv = [f"{name}={value}" for name, value in defaults.items() if name not in given]
        code = main([*argv, *more])
        captured = capsys.readouterr()
        told = captured.err if code else captured.out
        return code, told.strip().splitlines()[-1]

    yield call
    worker._engines.clear()


def one_row(**columns: Any) -> dict[str, list[Any]]:
    return {name: [value] for name, value in columns.items()}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, "the manifest does not exist"),
        (one_row(uri="/x.jpg"), "the manifest has no column 'image_id'"),
        (one_row(image_id="a"), "says nowhere where its images are"),
        (one_row(image_id="a", uri=7), "column 'uri' has a wrong type"),
        (one_row(image_id=1.5, uri="/x.jpg"), "column 'image_id' has a wrong type"),
        (one_row(image_id="a", uri="/x", deleted="no"), "column 'deleted' has a wrong type"),
        ({"image_id": ["a", None, ""], "uri": ["/x"] * 3}, "2 manifest rows have no image_id"),
    ],
)
def test_a_wrong_manifest_gets_one_line(run, tmp_path, columns, message):
    if columns is not None:
        pq.write_table(pa.table(columns), tmp_path / "manifest.parquet")
    code, told = run()
    assert code == 1
    assert told.startswith("mumic-tag-nightly: error: ")
    assert message in told
    assert not (tmp_path / "tables").exists()


def test_a_delta_table_is_a_manifest_with_deletion_vectors_too(
    spark: SparkSession, tmp_path: Path
) -> None:
    place = tmp_path / "manifest"
    rows = [(key, f"/{key}.jpg") for key in "abc"]
    frame = spark.createDataFrame(rows, "image_id string, uri string").coalesce(1)
    with_vectors = {"delta.enableDeletionVectors": "true"}
    frame.write.format("delta").options(**with_vectors).save(str(place))
    config = ManifestConfig(path=str(place))
    first = read_manifest(spark, config)
    spark.sql(f"DELETE FROM delta.`{place}` WHERE image_id = 'b'")
    last = max((place / "_delta_log").glob("*.json"))
    assert '"deletionVector":{' in last.read_text()

    second = read_manifest(spark, config)

    with few_rows(spark):
        assert {row["image_id"] for row in second.rows.collect()} == {"a", "c"}
    assert (first.n_rows, second.n_rows) == (3, 2)
    assert second.as_of > first.as_of
    assert second.digest != first.digest
    assert read_manifest(spark, config).digest == second.digest


def test_a_file_that_is_no_manifest_gets_one_line(run, tmp_path):
    (tmp_path / "manifest.parquet").write_text("not parquet")
    code, told = run()
    assert (code, "cannot be read" in told) == (1, True)


def test_a_folder_with_a_column_of_two_types_gets_one_line(run, tmp_path):
    folder = tmp_path / "manifest.parquet"
    folder.mkdir()
    for number, key in enumerate(("a", 1)):
        pq.write_table(pa.table(one_row(image_id=key, uri="/x")), folder / f"{number}.parquet")
    code, told = run()
    assert (code, "cannot be read" in told) == (1, True), told


@pytest.mark.parametrize(
    "setting", ["--stage.chunk_rows=-5", "--stage.partition_rows=0", "--limit=-1", "--as_of=x"]
)
def test_numbers_that_mean_nothing_are_usage_errors(run, setting, tmp_path):
    pq.write_table(pa.table(one_row(image_id="a", uri="/x")), tmp_path / "manifest.parquet")
    code, told = run(setting)
    assert code == 2, told
    assert setting[2:].split("=")[0].split(".")[-1] in told
    assert not (tmp_path / "tables").exists()


def test_a_foreign_folder_at_a_table_s_place_gets_one_line(run, tmp_path):
    pq.write_table(pa.table(one_row(image_id="a", uri="/x")), tmp_path / "manifest.parquet")
    (tmp_path / "tables" / "images").mkdir(parents=True)
    (tmp_path / "tables" / "images" / "photo.jpg").write_text("")
    code, told = run()
    assert (code, "the storage refused" in told) == (1, True), told


def test_a_file_system_without_its_jar_gets_one_line(run, tmp_path):
    pq.write_table(pa.table(one_row(image_id="a", uri="/x")), tmp_path / "manifest.parquet")
    code, told = run("--tables.location=nowhere://bucket/tables")
    assert (code, "the storage refused" in told) == (1, True), told


def test_an_unknown_setting_is_a_usage_error(run):
    code, told = run("--fetch.treads=3")
    assert code == 2
    assert "fetch.threads" in told


def test_a_column_named_but_missing_gets_one_line(run, tmp_path):
    pq.write_table(pa.table(one_row(image_id="a", uri="/x")), tmp_path / "manifest.parquet")
    code, told = run("--manifest.columns.text=title")
    assert (code, "no column 'title'" in told) == (1, True)


def test_a_bundle_with_one_byte_changed_is_refused(run, tiny_bundle, tmp_path):
    broken = tmp_path / "bundle"
    broken.mkdir()
    for file in tiny_bundle.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    code, told = run(f"--model.uri={broken}")
    assert (code, "weights.safetensors" in told) == (1, True)


def test_a_gpu_that_is_not_there_stops_the_run_before_it_starts(run, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    pq.write_table(pa.table(one_row(image_id="a", uri="/x")), tmp_path / "manifest.parquet")
    code, told = run("--model.device=cuda")
    assert code == 1
    assert "GPU" in told
    assert not (tmp_path / "tables").exists()


def test_a_destination_that_cannot_be_written_gets_one_line(run, tmp_path):
    # A file where a folder must be: refused to root as well, unlike permissions.
    (tmp_path / "file").write_text("")
    pq.write_table(pa.table(one_row(image_id="a", uri="/x")), tmp_path / "manifest.parquet")
    code, told = run(f"--tables.location={tmp_path / 'file' / 'tables'}")
    assert (code, "the storage refused" in told) == (1, True)


def test_an_empty_manifest_and_a_relative_location_are_fine(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = pa.table({"image_id": pa.array([], pa.int64()), "uri": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "manifest.parquet")
    (tmp_path / "file").write_text("")
    code, told = run("--dry_run", "--tables.location=file/tables")
    assert (code, "cannot be written" in told) == (1, True), told
    code, told = run("--dry_run", "--tables.location=tables")
    assert (code, json.loads(told)["to_tag"]) == (0, 0)
    assert not (tmp_path / "tables").exists()
    code, told = run("--tables.location=tables")
    summary = json.loads(told)
    assert (code, summary["manifest_rows"], summary["state"]) == (0, 0, "published")
    assert DeltaTable(str(tmp_path / "tables" / "images")).to_pyarrow_table().num_rows == 0
