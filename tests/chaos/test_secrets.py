"""Canaries in configuration, environment and signed addresses: no file a job leaves has one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from submitted import nightly, submitted, write_manifest

from demo.verify import read_rows, read_versions
from pipeline.synthetic import draw_scene, seeded
from pipeline.taxonomy import write_taxonomy

ROOT = Path(__file__).parents[2]
CANARY = "canary-4711"
IN_ENVIRONMENT = {
    name: f"{CANARY}-{name}"
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_STORAGE_SAS_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "HF_TOKEN",
    )
}
IN_SPARK = (
    f"spark.hadoop.fs.s3a.secret.key={CANARY}-s3a",
    f"spark.hadoop.fs.s3a.session.token={CANARY}-session",
    f"spark.hadoop.fs.azure.account.key.photos.dfs.core.windows.net={CANARY}-azure",
    f"spark.hadoop.fs.gs.auth.service.account.private.key={CANARY}-gs",
    f"spark.executorEnv.PHOTOS_PASSWORD={CANARY}-executor",
)


class Photos(BaseHTTPRequestHandler):
    """One photo, wherever it is asked for, but for /missing and /denied."""

    photo = b""

    def do_GET(self) -> None:
        status = {"/missing": 404, "/denied": 403}.get(self.path.partition("?")[0][:8], 200)
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.photo) if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(self.photo)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    draw_scene(seeded(7, 1), width=160, height=120).image.save(path)
    Photos.photo = path.read_bytes()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Photos)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def addresses(server: str) -> dict[str, str]:
    signed = f"?X-Amz-Signature={CANARY}-query&Expires=1#{CANARY}-fragment"
    return {
        "signed": f"http://{server}/photo.jpg{signed}",
        "named": f"http://me:{CANARY}-user@{server}/photo-2.jpg",
        "missing": f"http://{server}/missing{signed}",
        "denied": f"http://me:{CANARY}-denied@{server}/denied{signed}",
        "elsewhere": f"http://nobody.invalid/photo.jpg{signed}",
        "odd": f"gopher://me:{CANARY}-odd@{server}/photo.jpg{signed}",
    }


def find_canaries(folder: Path) -> list[tuple[str, set[str]]]:
    """Files of a folder with canaries in them, and which."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            told = set(re.findall(rf"{CANARY}-\w+", path.read_text(errors="replace")))
            found += [(str(path.relative_to(folder)), told)] if told else []
    return found


@pytest.mark.fault("secrets in configuration, environment and signed addresses of a tagging job")
@pytest.mark.timeout(900)
def test_a_tagging_job_writes_no_secret_down(
    distribution: Path,
    server: str,
    tiny_bundle: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    left, manifest = tmp_path / "left", tmp_path / "night.parquet"
    events, tables = left / "events", left / "tables"
    events.mkdir(parents=True)
    write_manifest(
        manifest,
        [{"image_id": key, "uri": uri, "version": "1"} for key, uri in addresses(server).items()],
    )
    options = [
        f"--fetch.allowed_hosts={json.dumps(['127.0.0.1'])}",
        f"--summary={left / 'summary.json'}",
        "--log.level=DEBUG",
        "--model.batch_size=2",
    ]
    with submitted(
        distribution,
        left,
        nightly(tables, manifest, tiny_bundle, *options),
        settings=(
            *IN_SPARK,
            "spark.eventLog.enabled=true",
            f"spark.eventLog.dir=file://{events}",
            "spark.eventLog.compress=false",
            "spark.eventLog.rolling.enabled=false",
        ),
        environment=IN_ENVIRONMENT,
    ) as job:
        told, _ = job.communicate(timeout=400)
    log = (left / "stderr.log").read_text()
    assert job.returncode == 0, log[-3000:]
    statuses = {row["image_id"]: row["status"] for row in read_rows(tables, "images")}
    assert {key for key, status in statuses.items() if status == "tagged"} == {"signed", "named"}
    assert CANARY not in told
    assert list(events.iterdir())
    assert find_canaries(left) == []
    for name in read_versions(tables):  # compressed in their files
        assert CANARY not in str(read_rows(tables, name)), name
    record_property("times", len(IN_ENVIRONMENT) + len(IN_SPARK) + 9)
    record_property("outcome", "in no table, log, ledger, event log or summary")


@pytest.mark.fault("secrets in environment and signed addresses of a training")
@pytest.mark.timeout(600)
def test_a_training_writes_no_secret_down(
    server: str,
    tiny_models: ModuleType,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    left = tmp_path / "left"
    left.mkdir()
    labels = [label.id for _, label in tiny_models.TAXONOMY.labels]
    uris = addresses(server)
    rows = [
        {
            "image_id": f"{place}-{key}",
            "uri": uris[key],
            "labels": [labels[place % len(labels)]],
            "split": "train" if place < 12 else "validation",
        }
        for place in range(16)
        for key in (("signed", "missing", "odd") if place % 4 == 0 else ("named",))
    ]
    schema = {"image_id": pa.string(), "uri": pa.string(), "labels": pa.list_(pa.string())}
    table = pa.Table.from_pylist(rows, schema=pa.schema(schema | {"split": pa.string()}))
    pq.write_table(table, tmp_path / "labelled.parquet")
    write_taxonomy(tiny_models.TAXONOMY, tmp_path / "taxonomy.yaml")
    (tmp_path / "vit.json").write_text(json.dumps(tiny_models.ARCHITECTURES["vit"]))
    command = [
        *(sys.executable, "-m", "jobs.train_model"),
        f"--manifest.path={tmp_path / 'labelled.parquet'}",
        f"--taxonomy={tmp_path / 'taxonomy.yaml'}",
        f"--towers.architecture={tmp_path / 'vit.json'}",
        f"--bundle={left / 'bundle'}",
        f"--tracking.uri=sqlite:///{left / 'runs.db'}",
        f"--fetch.allowed_hosts={json.dumps(['127.0.0.1'])}",
        "--fetch.attempts=1",
        "--optimizer.epochs=1",
        "--optimizer.batch_size=4",
        "--device=cpu",
        "--log.level=DEBUG",
    ]
    done = subprocess.run(
        command,
        cwd=left,
        env={**os.environ, **IN_ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert CANARY not in done.stdout + done.stderr
    assert (left / "runs.db").stat().st_size
    assert find_canaries(left) == []
    record_property("times", len(IN_ENVIRONMENT) + 3)
    record_property("outcome", "in no bundle, MLflow run or log")
