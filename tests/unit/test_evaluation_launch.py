"""A whole evaluation of a small bundle on a handful of pictures in a manifest."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score
from tiny_models import TAXONOMY, make_bundle

from jobs.evaluate_model import main
from pipeline.config import (
    DecodeConfig,
    EvaluateModelConfig,
    FetchConfig,
    FiguresConfig,
    LabelErrorsConfig,
    LabelledManifestConfig,
    LogConfig,
    ModelConfig,
    ReportConfig,
    TrackingConfig,
)
from pipeline.errors import ConfigurationError, ManifestError
from pipeline.evaluation.decisions import predict_tags
from pipeline.evaluation.launch import run_evaluation
from pipeline.images.loader import ImageLoader
from pipeline.models.bundle import Bundle, read_bundle
from pipeline.models.engine import Engine
from pipeline.models.serving import load_predictor
from pipeline.training.data import read_labelled

SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "content": pa.binary(),
        "labels": pa.list_(pa.string()),
        "unknown": pa.list_(pa.string()),
        "split": pa.string(),
    }
)
SPLITS = ("train",) * 20 + ("validation",) * 14 + ("test",) * 14


def make_rows() -> list[dict[str, Any]]:
    """48 pictures: a bright left half is a pool, a bright right half a bed; two cannot be read."""
    rows = []
    for index, split in enumerate(SPLITS):
        labels = [name for bit, name in enumerate(("pool", "bed")) if index >> bit & 1]
        pixels = np.random.default_rng(index).integers(0, 90, (40, 60, 3))
        pixels[:, :30] += 140 * ("pool" in labels)
        pixels[:, 30:] += 140 * ("bed" in labels)
        stream = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
        rows.append(
            {
                "image_id": f"i{index}",
                "content": stream.getvalue() if index not in (3, 40) else b"damaged",
                "labels": [*labels, "single" if index % 3 else "double"],
                "unknown": ["sea_view"] if index % 5 == 0 else [],
                "split": split,
            }
        )
    return rows


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(tmp_path: Path, bundle: Bundle) -> EvaluateModelConfig:
    write_manifest(tmp_path / "m.parquet", make_rows())
    return EvaluateModelConfig(
        manifest=LabelledManifestConfig(path=str(tmp_path / "m.parquet")),
        model=ModelConfig(uri=str(bundle.path), device="cpu", batch_size=8),
        output=str(tmp_path / "out"),
        figures=FiguresConfig(resamples=20, majority_positives=3),
        report=ReportConfig(mistakes=4, label_errors=3, thumbnail_pixels=32),
        decode=DecodeConfig(threads=1),
        log=LogConfig(progress=False),
        tracking=TrackingConfig(enabled=False),
    )


def score_test(config: EvaluateModelConfig, bundle: Bundle) -> tuple[Any, Any, Any]:
    """Scores, targets and known pairs of the test images, by the engine that tags."""
    images = read_labelled(config.manifest, bundle.taxonomy)
    predictor = load_predictor(bundle, device="cpu", precision="fp32", scaled_decoding=True)
    wanted = images.indices("test")
    with ImageLoader(FetchConfig(), DecodeConfig(threads=1), bundle.preprocessing, True) as loader:
        outcomes = list(Engine(predictor, loader, 8).run(images.requests(wanted)))
    kept = [place for place, one in enumerate(outcomes) if one.scores is not None]
    scores = np.stack([one.scores for one in outcomes if one.scores is not None])
    return scores, images.targets[wanted][kept], images.known[wanted][kept]


def test_an_evaluation_leaves_figures_a_report_and_a_table(
    config: EvaluateModelConfig, bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = run_evaluation(config)
    assert capfd.readouterr() == ("", "")
    json.dumps(summary)
    assert (summary["job"], summary["state"], summary["bundle"]) == ("evaluate_model", "done", None)
    assert summary["images"] == 13
    assert summary["left_out"] == {"not_an_image": 2}
    metrics = json.loads(Path(summary["metrics"]).read_text(encoding="utf-8"))
    scores, targets, known = score_test(config, bundle)
    assert metrics["headline"]["micro_map"]["value"] == pytest.approx(
        average_precision_score(targets[known], scores[known]), abs=1e-9
    )
    assert summary["figures"]["gap"] == metrics["headline"]["gap"]["value"]
    assert metrics["threshold_source"] == "bundle"
    assert metrics["zero_shot"] is None
    predicted = predict_tags(scores, bundle.taxonomy)
    for place, label in enumerate(metrics["labels"]):
        assert label["label"] == bundle.taxonomy.labels[place][1].id
        assert label["threshold"] == bundle.taxonomy.labels[place][1].threshold
        assert label["predicted"] == int((predicted & known)[:, place].sum())
        assert label["positives"] == int((targets & known)[:, place].sum())

    table = pq.read_table(summary["label_errors"])
    rows = table.to_pylist()
    assert len(rows) == summary["label_errors_found"] > 0
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert {row["split"] for row in rows} <= {"train", "validation"}
    assert not {row["image_id"] for row in rows} & {"i3", "i40"}
    by_id = {row["image_id"]: row for row in make_rows()}
    for row in rows:
        assert row["given"] == (row["label"] in by_id[row["image_id"]]["labels"])
        assert row["kind"] == ("wrong" if row["given"] else "missing")
        assert row["label"] not in by_id[row["image_id"]]["unknown"]

    page = Path(summary["report"]).read_text(encoding="utf-8")
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 4 + 3


def test_calibration_writes_a_bundle_of_the_same_model_with_the_thresholds(
    config: EvaluateModelConfig, bundle: Bundle, tmp_path: Path
) -> None:
    asked = replace(config, calibrate=str(tmp_path / "calibrated"))
    summary = run_evaluation(asked)
    written = read_bundle(tmp_path / "calibrated")
    metrics = json.loads(Path(summary["metrics"]).read_text(encoding="utf-8"))
    assert written.taxonomy.version == summary["taxonomy_version"] != TAXONOMY.version
    assert [label.threshold for _, label in written.taxonomy.labels] == [
        label["threshold"] for label in metrics["labels"]
    ]
    assert metrics["threshold_source"] == "validation"
    # the same model: judged again, as it is now, it has the same figures
    again = run_evaluation(
        replace(config, model=replace(config.model, uri=str(tmp_path / "calibrated")))
    )
    assert again["model_version"] == summary["model_version"]
    assert again["figures"] == summary["figures"]
    with pytest.raises(ConfigurationError, match="never overwritten"):
        run_evaluation(asked)


def test_thresholds_do_not_depend_on_a_test_image(
    config: EvaluateModelConfig, tmp_path: Path
) -> None:
    """Other test labels, other test pictures: the same taxonomy, other figures."""

    def calibrated(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        write_manifest(Path(config.manifest.path), rows)
        return run_evaluation(replace(config, calibrate=str(tmp_path / name)))

    rows = make_rows()
    first = calibrated("a", rows)
    pictures = [row["content"] for row in rows if row["split"] == "train"]
    for place, row in enumerate(row for row in rows if row["split"] == "test"):
        row["labels"] = [] if place % 2 else ["bed", "sea_view"]
        row["content"] = pictures[(place + 5) % len(pictures)]
    second = calibrated("b", rows)
    assert first["taxonomy_version"] == second["taxonomy_version"]
    assert first["figures"] != second["figures"]
    moved = [dict(row, labels=[]) if row["split"] == "validation" else row for row in rows]
    assert calibrated("c", moved)["taxonomy_version"] != first["taxonomy_version"]


def test_labels_left_out_of_the_training_have_figures_of_their_own(
    config: EvaluateModelConfig,
) -> None:
    summary = run_evaluation(replace(config, unseen_labels=("bed", "double")))
    metrics = json.loads(Path(summary["metrics"]).read_text(encoding="utf-8"))
    assert metrics["zero_shot"]["labels"] == ["bed", "double"]
    assert [label["seen"] for label in metrics["labels"]] == [True, True, False, True, False]
    precisions = {
        label["label"]: label["average_precision"]["value"] for label in metrics["labels"]
    }
    assert metrics["zero_shot"]["unseen"]["macro_map"]["value"] == pytest.approx(
        (precisions["bed"] + precisions["double"]) / 2
    )
    with pytest.raises(ConfigurationError, match="unseen_labels"):
        run_evaluation(replace(config, unseen_labels=("cellar",)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"split": "validation"}, ConfigurationError, "say too much"),
        ({"manifest": LabelledManifestConfig(path="/nowhere.parquet")}, ManifestError, "read"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_scored(
    config: EvaluateModelConfig,
    tmp_path: Path,
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    asked = replace(config, calibrate=str(tmp_path / "calibrated"), **change)
    with pytest.raises(error, match=message):
        run_evaluation(asked)
    assert not (tmp_path / "calibrated").exists()
    assert not Path(config.output).exists()


def test_a_manifest_without_images_to_judge_or_to_calibrate_on_is_refused(
    config: EvaluateModelConfig, tmp_path: Path
) -> None:
    write_manifest(
        Path(config.manifest.path), [row for row in make_rows() if row["split"] != "validation"]
    )
    with pytest.raises(ManifestError, match="no validation image"):
        run_evaluation(replace(config, calibrate=str(tmp_path / "calibrated")))
    write_manifest(
        Path(config.manifest.path), [row for row in make_rows() if row["split"] != "test"]
    )
    with pytest.raises(ManifestError, match="no test image"):
        run_evaluation(config)


def test_without_splits_to_look_at_there_is_an_empty_table(config: EvaluateModelConfig) -> None:
    summary = run_evaluation(replace(config, label_errors=LabelErrorsConfig(splits=())))
    assert summary["label_errors_found"] == 0
    assert pq.read_table(summary["label_errors"]).num_rows == 0


def test_the_job_prints_its_summary_last(
    config: EvaluateModelConfig, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [
        f"--config={Path(__file__).parents[2] / 'conf' / 'evaluate_model.yaml'}",
        f"--manifest.path={config.manifest.path}",
        f"--model.uri={config.model.uri}",
        f"--output={config.output}",
        f"--calibrate={tmp_path / 'calibrated'}",
        "--figures.resamples=5",
        "--decode.threads=1",
        "--tracking.enabled=false",
        f"--summary={tmp_path / 'summary.json'}",
    ]
    assert main(arguments) == 0
    out, _ = capfd.readouterr()
    summary = json.loads(out)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["bundle"] == str(tmp_path / "calibrated")
    assert main([*arguments, "--calibration.precision=1.5"]) == 2
    assert "calibration.precision" in capfd.readouterr().err


@pytest.mark.gpu
def test_figures_of_a_gpu_in_bf16_are_close_to_those_of_a_cpu(config: EvaluateModelConfig) -> None:
    on_cpu = run_evaluation(config)
    model = replace(config.model, device="cuda", precision="bf16")
    on_gpu = run_evaluation(replace(config, model=model))
    assert on_gpu["model_version"] != on_cpu["model_version"]
    for name, value in on_cpu["figures"].items():
        assert on_gpu["figures"][name] == pytest.approx(value, abs=0.1), name
