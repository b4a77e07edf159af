"""What train_model and evaluate_model leave in MLflow's store."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from bright_halves import LABELS, choose_held, draw_halves

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import tiny_models

from jobs import evaluate_model, train_model
from pipeline.evaluation.launch import LABEL_ERRORS_NAME, METRICS_NAME, REPORT_NAME
from pipeline.training.recording import record_epoch

SPLITS = ("train", "train", "validation", "test")


@pytest.fixture
def world(tmp_path: Path, mlflow_database: Path) -> Path:
    rows = []
    for index in range(32):
        held = choose_held(index)
        rows.append(
            {
                "image_id": f"i{index}",
                "content": draw_halves(held, index),
                "labels": held,
                "split": SPLITS[index // 4 % 4],
            }
        )
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "labelled.parquet")
    (tmp_path / "vit.json").write_text(json.dumps(tiny_models.ARCHITECTURES["vit"]))
    tasks = [{"id": "scene", "kind": "multi_label", "labels": [{"id": one} for one in LABELS]}]
    (tmp_path / "taxonomy.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    return tmp_path


def summary_of(capfd: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def test_a_training_and_its_evaluation_can_be_looked_up_in_mlflow(
    world: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{world / 'mlflow.db'}"
    common = [
        *("--manifest.path", str(world / "labelled.parquet"), "--tracking.uri", store),
        *("--log.progress", "false", "--decode.threads", "1"),
    ]
    assert not train_model.main(
        [
            *common,
            *("--taxonomy", str(world / "taxonomy.yaml"), "--bundle", str(world / "bundle")),
            *("--towers.architecture", str(world / "vit.json"), "--device", "cpu"),
            *("--optimizer.epochs", "3", "--optimizer.batch_size", "8"),
        ]
    )
    trained = summary_of(capfd)
    assert not evaluate_model.main(
        [
            *common,
            *("--model.uri", str(world / "bundle"), "--output", str(world / "evaluated")),
            *("--figures.resamples", "5", "--calibrate", str(world / "calibrated")),
        ]
    )
    evaluated = summary_of(capfd)

    client = mlflow.MlflowClient(tracking_uri=store)
    training = client.get_run(str(trained["mlflow_run"]))
    assert training.info.status == "FINISHED"
    assert training.data.params["optimizer.epochs"] == "3"
    curve = client.get_metric_history(training.info.run_id, "loss")
    assert [point.step for point in curve] == [1, 2, 3]
    gaps = client.get_metric_history(training.info.run_id, "validation.gap")
    assert max(point.value for point in gaps) == training.data.metrics["kept.gap"]
    assert training.inputs.dataset_inputs[0].dataset.name == "labelled"
    files = {file.path for file in client.list_artifacts(training.info.run_id)}
    assert files == {"bundle", "taxonomy.yaml"}
    evaluation = client.get_run(str(evaluated["mlflow_run"]))
    assert evaluation.data.metrics["test.gap"] == evaluated["figures"]["gap"]
    files = {file.path for file in client.list_artifacts(evaluation.info.run_id)}
    assert {METRICS_NAME, REPORT_NAME, LABEL_ERRORS_NAME, "bundle"} <= files
    assert trained["mlflow_missing"] == evaluated["mlflow_missing"] == 0


def test_a_training_that_fails_leaves_a_failed_run(
    world: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(world / "labelled.parquet")
    tests = pa.array(["test"] * len(table))
    table = table.set_column(table.column_names.index("split"), "split", tests)
    pq.write_table(table, world / "labelled.parquet")
    store = f"sqlite:///{world / 'mlflow.db'}"
    code = train_model.main(
        [
            *("--manifest.path", str(world / "labelled.parquet"), "--tracking.uri", store),
            *("--taxonomy", str(world / "taxonomy.yaml"), "--bundle", str(world / "bundle")),
            *("--towers.architecture", str(world / "vit.json"), "--device", "cpu"),
        ]
    )
    assert code == 1
    assert "no training image" in capfd.readouterr().err
    client = mlflow.MlflowClient(tracking_uri=store)
    experiments = [one.experiment_id for one in client.search_experiments()]
    assert [run.info.status for run in client.search_runs(experiments)] == ["FAILED"]


def test_a_training_that_was_cut_off_goes_on_in_its_run(
    world: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.training import launch

    store = f"sqlite:///{world / 'mlflow.db'}"
    arguments = [
        *("--manifest.path", str(world / "labelled.parquet"), "--tracking.uri", store),
        *("--taxonomy", str(world / "taxonomy.yaml"), "--bundle", str(world / "bundle")),
        *("--towers.architecture", str(world / "vit.json"), "--device", "cpu"),
        *("--optimizer.epochs", "3", "--optimizer.batch_size", "8", "--log.progress", "false"),
        *("--checkpoint.folder", str(world / "checkpoint"), "--decode.threads", "1"),
    ]

    def cut_off(tracker: object, index: int, epoch: object) -> None:
        record_epoch(tracker, index, epoch)  # type: ignore[arg-type]
        if index == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(launch, "record_epoch", cut_off)
        assert train_model.main(arguments) == 130
    client = mlflow.MlflowClient(tracking_uri=store)
    experiments = [one.experiment_id for one in client.search_experiments()]
    (cut,) = client.search_runs(experiments)
    assert cut.info.status == "KILLED"
    capfd.readouterr()
    # what it runs on may be another, and MLflow keeps the first setting
    assert train_model.main([*arguments, "--decode.threads", "2"]) == 0
    summary = summary_of(capfd)
    assert summary["mlflow_run"] == cut.info.run_id
    assert summary["mlflow_missing"] == 0
    run = client.get_run(cut.info.run_id)
    assert (run.info.status, run.data.params["decode.threads"]) == ("FINISHED", "1")
    curve = client.get_metric_history(cut.info.run_id, "loss")
    assert {point.step for point in curve} == {1, 2, 3}
    assert not (world / "checkpoint" / "mlflow_run.json").exists()

    # the next training here is another one, and has a run of its own
    other = [*arguments, "--bundle", str(world / "other")]
    assert train_model.main(other) == 0
    assert summary_of(capfd)["mlflow_run"] != cut.info.run_id
