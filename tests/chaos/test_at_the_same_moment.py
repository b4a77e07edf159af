"""A night and a backfill at the same moment on one table set; a publish that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo.nights import FEW_ROWS
from demo.verify import read_rows, verify_run
from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.images.loader import ImageRequest
from pipeline.models.bundle import read_bundle, write_with_taxonomy
from pipeline.synthetic import draw_scene, seeded
from pipeline.taxonomy import parse_taxonomy
from udfs.functions import publishable_tags
from udfs.settings import read_settings
from udfs.worker import load_engine

ROOT = Path(__file__).parents[2]
OTHER = parse_taxonomy(
    {
        "tasks": [
            {
                "id": "mood",
                "kind": "multi_label",
                "threshold": 0.1,
                "labels": [{"id": "calm"}, {"id": "loud"}],
            }
        ]
    }
)


class Place:
    """Tables, photos and jobs that are started on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tables = folder, folder / "tables"
        self.log = folder / "stderr.log"

    def manifest(self, name: str, photos: range, *, version: str = "1") -> Path:
        rows = []
        for number in photos:
            path = self.folder / f"photo-{number}.jpg"
            if not path.exists():
                draw_scene(seeded(7, number), width=96, height=72).image.save(path)
            rows.append({"image_id": f"photo-{number}", "uri": str(path), "version": version})
        path = self.folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    def start(self, job: str, *arguments: str) -> subprocess.Popen[str]:
        command = [
            str(Path(sys.executable).with_name("spark-submit")),
            *("--properties-file", str(ROOT / "conf" / "spark" / "laptop.conf")),
            *("--master", "local[1,3]"),
            *(part for setting in FEW_ROWS for part in ("--conf", setting)),
            str(ROOT / "jobs" / f"{job}.py"),
            f"--tables.location={self.tables}",
            *arguments,
        ]
        with self.log.open("a") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def end(self, job: subprocess.Popen[str]) -> dict[str, Any]:
        try:
            told, _ = job.communicate(timeout=400)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
        assert job.returncode == 0, self.log.read_text()[-4000:]
        summary: dict[str, Any] = json.loads(told.splitlines()[-1])
        return summary

    def images(self) -> dict[str, dict[str, Any]]:
        return {row["image_id"]: row for row in read_rows(self.tables, "images")}

    def states(self, run_id: str) -> set[str]:
        return {
            row["state"]
            for row in read_rows(self.tables, "tagging_runs")
            if row["run_id"] == run_id
        }


def assert_as_tagged_afresh(place: Place, manifest: Path, bundle: Path, keys: list[str]) -> None:
    """Published tags are those the model gives when it looks at the photos, without Spark."""
    settings, info = read_settings(ModelConfig(uri=str(bundle)), FetchConfig(), DecodeConfig())
    rows = pq.read_table(manifest).to_pylist()
    requests = [ImageRequest(row["image_id"], row["uri"], None, None) for row in rows]
    outcomes = {one.key: one for one in load_engine(settings, "cpu").run(iter(requests))}
    tags: dict[str, dict[tuple[str, str], float]] = {key: {} for key in keys}
    for row in read_rows(place.tables, "image_tags"):
        if row["image_id"] in tags:
            tags[row["image_id"]][row["task"], row["label"]] = row["score"]
    for key in keys:
        expected = publishable_tags(outcomes[key], info.taxonomy.labels) or []
        assert tags[key] == {
            (tag["task"], tag["label"]): pytest.approx(tag["score"], abs=1e-5) for tag in expected
        }
    assert any(tags.values())


@pytest.mark.fault("a night and a backfill at once; a publish is killed, the next night ends it")
@pytest.mark.timeout(1800)
def test_a_night_and_a_backfill_beside_each_other_and_a_killed_publish(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    target = write_with_taxonomy(
        tmp_path / "target", bundle=read_bundle(tiny_bundle), taxonomy=OTHER
    )
    old, new = f"--model.uri={tiny_bundle}", f"--model.uri={target.path}"

    def night(number: int, manifest: Path, *, day: int) -> subprocess.Popen[str]:
        return place.start(
            "tag_nightly",
            old,
            f"--manifest.path={manifest}",
            f"--as_of=2026-03-{day:02d}T00:00:00Z",
            f"--run_id=night-{number}",
        )

    first = place.manifest("first", range(12))
    assert place.end(night(1, first, day=1))["tagged"] == 12

    # At the same moment: a night with changed and new photos, and a backfill of all that stands.
    second = place.manifest("second", range(8, 16), version="2")
    jobs = [night(2, second, day=2), place.start("backfill_catalog", new, "--publish_every=1")]
    told_night, told_backfill = (place.end(job) for job in jobs)
    assert (told_night["state"], told_night["tagged"]) == ("published", 8)
    assert (told_backfill["state"], told_backfill["remaining"]) == ("published", 0)
    images = place.images()
    assert images.keys() == {f"photo-{number}" for number in range(16)}
    assert {row["status"] for row in images.values()} == {"tagged"}
    # What the night did not touch is at the target. What it changed is at version 2, by whichever
    # of the two came last: the night's taxonomy, or the backfill's second look.
    for number in range(16):
        row = images[f"photo-{number}"]
        assert row["image_version"] == ("1" if number < 8 else "2")
        if number < 8:
            assert row["taxonomy_version"] == OTHER.version
    assert verify_run(place.tables, second, "night-2").broken == ()
    assert told_backfill["rescored"] >= 8
    assert_as_tagged_afresh(place, first, target.path, [f"photo-{number}" for number in range(8)])

    # A stale manifest, published late, replaces nothing newer.
    stale = place.end(night(3, first, day=1))
    assert (stale["tagged"], stale["superseded"]) == (0, 4)
    assert place.images() == images

    # Killed while it publishes, and rolled forward by the next.
    killed = night(4, place.manifest("fourth", range(20), version="4"), day=4)
    deadline = time.monotonic() + 300
    log = place.tables / "tagging_runs" / "_delta_log"
    while not any(
        '"mumic run night-4 publishing"' in one.read_text() for one in log.glob("*.json")
    ):
        assert killed.poll() is None, place.log.read_text()[-4000:]
        assert time.monotonic() < deadline, "it never came to publish"
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert place.states("night-4") == {"started", "staged", "publishing"}
    last = place.manifest("fifth", range(20, 22))
    assert place.end(night(5, last, day=5))["tagged"] == 2
    assert "published" in place.states("night-4")
    images = place.images()
    assert {images[f"photo-{number}"]["image_version"] for number in range(20)} == {"4"}
    assert verify_run(place.tables, last, "night-5").broken == ()
