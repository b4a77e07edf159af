"""The whole job with a real model, from spark-submit in an empty folder to tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from demo.nights import FEW_ROWS
from demo.verify import read_rows, verify_run
from jobs.tag_nightly import main
from pipeline.synthetic import draw_scene, seeded, write_damaged
from udfs import worker

ROOT = Path(__file__).parents[2]
AS_OF = "2026-03-01T00:00:00Z"


@pytest.fixture(scope="module")
def bundle(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tiny_models.make_bundle(tmp_path_factory.mktemp("model")).path
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Twenty drawn photos between damaged inputs, as manifest rows."""
    folder = tmp_path_factory.mktemp("photos")
    rows: list[dict[str, Any]] = []
    for number in range(20):
        path = folder / f"photo {number} é.jpg"
        draw_scene(seeded(7, number), width=160, height=120).image.save(path)
        rows.append({"image_id": f"photo-{number}", "uri": str(path), "version": "1"})
    for damaged in write_damaged(folder / "damaged"):
        rows.insert(7, {"image_id": f"damaged-{damaged.name}", "uri": damaged.uri, "version": "1"})
    return rows


@pytest.fixture(scope="module")
def manifest(photos: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "night.parquet"
    write_manifest(path, photos)
    return path


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    schema = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("version", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


def arguments(tables: Path, manifest: Path, bundle: Path, *more: str) -> list[str]:
    return [
        f"--tables.location={tables}",
        f"--manifest.path={manifest}",
        f"--model.uri={bundle}",
        f"--as_of={AS_OF}",
        "--run_id=night-1",
        "--stage.chunk_rows=24",
        "--fetch.attempts=1",
        *more,
    ]


def state(tables: Path) -> dict[str, list[dict[str, Any]]]:
    """Published rows without the one column that says when."""
    names = ("images", "image_tags", "image_embeddings")
    found = {}
    for name in names:
        rows = read_rows(tables, name)
        for row in rows:
            row.pop("tagged_at", None)
        found[name] = sorted(rows, key=lambda row: (row["image_id"], row.get("label", "")))
    return found


@contextmanager
def submitted(
    distribution: Path, folder: Path, arguments: list[str]
) -> Iterator[subprocess.Popen[str]]:
    """spark-submit as in production: the product from a zip, nothing of it in the folder."""
    (zipped,) = distribution.glob("*-pyfiles.zip")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    command = [
        str(Path(sys.executable).with_name("spark-submit")),
        *("--properties-file", str(ROOT / "conf" / "spark" / "laptop.conf")),
        *("--master", "local[2,3]"),
        *(part for setting in FEW_ROWS for part in ("--conf", setting)),
        *("--py-files", str(zipped)),
        str(ROOT / "jobs" / "tag_nightly.py"),
        *arguments,
    ]
    with (
        (folder / "stderr.log").open("a") as log,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        ) as job,
    ):
        try:
            yield job
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)


def wait_for_chunk(tables: Path, job: subprocess.Popen[str], *, timeout_s: float) -> None:
    """Until the first chunk of model results is committed."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert job.poll() is None, "the job ended before it could be killed"
        log = tables / "tagging_results" / "_delta_log"
        if any("chunk 1" in commit.read_text() for commit in log.glob("*.json")):
            return
        time.sleep(0.05)
    pytest.fail(f"no chunk was committed within {timeout_s} s")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("spark")
def test_a_killed_submit_goes_on_and_ends_as_an_undisturbed_run(
    distribution: Path, manifest: Path, bundle: Path, tmp_path: Path
) -> None:
    empty, tables = tmp_path / "empty", tmp_path / "tables"
    empty.mkdir()
    asked = arguments(tables, manifest, bundle, f"--summary={tmp_path / 'summary.json'}")

    with submitted(distribution, empty, asked) as killed:
        wait_for_chunk(tables, killed, timeout_s=240)
        os.killpg(killed.pid, signal.SIGKILL)
    assert not read_rows(tables, "images")

    with submitted(distribution, empty, asked) as resumed:
        told, _ = resumed.communicate(timeout=280)
    assert resumed.returncode == 0, (empty / "stderr.log").read_text()[-3000:]
    summary = json.loads(told.splitlines()[-1])
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    images = pq.read_table(manifest).num_rows
    assert (summary["manifest_rows"], summary["tagged"]) == (images, 20)
    assert (summary["failed"], summary["state"]) == (images - 20, "published")

    # Nothing that was staged went through the model again.
    staged = Counter(row["image_id"] for row in read_rows(tables, "tagging_results"))
    assert set(staged.values()) == {1}
    assert verify_run(tables, manifest, "night-1").broken == ()

    calm = tmp_path / "calm"
    assert main(arguments(calm, manifest, bundle)) == 0
    assert_same(state(tables), state(calm))


def assert_same(left: dict[str, list[Any]], right: dict[str, list[Any]]) -> None:
    for name, rows in left.items():
        for one, other in zip(rows, right[name], strict=True):
            assert one.keys() == other.keys()
            for column, value in one.items():
                if column in ("embedding", "score"):
                    assert value == pytest.approx(other[column], abs=1e-5)
                else:
                    assert value == other[column], (name, column)


@pytest.fixture
def run(
    spark: SparkSession, capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> Iterator[Any]:
    """Run the job here; its exit code and the last line it told."""

    def call(*more: str) -> tuple[int, str]:
        defaults = {
            "--tables.location": str(tmp_path / "tables"),
            "--manifest.path": str(tmp_path / "manifest.parquet"),
            "--model.uri": str(bundle),
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


def test_a_file_that_is_no_manifest_gets_one_line(run, tmp_path):
    (tmp_path / "manifest.parquet").write_text("not parquet")
    code, told = run()
    assert (code, "cannot be read" in told) == (1, True)


def test_an_unknown_setting_is_a_usage_error(run):
    code, told = run("--fetch.treads=3")
    assert code == 2
    assert "fetch.threads" in told


def test_a_column_named_but_missing_gets_one_line(run, tmp_path):
    pq.write_table(pa.table(one_row(image_id="a", uri="/x")), tmp_path / "manifest.parquet")
    code, told = run("--manifest.columns.text=title")
    assert (code, "no column 'title'" in told) == (1, True)


def test_a_bundle_with_one_byte_changed_is_refused(run, bundle, tmp_path):
    broken = tmp_path / "bundle"
    broken.mkdir()
    for file in bundle.iterdir():
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
    code, told = run("--dry_run", "--tables.location=tables")
    assert (code, json.loads(told)["to_tag"]) == (0, 0)
    assert not (tmp_path / "tables").exists()
    code, told = run("--tables.location=tables")
    summary = json.loads(told)
    assert (code, summary["manifest_rows"], summary["state"]) == (0, 0, "published")
    assert DeltaTable(str(tmp_path / "tables" / "images")).to_pyarrow_table().num_rows == 0
