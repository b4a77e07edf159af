"""Runs in MLflow, in a real store in a SQLite file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ModelConfig, TrackingConfig
from pipeline.errors import ConfigurationError, RegistryError
from pipeline.models.bundle_info import read_bundle_info
from pipeline.registry.connection import Connection, connect
from pipeline.registry.tracking import tracked_run

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(uri="s3://key:secret@b/x?sig=1"))
    epochs: int = 3


@pytest.fixture(autouse=True)
def _an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def output(tmp_path: Path, mlflow_database: Path) -> Path:
    """An output folder with the default store in it."""
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(mlflow_database.read_bytes())
    return folder


def connected(output: Path) -> Connection:
    return connect(TrackingConfig(), folder=output)


def read_run(output: Path, run_id: str | None) -> Any:
    return connected(output).client.get_run(run_id)


def files_of(output: Path, run_id: str | None, folder: str | None = None) -> set[str]:
    return {file.path for file in connected(output).client.list_artifacts(run_id, folder)}


def test_a_run_keeps_settings_curves_figures_files_and_where_they_come_from(
    output: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"png")
    with tracked_run(JobConfig(), job="train_model", folder=output) as tracker:
        for epoch, loss in enumerate([0.9, None, 0.4], start=1):
            tracker.log_metrics({"loss": loss}, step=epoch)
        for epoch, gap in enumerate([0.3, 0.5], start=1):
            tracker.log_metrics({"validation.gap": gap, "validation.nothing": None}, step=epoch)
        tracker.log_metrics({"test.gap": 0.6, "test.undefined": float("nan")})
        tracker.log_file(plot, folder="plots")
        tracker.log_json("figures.json", {"gap": 0.6})
        tracker.log_bundle(read_bundle_info(tiny_bundle))
        tracker.log_data("labelled", digest="abc", source="/data/labelled", context="training")

    told = tracker.describe()
    assert told["mlflow_missing"] == 0
    run = read_run(output, tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "3"
    assert run.data.params["model.uri"] == "s3://b/x"
    assert "secret" not in str(run.data.params)
    assert run.data.metrics == {"loss": 0.4, "validation.gap": 0.5, "test.gap": 0.6}
    curve = connected(output).client.get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.9), (3, 0.4)]
    assert {"job", "product_version", "code_digest", "taxonomy_version"} <= set(run.data.tags)
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("labelled", "abc")
    assert files_of(output, tracker.run_id) == {"plots", "figures.json", "bundle", "taxonomy.yaml"}
    kept = output / "mlflow-artifacts" / str(tracker.run_id) / "artifacts" / "bundle"
    assert read_bundle_info(kept).digest == read_bundle_info(tiny_bundle).digest


def test_nothing_is_written_into_the_current_folder(output: Path) -> None:
    with tracked_run(JobConfig(), job="train_model", folder=output) as tracker:
        tracker.log_json("figures.json", {})
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_the_end_of_a_run_says_how_the_job_ended(
    output: Path, error: type[BaseException], status: str
) -> None:
    with pytest.raises(error), tracked_run(JobConfig(), job="train_model", folder=output) as run:
        raise error
    assert read_run(output, run.run_id).info.status == status


def test_a_training_that_goes_on_goes_on_in_its_run(output: Path) -> None:
    with tracked_run(JobConfig(), job="train", folder=output) as first:
        first.log_metrics({"loss": 0.9}, step=1)
    with tracked_run(JobConfig(), job="train", folder=output, run_id=first.run_id) as second:
        second.log_metrics({"loss": 0.5}, step=2)
    assert second.run_id == first.run_id
    assert read_run(output, first.run_id).info.status == "FINISHED"
    history = connected(output).client.get_metric_history(first.run_id, "loss")
    assert [point.value for point in history] == [0.9, 0.5]


def test_records_a_store_did_not_take_are_given_again_at_the_end(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")  # jobs of tests before may have left another
    with tracked_run(JobConfig(), job="train_model", folder=output) as tracker:
        tracker.log_metrics({"loss": 0.9}, step=1)
        give_back = break_store(monkeypatch, tracker)
        tracker.log_metrics({"loss": 0.8}, step=2)
        tracker.log_json("figures.json", {})
        assert tracker.describe()["mlflow_missing"] == 2
        give_back()
    assert tracker.describe()["mlflow_missing"] == 0
    assert read_run(output, tracker.run_id).data.metrics == {"loss": 0.8}
    assert files_of(output, tracker.run_id) == {"figures.json"}
    assert "it and what follows wait until the job ends" in caplog.text


def test_a_training_outlives_its_tracking_server_and_says_what_is_missing(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with tracked_run(JobConfig(), job="train_model", folder=output) as tracker:
        give_back = break_store(monkeypatch, tracker)
        for step in range(5):
            tracker.log_metrics({"loss": 0.8}, step=step)
    give_back()
    assert tracker.describe()["mlflow_missing"] == 6
    assert "lacks 6 records: end, figures" in caplog.text
    assert read_run(output, tracker.run_id).data.metrics == {}


def break_store(monkeypatch: pytest.MonkeyPatch, tracker: Any) -> Callable[[], None]:
    """The store refuses everything until the returned call."""
    from mlflow.exceptions import MlflowException

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    client = tracker._client
    for name in ("log_batch", "log_text", "set_terminated"):
        monkeypatch.setattr(client, name, refuse)
    return monkeypatch.undo


def test_a_server_that_does_not_answer_is_told_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        uri = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RegistryError) as caught:
            connect(TrackingConfig(uri=uri))
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_deleted_experiment_is_told(output: Path) -> None:
    with tracked_run(JobConfig(), job="train_model", folder=output):
        pass
    client = connected(output).client
    client.delete_experiment(client.get_experiment_by_name("mumic").experiment_id)
    with (
        pytest.raises(RegistryError, match="deleted"),
        tracked_run(JobConfig(), job="train_model", folder=output),
    ):
        pass


def test_a_database_without_a_place_for_files_is_refused(output: Path) -> None:
    connection = connected(output)
    elsewhere = Connection(
        client=connection.client,
        tracking_uri="postgresql://host/mlflow",
        registry_uri=connection.registry_uri,
        artifacts=None,
    )
    from pipeline.registry.connection import find_experiment

    with pytest.raises(ConfigurationError, match=r"tracking\.artifacts"):
        find_experiment(elsewhere, "mumic")


# Every connection but to this machine is refused, and what was tried is told.
_OFFLINE = """
import socket, sys
tried = []
def refuse(self, address, *rest):
    tried.append(address)
    raise OSError("no network")
def look_up(host, *rest, **more):
    tried.append(host)
    raise OSError("no network")
socket.socket.connect = refuse
socket.socket.connect_ex = refuse
socket.getaddrinfo = look_up
import json, time
from pathlib import Path
from dataclasses import dataclass
from pipeline.config import TrackingConfig
from pipeline.registry.tracking import tracked_run
@dataclass(frozen=True)
class Config:
    tracking: TrackingConfig = TrackingConfig()
with tracked_run(Config(), job="train_model", folder=Path(sys.argv[1])) as tracker:
    tracker.log_metrics({"loss": 1.0})
time.sleep(1)
print(json.dumps([tracker.describe()["mlflow_missing"], tried]))
"""


def test_mlflow_calls_nobody(output: Path) -> None:
    """In a process of its own, without the variables by which MLflow knows that it is tested."""
    told = subprocess.run(
        [sys.executable, "-c", _OFFLINE, str(output)],
        cwd=Path.cwd(),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(output / "home"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == [0, []]
    assert list(Path.cwd().iterdir()) == []
    assert not (output / "home").exists()
