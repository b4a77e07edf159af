"""From labelled pictures to a champion and back: a real server, real trainings, real files."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import DeltaTable
from PIL import Image

from demo.nights import FEW_ROWS
from jobs import evaluate_model, register_model, train_model
from pipeline.config import DecodeConfig, FetchConfig, ModelConfig, TrackingConfig
from pipeline.images.loader import ImageRequest
from pipeline.models.bundle_info import read_bundle_info
from pipeline.models.locate import locate_bundle
from pipeline.registry.champion import read_champion
from pipeline.registry.connection import connect
from udfs.functions import publishable_tags
from udfs.settings import read_settings
from udfs.worker import load_engine

# Three trainings and a server stand before the first test.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 60, 230)}
PLACES = ((1, 1), (1, 17), (17, 1))


@dataclass(frozen=True, kw_only=True)
class World:
    """Pictures with labels and the models that were trained on them."""

    folder: Path
    labelled: Path
    plain: Path
    taxonomy: Path
    champion: Path
    second: Path
    shuffled: Path


def draw(held: list[str], seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 60, (32, 32, 3)).astype(np.uint8)
    for (top, left), (label, colour) in zip(PLACES, COLOURS.items(), strict=True):
        if label in held:
            pixels[top : top + 14, left : left + 14] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def train(folder: Path, bundle: Path, *more: str, seed: int, manifest: str = "labelled") -> int:
    """Train on the pictures of a world; the exit code."""
    return train_model.main(
        [
            *("--manifest.path", str(folder / f"{manifest}.parquet")),
            *("--taxonomy", str(folder / "taxonomy.yaml")),
            *("--towers.architecture", str(folder / "vit.json")),
            *("--bundle", str(bundle), "--device", "cpu"),
            *("--optimizer.seed", str(seed), "--optimizer.epochs", "10"),
            *("--optimizer.batch_size", "12", "--optimizer.learning_rate", "0.003"),
            *("--augment", "false", "--log.level", "WARNING", "--log.progress", "false"),
            *("--tracking.enabled", "false", *more),
        ]
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> World:
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    rows = []
    for number in range(260):
        held = [label for label in COLOURS if random.random() < 0.4]
        split = "train" if number < 120 else "validation" if number < 140 else "test"
        rows.append(
            {
                "image_id": str(number),
                "content": draw(held, number),
                "labels": held,
                "split": split,
            }
        )
    others = random.permutation(len(rows))
    mixed = [
        {**row, "labels": rows[other]["labels"]} for row, other in zip(rows, others, strict=True)
    ]
    plain = [{key: row[key] for key in ("image_id", "content")} for row in rows]
    schema = pa.list_(pa.string())
    for name, content in {"labelled": rows, "shuffled": mixed, "plain": plain}.items():
        table = pa.Table.from_pylist(content)
        if "labels" in table.column_names:
            at = table.column_names.index("labels")
            table = table.set_column(at, "labels", table["labels"].cast(schema))
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "vit.json").write_text(json.dumps(tiny_models.ARCHITECTURES["vit"]))
    labels = [{"id": label} for label in COLOURS]
    tasks = [{"id": "colour", "kind": "multi_label", "labels": labels}]
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    for bundle, manifest, seed in (
        ("champion", "labelled", 1),
        ("second", "labelled", 2),
        ("shuffled", "shuffled", 3),
    ):
        assert train(folder, folder / bundle, manifest=manifest, seed=seed) == 0
    return World(
        folder=folder,
        labelled=folder / "labelled.parquet",
        plain=folder / "plain.parquet",
        taxonomy=folder / "taxonomy.yaml",
        champion=folder / "champion",
        second=folder / "second",
        shuffled=folder / "shuffled",
    )


@pytest.fixture
def database(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty store, which is also what the environment says."""
    (tmp_path / "store").mkdir()
    shutil.copyfile(mlflow_database, tmp_path / "store" / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return uri


@dataclass(frozen=True)
class Answer:
    """What a run of the job said."""

    code: int
    summary: dict[str, Any]
    error: str


@pytest.fixture
def register(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = register_model.main(
            [
                *("--inference.cache_dir", str(tmp_path / "cache"), "--inference.device", "cpu"),
                # a machine that tests on two cores measures nothing
                *("--limits.min_speed", "0", "--resamples", "100"),
                *("--log.level", "WARNING", "--log.progress", "false"),
                *map(str, arguments),
            ]
        )
        told = capsys.readouterr()
        lines = told.out.splitlines()
        return Answer(code, json.loads(lines[-1]) if lines else {}, told.err.strip())

    return run


def versions(uri: str) -> list[str]:
    client = connect(TrackingConfig(uri=uri)).client
    return sorted(str(one.version) for one in client.search_model_versions("name = 'mumic'"))


def tag_by_alias(picture: bytes, cache: Path) -> tuple[str, set[str]]:
    """What tag_nightly's driver and executors do with ``models:/``, without Spark."""
    settings, _ = read_settings(
        ModelConfig(uri="models:/mumic@champion", device="cpu", cache_dir=str(cache)),
        FetchConfig(),
        DecodeConfig(),
    )
    engine = load_engine(settings, "cpu")
    (outcome,) = engine.run([ImageRequest("1", None, picture)])
    tags = publishable_tags(outcome, engine.predictor.taxonomy.labels)
    assert tags is not None
    return settings.model.uri, {tag["label"] for tag in tags}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[str]:
    """The address of a real MLflow server on this machine, which keeps the files itself."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(mlflow_database, folder / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", str(port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(folder / "files")),
            ],
            cwd=folder,
            env={
                **os.environ,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                # queues for jobs that nobody starts here, and processes that outlive the server
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            process.wait(120)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1000):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_from_training_to_tags_and_back_with_a_real_server(
    server: str, world: World, register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    sample = ("--sample.path", world.labelled)
    details = tmp_path / "details.csv"

    first = register("--candidate", world.champion, *sample)
    assert (first.code, first.summary["state"], first.summary["version"]) == (
        0,
        "registered",
        "1",
    ), first.error
    assert first.summary["champion_before"] is None
    assert first.summary["candidate_gap"] > 0.8
    picture = draw(["red", "blue"], 999)
    assert tag_by_alias(picture, tmp_path / "cache") == ("models:/mumic/1", {"red", "blue"})

    refused = register("--candidate", world.shuffled, *sample, "--details", details)
    assert refused.code == 3
    assert len(refused.error.splitlines()) == 1
    assert "limits.min_agreement: 0." in refused.error
    assert "limits.max_gap_loss: 0." in refused.error
    assert refused.summary["state"] == "refused"
    assert versions(server) == ["1"]
    with details.open() as table:
        assert {row["label"] for row in csv.DictReader(table)} == set(COLOURS)

    second = register("--candidate", world.second, *sample)
    assert (second.code, second.summary["version"]) == (0, "2"), second.error
    assert second.summary["champion_before"] == "1"
    assert tag_by_alias(picture, tmp_path / "cache")[0] == "models:/mumic/2"

    back = register("--rollback")
    assert (back.code, back.summary["state"], back.summary["version"]) == (0, "rolled_back", "1")
    assert tag_by_alias(picture, tmp_path / "cache") == ("models:/mumic/1", {"red", "blue"})
    again = register("--rollback")
    assert again.code == 1
    assert "already" in again.error
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["details.csv"]

    run = connect(TrackingConfig()).client.get_run(second.summary["mlflow_run"])
    assert run.data.metrics["comparison.candidate_gap"] == second.summary["candidate_gap"]
    assert run.info.status == "FINISHED"
    run = connect(TrackingConfig()).client.get_run(refused.summary["mlflow_run"])
    assert "min_agreement" in run.data.tags["refused"]


def tag_night(tables: Path, night: int) -> dict[str, Any]:
    """A real spark-submit of ``tag_nightly`` by alias, on pictures of its own; its summary."""
    rows = []
    for number in range(24):
        held = [label for bit, label in enumerate(COLOURS) if number >> bit & 1]
        picture = draw(held, 1000 * night + number)
        rows.append({"image_id": f"{night}-{number}", "content": picture, "version": "1"})
    manifest = tables.with_name(f"night-{night}.parquet")
    pq.write_table(pa.Table.from_pylist(rows), manifest)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("spark-submit")),
            *("--properties-file", str(ROOT / "conf" / "spark" / "laptop.conf")),
            *(part for setting in FEW_ROWS for part in ("--conf", setting)),
            str(ROOT / "jobs" / "tag_nightly.py"),
            *(f"--tables.location={tables}", f"--manifest.path={manifest}"),
            *("--model.uri=models:/nights@champion", "--model.device=cpu"),
            f"--model.cache_dir={tables.with_name('cache')}",
            f"--as_of=2026-03-0{night}T00:00:00Z",
        ],
        env={
            **os.environ,
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "SPARK_LOCAL_IP": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def published(tables: Path, night: int) -> dict[str, set[str]]:
    """Tags of a night's images, by another reader than Spark."""
    tags: dict[str, set[str]] = {f"{night}-{number}": set() for number in range(24)}
    for tag in DeltaTable(str(tables / "image_tags")).to_pyarrow_table().to_pylist():
        if tag["image_id"] in tags:
            tags[tag["image_id"]].add(tag["label"])
    return tags


@pytest.mark.timeout(3000)
def test_nights_under_spark_follow_the_alias_forth_and_back(
    server: str,
    world: World,
    register: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tables = tmp_path / "tables"
    sample = ("--sample.path", world.labelled, "--name", "nights")
    recorded = ("--tracking.enabled", "true", "--summary", str(tmp_path / "told.json"))
    assert train(world.folder, tmp_path / "trained", *recorded, seed=4) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    evaluated = evaluate_model.main(
        [
            *("--manifest.path", str(world.labelled), "--model.uri", str(tmp_path / "trained")),
            *("--output", str(tmp_path / "evaluated"), "--calibrate", str(tmp_path / "bundle")),
            *("--figures.resamples", "10", "--log.level", "WARNING", "--log.progress", "false"),
        ]
    )
    assert evaluated == 0
    client = connect(TrackingConfig()).client
    run = client.get_run(told["mlflow_run"])
    assert (run.info.status, run.data.tags["job"]) == ("FINISHED", "train_model")
    assert "bundle" in {file.path for file in client.list_artifacts(run.info.run_id)}

    first = register("--candidate", tmp_path / "bundle", *sample)
    assert (first.code, first.summary["version"]) == (0, "1"), first.error
    night = tag_night(tables, 1)
    assert (night["state"], night["tagged"], night["failed"]) == ("published", 24, 0)
    assert night["model_version"] == told["model_version"] == first.summary["model_version"]
    expected = {
        f"1-{number}": {label for bit, label in enumerate(COLOURS) if number >> bit & 1}
        for number in range(24)
    }
    tags = published(tables, 1)
    assert sum(tags[image] == held for image, held in expected.items()) >= 20

    refused = register("--candidate", world.shuffled, *sample)
    assert refused.code == 3
    second = register("--candidate", world.second, *sample)
    assert (second.code, second.summary["version"]) == (0, "2"), second.error
    assert second.summary["model_version"] != first.summary["model_version"]
    assert tag_night(tables, 2)["model_version"] == second.summary["model_version"]
    assert published(tables, 1) == tags  # another model makes no backfill of a night

    back = register("--rollback", "--name", "nights")
    assert (back.code, back.summary["version"]) == (0, "1"), back.error
    assert tag_night(tables, 3)["model_version"] == first.summary["model_version"]


def test_the_same_bundle_again_changes_nothing(database: str, world: World, register: Any) -> None:
    sample = ("--sample.path", world.labelled)
    register("--candidate", world.champion)
    again = register("--candidate", world.champion, *sample)
    assert (again.code, again.summary["state"]) == (0, "unchanged")
    register("--candidate", world.second, *sample)
    old = register("--candidate", world.champion, *sample)
    assert (old.summary["state"], old.summary["version"]) == ("registered", "1")
    by_name = register("--candidate", "models:/mumic/2", *sample)
    assert (by_name.summary["state"], by_name.summary["version"]) == ("registered", "2")
    assert versions(database) == ["1", "2"]
    assert list(Path.cwd().iterdir()) == []


def test_a_candidate_of_shuffled_labels_is_refused_without_labels_too(
    database: str, world: World, register: Any
) -> None:
    register("--candidate", world.champion)
    refused = register("--candidate", world.shuffled, "--sample.path", world.plain)
    assert refused.code == 3
    assert "limits.min_agreement" in refused.error
    assert "candidate_gap" not in refused.summary
    good = register("--candidate", world.second, "--sample.path", world.plain)
    assert (good.code, good.summary["images"]) == (0, 260), good.error


def test_a_dry_run_compares_and_moves_nothing(database: str, world: World, register: Any) -> None:
    sample = ("--sample.path", world.labelled, "--dry_run")
    register("--candidate", world.champion)
    told = register("--candidate", world.second, *sample)
    assert (told.code, told.summary["state"]) == (0, "compared"), told.error
    assert told.summary["version"] is None
    assert register("--candidate", world.shuffled, *sample).code == 3
    assert versions(database) == ["1"]
    client = connect(TrackingConfig()).client
    experiment = client.get_experiment_by_name("mumic").experiment_id
    assert len(client.search_runs([experiment])) == 1
    register("--candidate", world.second, "--sample.path", world.labelled)
    back = register("--rollback", "--dry_run")
    assert (back.summary["state"], back.summary["version"]) == ("compared", "1")
    assert read_champion(connect(TrackingConfig()), "mumic", "champion") == "2"


def test_a_champion_with_another_taxonomy_is_a_version_of_the_same_model(
    database: str, world: World, register: Any, tmp_path: Path
) -> None:
    first = register("--candidate", world.champion)
    tasks = yaml.safe_load(world.taxonomy.read_text())
    tasks["tasks"][0]["labels"].append({"id": "yellow"})
    tasks["tasks"][0]["threshold"] = 0.45
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(tasks))
    moved = register(*("--taxonomy", tmp_path / "new.yaml", "--sample.path", world.labelled))
    assert (moved.code, moved.summary["version"]) == (0, "2"), moved.error
    assert moved.summary["labels_new"] == 1
    assert moved.summary["model_version"] == first.summary["model_version"]
    assert moved.summary["taxonomy_version"] != first.summary["taxonomy_version"]
    info = read_bundle_info(locate_bundle("models:/mumic@champion", tmp_path / "cache"))
    assert [label.id for _, label in info.taxonomy.labels] == [*COLOURS, "yellow"]
    again = register(*("--taxonomy", tmp_path / "new.yaml", "--sample.path", world.labelled))
    assert (again.summary["state"], again.summary["version"]) == ("unchanged", "2")
    register("--rollback")
    forth = register("--rollback", "--candidate", "models:/mumic/2")
    assert (forth.code, forth.summary["version"]) == (0, "2")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "one of --candidate"),
        (("--candidate", "b", "--taxonomy", "t"), 2, "one of --candidate"),
        (("--rollback", "--taxonomy", "t"), 2, "takes no taxonomy"),
        (("--candidate", "b", "--name", "a/b"), 2, "name of a model"),
        (("--candidate", "b", "--tracking.enabled", "false"), 2, "needs MLflow"),
        (("--candidate", "b", "--limits.min_agreement", "2"), 2, "out of range"),
        (("--rollback",), 1, "register a model first"),
        (("--rollback", "--candidate", "models:/other/1"), 1, "no such model"),
        (("--taxonomy", "t"), 1, "no champion"),
        (("--candidate", "none"), 1, "no bundle"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    database: str, register: Any, arguments: tuple[str, ...], code: int, told: str
) -> None:
    answer = register(*arguments)
    assert answer.code == code
    assert told in answer.error
    assert len(answer.error.splitlines()) == 1


def test_a_champion_is_not_replaced_without_a_comparison(
    database: str, world: World, register: Any
) -> None:
    register("--candidate", world.champion)
    answer = register("--candidate", world.second)
    assert answer.code == 2
    assert "sample.path" in answer.error


def test_without_a_registry_nothing_is_made(
    register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    answer = register("--candidate", "b")
    assert answer.code == 2
    assert "tracking.uri" in answer.error
    assert list(tmp_path.iterdir()) == []
