"""From a configuration to a bundle, on a handful of pictures in a manifest."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from bright_halves import choose_held, draw_halves
from tiny_models import ARCHITECTURES, TAXONOMY

from jobs.train_model import main
from pipeline.config import (
    CheckpointConfig,
    DecodeConfig,
    FetchConfig,
    LabelledManifestConfig,
    LogConfig,
    OptimizerConfig,
    TowersConfig,
    TrackingConfig,
    TrainModelConfig,
)
from pipeline.errors import CheckpointError, ConfigurationError, ManifestError, PipelineError
from pipeline.evaluation.metrics import gap
from pipeline.images.loader import ImageLoader, LoadedImage
from pipeline.models.bundle import read_bundle
from pipeline.models.bundle_info import model_version
from pipeline.models.serving import load_predictor
from pipeline.taxonomy import write_taxonomy
from pipeline.training.data import read_labelled
from pipeline.training.launch import run_training

LABELS = tuple(label.id for _, label in TAXONOMY.labels)


def make_rows() -> list[dict[str, Any]]:
    """24 pictures: a bright left half is a pool, a bright right half a bed; two cannot be read."""
    rows = []
    for index in range(24):
        labels = choose_held(index)
        rows.append(
            {
                "image_id": f"i{index}",
                "content": draw_halves(labels, index) if index not in (3, 20) else b"damaged",
                "labels": labels,
                "split": "train" if index < 16 else "validation",
            }
        )
    return rows


@pytest.fixture
def config(tmp_path: Path) -> TrainModelConfig:
    schema = pa.schema(
        {"image_id": pa.string(), "content": pa.binary(), "labels": pa.list_(pa.string())}
        | {"split": pa.string()}
    )
    pq.write_table(pa.Table.from_pylist(make_rows(), schema=schema), tmp_path / "m.parquet")
    write_taxonomy(TAXONOMY, tmp_path / "taxonomy.yaml")
    (tmp_path / "vit.json").write_text(json.dumps(ARCHITECTURES["vit"]))
    return TrainModelConfig(
        manifest=LabelledManifestConfig(path=str(tmp_path / "m.parquet")),
        taxonomy=str(tmp_path / "taxonomy.yaml"),
        bundle=str(tmp_path / "bundle"),
        towers=TowersConfig(architecture=str(tmp_path / "vit.json"), licence="CC0-1.0"),
        optimizer=OptimizerConfig(epochs=2, batch_size=8, learning_rate=1e-3),
        decode=DecodeConfig(threads=1),
        device="cpu",
        log=LogConfig(progress=False),
        tracking=TrackingConfig(enabled=False),
    )


def test_a_training_leaves_a_bundle_that_scores_as_it_was_validated(
    config: TrainModelConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    state = torch.get_rng_state()
    summary = run_training(config)
    assert torch.equal(state, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")
    json.dumps(summary, allow_nan=False)
    assert summary["left_out"] == {"not_an_image": 2}
    assert (summary["images"], summary["validation_images"]) == (15, 7)
    assert (summary["job"], summary["state"], summary["epochs"]) == ("train_model", "done", 2)

    bundle = read_bundle(config.bundle)
    assert bundle.taxonomy == TAXONOMY
    assert bundle.info.licence == "CC0-1.0"
    assert summary["taxonomy_version"] == TAXONOMY.version
    assert summary["model_version"] == model_version(
        bundle.info, precision="fp32", scaled_decoding=True
    )
    assert (summary["tau"], summary["bias"]) == (bundle.info.tau, bundle.info.logit_bias)

    images = read_labelled(config.manifest, TAXONOMY)
    wanted = images.indices("validation")
    with ImageLoader(FetchConfig(), DecodeConfig(threads=1), bundle.preprocessing, True) as loader:
        loaded = [image for _, image in loader.load(images.requests(wanted))]
    readable = [isinstance(image, LoadedImage) for image in loaded]
    pixels = np.stack([image.pixels for image in loaded if isinstance(image, LoadedImage)])
    predictor = load_predictor(
        bundle, device=torch.device("cpu"), precision="fp32", scaled_decoding=True
    )
    scores = predictor.predict(pixels, None).scores
    expected = gap(scores, images.targets[wanted][readable])
    assert summary["validation"]["gap"] == pytest.approx(expected, abs=1e-6)


def test_two_trainings_with_one_seed_write_equal_bundles(config: TrainModelConfig) -> None:
    other = replace(config, bundle=config.bundle + "-2")
    run_training(config)
    run_training(other)
    assert read_bundle(config.bundle).info.digest == read_bundle(other.bundle).info.digest


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("optimizer", {"epochs": 0}, "optimizer.epochs"),
        ("optimizer", {"learning_rate": 0.0}, "optimizer.learning_rate"),
        ("optimizer", {"warmup": 1.5}, "optimizer.warmup"),
        ("loss", {"tau": 0.001}, "loss.tau"),
        ("loss", {"margin": 1.0}, "loss.margin"),
        ("optimizer", {"ema_decay": 1.0}, "optimizer.ema_decay"),
        ("optimizer", {"interpolation": 1.5}, "optimizer.interpolation"),
        ("optimizer", {"patience": 0}, "optimizer.patience"),
        ("optimizer", {"micro_batch_size": 0}, "optimizer.micro_batch_size"),
        ("optimizer", {"head_learning_rate": 0.0}, "optimizer.head_learning_rate"),
        ("checkpoint", {"every_s": -1.0}, "checkpoint.every_s"),
        ("distribution", {"processes": 0}, "distribution.processes"),
        ("loss", {"kind": "linear_head"}, "cannot hold a linear head"),
    ],
)
def test_values_out_of_range_are_told_before_anything_is_read(
    config: TrainModelConfig, section: str, change: dict[str, Any], message: str
) -> None:
    Path(config.taxonomy).unlink()
    wrong = replace(config, **{section: replace(getattr(config, section), **change)})
    with pytest.raises(ConfigurationError, match=message):
        run_training(wrong)


def test_a_bundle_is_never_overwritten(config: TrainModelConfig) -> None:
    Path(config.bundle).mkdir()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        run_training(config)


def test_a_manifest_without_training_images_is_refused(config: TrainModelConfig) -> None:
    rows = [row | {"split": "test"} for row in make_rows()]
    schema = pq.read_schema(config.manifest.path)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), config.manifest.path)
    with pytest.raises(ManifestError, match="no training image"):
        run_training(config)
    assert not Path(config.bundle).exists()


def test_a_failed_training_leaves_no_bundle(config: TrainModelConfig) -> None:
    wild = replace(config.optimizer, learning_rate=1e30, clip_norm=1e30, warmup=0.0)
    with pytest.raises(PipelineError, match="diverged"):
        run_training(replace(config, optimizer=wild))
    assert not Path(config.bundle).exists()


def test_the_job_prints_its_summary_last_and_its_progress_elsewhere(
    config: TrainModelConfig, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [
        f"--manifest.path={config.manifest.path}",
        f"--taxonomy={config.taxonomy}",
        f"--bundle={config.bundle}",
        f"--towers.architecture={config.towers.architecture}",
        "--optimizer.epochs=1",
        "--optimizer.batch_size=8",
        "--decode.threads=1",
        "--device=cpu",
        "--tracking.enabled=false",
        f"--summary={tmp_path / 'summary.json'}",
    ]
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert summary["epochs"] == 1
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert "epoch 1 of 1: loss" in err
    assert "2 of" not in out
    assert main([*arguments, "--optimizer.epoch=1"]) == 2
    assert main(arguments) == 2  # the bundle exists now
    assert "never overwritten" in capfd.readouterr().err


def test_the_demos_recipe_and_architecture_can_be_used(
    config: TrainModelConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    demo = Path(__file__).parents[2] / "conf" / "demo"
    assert (
        main(
            [
                f"--config={demo / 'train_model.yaml'}",
                f"--towers.architecture={demo / 'tiny-resnet-64.json'}",
                f"--manifest.path={config.manifest.path}",
                f"--taxonomy={config.taxonomy}",
                f"--bundle={config.bundle}",
                "--optimizer.epochs=1",
                "--decode.threads=1",
            ]
        )
        == 0
    )
    assert json.loads(capfd.readouterr().out)["images"] == 15


def test_a_training_that_was_cut_off_goes_on_and_leaves_no_checkpoint(
    config: TrainModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run_training(replace(config, bundle=config.bundle + "-2"))
    kept = replace(config, checkpoint=CheckpointConfig(folder=str(tmp_path / "checkpoint")))

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.training.launch.write_trained", full)
        with pytest.raises(OSError, match="no space"):
            run_training(kept)
    assert (tmp_path / "checkpoint" / "checkpoint.json").exists()
    with pytest.raises(CheckpointError, match=r"another training .* optimizer"):
        run_training(replace(kept, optimizer=replace(config.optimizer, learning_rate=1e-4)))
    monkeypatch.setattr("pipeline.training.trainer.Trainer.step", full)  # nothing is left to do
    summary = run_training(kept)
    assert summary["validation"] == undisturbed["validation"]
    assert summary["model_version"] == undisturbed["model_version"]
    left = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert left <= {".lock"}


def test_progress_tells_loss_pace_and_the_time_left(
    config: TrainModelConfig, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.progress._SECONDS_BETWEEN_BARS", 0.0)
    run_training(replace(config, log=LogConfig(progress=True)))
    err = capfd.readouterr().err
    assert re.search(
        r"epoch 1 of 2: .*img/s, left=\d\d:\d\d, loss=\d\.\d{4}|"
        r"epoch 1 of 2: .*img/s, loss=\d\.\d{4}, left=\d\d:\d\d",
        err,
    )


def test_without_a_bar_the_log_tells_the_same(
    config: TrainModelConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.progress._SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO"):
        run_training(config)
    assert re.search(
        r"epoch 1 of 2: 8 of 8 images, loss \d\.\d{4}, \d+ images/s, \d\d:\d\d left", caplog.text
    )
