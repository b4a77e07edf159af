"""CMA-CLIP through the jobs that MuMIC goes through: trained, kept in a bundle, evaluated."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from PIL import Image
from tiny_models import ARCHITECTURES, TAXONOMY

from pipeline.config import (
    CalibrationConfig,
    CmaClipConfig,
    CmaTrainingConfig,
    DecodeConfig,
    EvaluateModelConfig,
    FiguresConfig,
    LabelledManifestConfig,
    LogConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    ReportConfig,
    TowersConfig,
    TrackingConfig,
    TrainModelConfig,
)
from pipeline.errors import ConfigurationError, ManifestError
from pipeline.evaluation.launch import run_evaluation
from pipeline.models.bundle import read_bundle
from pipeline.taxonomy import write_taxonomy
from pipeline.training.launch import run_training

SPLITS = ("train",) * 24 + ("validation",) * 12 + ("test",) * 12
SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "content": pa.binary(),
        "title": pa.string(),
        "labels": pa.list_(pa.string()),
        "attributes": pa.map_(pa.string(), pa.string()),
        "split": pa.string(),
    }
)


def make_rows() -> list[dict[str, Any]]:
    """A bright left half is a pool; the title tells the room, and every fourth has none."""
    rows = []
    for index, split in enumerate(SPLITS):
        pool, room = bool(index % 2), ("single", "double")[index // 2 % 2]
        pixels = np.random.default_rng(index).integers(0, 90, (40, 40, 3))
        pixels[:, :20] += 140 * pool
        stream = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
        rows.append(
            {
                "image_id": f"i{index}",
                "content": stream.getvalue() if index != 3 else b"damaged",
                "title": None if index % 4 == 3 else f"A {room} room",
                "labels": ["pool"] if pool else [],
                "attributes": [("room", room)] if index % 5 else [],
                "split": split,
            }
        )
    return rows


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainModelConfig:
    folder = tmp_path_factory.mktemp("cma")
    pq.write_table(pa.Table.from_pylist(make_rows(), schema=SCHEMA), folder / "m.parquet")
    write_taxonomy(TAXONOMY, folder / "taxonomy.yaml")
    (folder / "vit.json").write_text(json.dumps(ARCHITECTURES["vit"]))
    return TrainModelConfig(
        kind="cma_clip",
        manifest=LabelledManifestConfig(path=str(folder / "m.parquet"), text="title"),
        taxonomy=str(folder / "taxonomy.yaml"),
        bundle=str(folder / "bundle"),
        towers=TowersConfig(architecture=str(folder / "vit.json"), licence="CC0-1.0"),
        optimizer=OptimizerConfig(epochs=2, batch_size=8, learning_rate=1e-3),
        cma_clip=CmaClipConfig(layers=2, heads=2),
        decode=DecodeConfig(threads=1),
        device="cpu",
        log=LogConfig(progress=False),
        tracking=TrackingConfig(enabled=False),
    )


@pytest.fixture(scope="module")
def summary(config: TrainModelConfig) -> dict[str, Any]:
    return run_training(config)


def evaluation_of(config: TrainModelConfig, output: Path, **options: Any) -> EvaluateModelConfig:
    return EvaluateModelConfig(
        manifest=config.manifest,
        model=ModelConfig(uri=config.bundle, device="cpu", batch_size=5),
        output=str(output),
        figures=FiguresConfig(resamples=20, majority_positives=3),
        report=ReportConfig(
            mistakes=4, label_errors=3, thumbnail_pixels=32, explanations=3, explained=("i36",)
        ),
        decode=DecodeConfig(threads=1),
        log=LogConfig(progress=False),
        tracking=TrackingConfig(enabled=False),
        **options,
    )


def test_a_training_leaves_a_bundle_with_heads_and_its_figures(
    config: TrainModelConfig, summary: dict[str, Any]
) -> None:
    json.dumps(summary, allow_nan=False)
    assert (summary["images"], summary["validation_images"]) == (23, 12)
    assert summary["left_out"] == {"not_an_image": 1}
    assert "tau" not in summary
    bundle = read_bundle(config.bundle)
    assert bundle.kind == "cma_clip"
    assert bundle.info.cma_clip == config.cma_clip
    assert bundle.taxonomy == TAXONOMY
    assert bundle.info.training is not None
    assert bundle.info.training["cma_training"]["disturbance"]["text_swap"] == 0.1
    assert 0 <= summary["validation"]["accuracy.room"] <= 1


def test_its_evaluation_measures_tasks_noise_and_explains(
    config: TrainModelConfig, summary: dict[str, Any], tmp_path: Path
) -> None:
    evaluated = run_evaluation(
        evaluation_of(
            config,
            tmp_path / "out",
            split="validation",
            noise=NoiseConfig(rates=(0.0, 1.0), images=9),
        )
    )
    metrics = json.loads(Path(evaluated["metrics"]).read_text())
    scene, room = metrics["tasks"]
    assert (scene["task"], scene["accuracy"]) == ("scene", None)
    # the bundle scores as the network did that was validated
    assert room["accuracy"]["value"] == pytest.approx(summary["validation"]["accuracy.room"])
    assert metrics["headline"]["gap"]["value"] == pytest.approx(summary["validation"]["gap"])
    points = {(p["modality"], p["how"], p["rate"]): p for p in metrics["noise"]}
    assert len(points) == 8
    assert points["text", "emptied", 1.0]["weights"]["room"] == {"text": 0.0, "image": 1.0}
    assert 0 < points["text", "emptied", 0.0]["weights"]["room"]["text"] < 1
    explained = metrics["explanations"]
    assert explained[0]["image_id"] == "i36"
    assert explained[0]["word"] in {"a", "single", "double", "room"}
    assert len(explained) == 3
    page = Path(evaluated["report"]).read_text()
    for section in ("tasks", "noise", "explained"):
        assert f'<section id="{section}"' in page
        assert f'href="#{section}"' in page
    assert page.count('<polyline class="curve" style=') == 4 * 2 * 2
    assert "A single room" in page or "A double room" in page


def test_its_thresholds_are_calibrated_like_any_others(
    config: TrainModelConfig, summary: dict[str, Any], tmp_path: Path
) -> None:
    run_evaluation(
        evaluation_of(
            config,
            tmp_path / "out",
            calibrate=str(tmp_path / "calibrated"),
            calibration=CalibrationConfig(goal="f1"),
            noise=NoiseConfig(enabled=False),
        )
    )
    calibrated = read_bundle(tmp_path / "calibrated")
    assert calibrated.kind == "cma_clip"
    assert calibrated.taxonomy != TAXONOMY
    assert summary["taxonomy_version"] == TAXONOMY.version
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["noise"] == []
    assert "Noise</a>" not in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_trained_is_told_before_anything_is_decoded(
    config: TrainModelConfig, tmp_path: Path
) -> None:
    fresh = replace(config, bundle=str(tmp_path / "bundle"))
    weights = {"colour": 1.0}
    with pytest.raises(ConfigurationError, match=r"does not have .*task_weights.*colour"):
        run_training(replace(fresh, cma_training=CmaTrainingConfig(task_weights=weights)))
    with pytest.raises(ConfigurationError, match=r"out of range .*task_weights"):
        run_training(replace(fresh, cma_training=CmaTrainingConfig(task_weights={"room": -1.0})))
    untitled = replace(fresh.manifest, text=None)
    with pytest.raises(ManifestError, match=r"no text to learn from.*manifest\.text"):
        run_training(replace(fresh, manifest=untitled))
    resnet = tmp_path / "resnet.json"
    resnet.write_text(json.dumps(ARCHITECTURES["resnet"]))
    with pytest.raises(ConfigurationError, match="no patch tokens"):
        run_training(replace(fresh, towers=TowersConfig(architecture=str(resnet))))
    assert not (tmp_path / "bundle").exists()


def test_a_model_of_images_alone_needs_no_titles_and_has_no_noise_protocol(
    config: TrainModelConfig, tmp_path: Path
) -> None:
    alone = replace(
        config,
        bundle=str(tmp_path / "bundle"),
        manifest=replace(config.manifest, text=None),
        cma_clip=replace(config.cma_clip, modalities="image"),
        optimizer=replace(config.optimizer, epochs=1),
    )
    run_training(alone)
    evaluated = run_evaluation(evaluation_of(alone, tmp_path / "out"))
    metrics = json.loads(Path(evaluated["metrics"]).read_text())
    assert metrics["noise"] is None
    assert metrics["explanations"] is None


@pytest.mark.parametrize("rates", [(), (0.5, 1.5)])
def test_rates_that_are_no_shares_are_refused(
    config: TrainModelConfig, tmp_path: Path, rates: tuple[float, ...]
) -> None:
    with pytest.raises(ConfigurationError, match=r"noise\.rates"):
        run_evaluation(evaluation_of(config, tmp_path, noise=NoiseConfig(rates=rates)))


def test_ids_to_explain_that_nobody_has_are_refused(
    config: TrainModelConfig, summary: dict[str, Any], tmp_path: Path
) -> None:
    del summary
    evaluation = evaluation_of(config, tmp_path)
    report = replace(evaluation.report, explained=("nobody",))
    with pytest.raises(ConfigurationError, match=r"report\.explained.*nobody"):
        run_evaluation(replace(evaluation, report=report))
