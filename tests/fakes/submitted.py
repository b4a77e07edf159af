"""spark-submit as in production: the product from a zip, nothing of it in the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo.nights import FEW_ROWS
from demo.verify import Row
from pipeline.synthetic import draw_scene, seeded, write_damaged

ROOT = Path(__file__).parents[2]
AS_OF = "2026-03-01T00:00:00Z"
LOCAL = "local[2,3]"


def draw_photos(folder: Path, count: int) -> list[Row]:
    """Drawn photos between damaged inputs, as manifest rows."""
    rows: list[Row] = []
    for number in range(count):
        path = folder / f"photo {number} é.jpg"
        draw_scene(seeded(7, number), width=160, height=120).image.save(path)
        rows.append({"image_id": f"photo-{number}", "uri": str(path), "version": "1"})
    for damaged in write_damaged(folder / "damaged"):
        rows.insert(7, {"image_id": f"damaged-{damaged.name}", "uri": damaged.uri, "version": "1"})
    return rows


def write_manifest(path: Path, rows: list[Row]) -> None:
    schema = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("version", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


def draw_night(folder: Path, count: int) -> Path:
    """Draw photos between damaged inputs; their manifest."""
    manifest = folder / "night.parquet"
    write_manifest(manifest, draw_photos(folder, count))
    return manifest


def nightly(tables: Path, manifest: Path, bundle: Path, *more: str) -> list[str]:
    """Arguments of ``tag_nightly``: small chunks, so that there are some to be cut off between."""
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


@contextmanager
def submitted(
    distribution: Path,
    folder: Path,
    arguments: Sequence[str],
    *,
    master: str = LOCAL,
    settings: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A ``tag_nightly`` that runs while the block does; its stderr is appended to stderr.log.

    Args:
        distribution: Folder with the zip.
        folder: Where it is started.
        arguments: Of the job.
        master: Of Spark.
        settings: Of Spark, ``key=value``, beside those of a laptop.
        environment: Beside that of the tests.
    """
    (zipped,) = distribution.glob("*-pyfiles.zip")
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    inherited |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    command = [
        str(Path(sys.executable).with_name("spark-submit")),
        *("--properties-file", str(ROOT / "conf" / "spark" / "laptop.conf")),
        *("--master", master),
        *(part for setting in (*FEW_ROWS, *settings) for part in ("--conf", setting)),
        *("--py-files", str(zipped)),
        str(ROOT / "jobs" / "tag_nightly.py"),
        *arguments,
    ]
    with (
        (folder / "stderr.log").open("a") as log,
        subprocess.Popen(
            command,
            cwd=folder,
            env=inherited | dict(environment or {}),
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
