"""A job killed with -9 and started again, through spark-submit: in a session of its own."""

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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo.nights import FEW_ROWS
from demo.verify import read_rows, verify_run
from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.images.loader import ImageRequest
from pipeline.models.engine import Outcome
from pipeline.synthetic import draw_scene, seeded, write_damaged
from pipeline.taxonomy import Taxonomy
from udfs.functions import publishable_tags
from udfs.settings import read_settings
from udfs.worker import load_engine

ROOT = Path(__file__).parents[2]
AS_OF = "2026-03-01T00:00:00Z"


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


def arguments(tables: Path, manifest: Path, tiny_bundle: Path, *more: str) -> list[str]:
    return [
        f"--tables.location={tables}",
        f"--manifest.path={manifest}",
        f"--model.uri={tiny_bundle}",
        f"--as_of={AS_OF}",
        "--run_id=night-1",
        "--stage.chunk_rows=24",
        "--fetch.attempts=1",
        *more,
    ]


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
def test_a_killed_submit_goes_on_and_ends_as_an_undisturbed_run(
    distribution: Path, manifest: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    empty, tables = tmp_path / "empty", tmp_path / "tables"
    empty.mkdir()
    asked = arguments(tables, manifest, tiny_bundle, f"--summary={tmp_path / 'summary.json'}")

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

    assert_as_undisturbed(tables, undisturbed_outcomes(manifest, tiny_bundle))


def undisturbed_outcomes(manifest: Path, tiny_bundle: Path) -> tuple[dict[str, Outcome], Taxonomy]:
    """What the model makes of every image of the manifest, in one go and without Spark."""
    settings, info = read_settings(
        ModelConfig(uri=str(tiny_bundle)), FetchConfig(attempts=1), DecodeConfig()
    )
    rows = pq.read_table(manifest).to_pylist()
    requests = [ImageRequest(row["image_id"], row["uri"], None, None) for row in rows]
    outcomes = load_engine(settings, "cpu").run(iter(requests))
    return {outcome.key: outcome for outcome in outcomes}, info.taxonomy


def assert_as_undisturbed(tables: Path, undisturbed: tuple[dict[str, Outcome], Taxonomy]) -> None:
    outcomes, taxonomy = undisturbed
    images = {row["image_id"]: row for row in read_rows(tables, "images")}
    vectors = {row["image_id"]: row["embedding"] for row in read_rows(tables, "image_embeddings")}
    tags: dict[str, dict[tuple[str, str], float]] = {key: {} for key in outcomes}
    for row in read_rows(tables, "image_tags"):
        tags[row["image_id"]][row["task"], row["label"]] = row["score"]
    assert images.keys() == outcomes.keys()
    for key, outcome in outcomes.items():
        reason = outcome.failure and outcome.failure.reason.value
        assert (images[key]["reason"], images[key]["content_sha256"]) == (
            reason,
            outcome.content_sha256,
        )
        expected = publishable_tags(outcome, taxonomy.labels) or []
        assert tags[key] == {
            (tag["task"], tag["label"]): pytest.approx(tag["score"], abs=1e-5) for tag in expected
        }
        if outcome.embedding is None:
            assert key not in vectors
        else:
            assert vectors[key] == pytest.approx(outcome.embedding.tolist(), abs=1e-5)
