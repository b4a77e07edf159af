"""What wrong labels cost a training, what is found of them, and what leaving those out is worth.

    .venv/bin/python benchmarks/label_noise.py [--output label-studies-output] [--seeds 3]

Draws the catalogue (a fifth of the positives of training and validation images on a wrong label,
test images clean). For each seed it trains with ``train_model``'s code on moved labels; lets
``evaluate_model``'s code write the table of probable label errors, and compares its top, as many
rows as labels were moved, with the truth; then trains anew without the labels that table is
confident about. Trainings on true labels, and with plain BCE, say how much the noise costs and
whom. Figures are of the clean test images. What is done already in the output folder is not done
again. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from drawn_catalogue import Drawn, draw_catalogue
from loss_ablation.findings import as_points, as_share, make_interval, show_interval
from loss_ablation.settings import ARCHITECTURE
from trials.kept import write_json

from pipeline.config import (
    EvaluateModelConfig,
    FiguresConfig,
    LabelErrorsConfig,
    LabelledManifestConfig,
    LogConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ReportConfig,
    SuspectsConfig,
    TowersConfig,
    TrackingConfig,
    TrainModelConfig,
)
from pipeline.evaluation.launch import run_evaluation
from pipeline.training.launch import run_training

_TEMPERED = LossConfig(tau=0.07, learn_tau=True, bias="prior")
_PLAIN = LossConfig(kind="plain_bce", learn_tau=False, bias="none")
_FIGURES = ("gap", "macro_map")
_MOVED = "moved labels"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to train.

    Attributes:
        name: In tables.
        clean: On the true labels.
        loss: What is minimised.
        kinds: Of suspicious labels, those that are left out.
    """

    name: str
    clean: bool = False
    loss: LossConfig = field(default_factory=lambda: _TEMPERED)
    kinds: tuple[Any, ...] = ()


# The first one makes the table that the others read.
WAYS = (
    Way(name=_MOVED),
    Way(name="moved labels, suspects left out", kinds=("wrong", "missing")),
    Way(name="moved labels, only wrong ones left out", kinds=("wrong",)),
    Way(name="true labels", clean=True),
    Way(name="moved labels, plain BCE", loss=_PLAIN),
    Way(name="true labels, plain BCE", clean=True, loss=_PLAIN),
)


class Study:
    """All trainings of a study, each with its figures.

    Args:
        drawn: The catalogue.
        folder: Of all that is kept.
        epochs: Passes of each training.
    """

    def __init__(self, drawn: Drawn, folder: Path, *, epochs: int) -> None:
        self.drawn, self.folder, self.epochs = drawn, folder, epochs
        folder.mkdir(parents=True, exist_ok=True)
        self.architecture = folder / "architecture.json"
        write_json(self.architecture, ARCHITECTURE)

    def run(self, way: Way, seed: int) -> dict[str, Any]:
        """Train and measure; figures of an earlier start are read again."""
        name = f"{WAYS.index(way)}-{seed}-{self.epochs}"
        kept = self.folder / f"{name}.json"
        if not kept.exists():
            write_json(kept, self._measure(self._train(way, seed, name), way, name))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def table(self, seed: int) -> Path:
        """Label errors that the model of moved labels found."""
        return self.folder / f"0-{seed}-{self.epochs}-found" / "label_errors.parquet"

    def _train(self, way: Way, seed: int, name: str) -> Path:
        bundle = self.folder / name
        if bundle.exists():
            return bundle
        run_training(
            TrainModelConfig(
                manifest=LabelledManifestConfig(
                    path=str(self.drawn.clean if way.clean else self.drawn.moved)
                ),
                taxonomy=str(self.drawn.taxonomy),
                bundle=str(bundle),
                suspects=SuspectsConfig(
                    table=str(self.table(seed)) if way.kinds else None, kinds=way.kinds
                ),
                towers=TowersConfig(architecture=str(self.architecture)),
                optimizer=OptimizerConfig(
                    epochs=self.epochs,
                    batch_size=32,
                    learning_rate=1e-3,
                    head_learning_rate=3e-2,
                    weight_decay=0.05,
                    seed=seed,
                ),
                loss=way.loss,
                device="cpu",
                tracking=TrackingConfig(enabled=False),
                log=LogConfig(progress=False),
            )
        )
        return bundle

    def _measure(self, bundle: Path, way: Way, name: str) -> dict[str, Any]:
        looks = way.name == _MOVED
        summary = run_evaluation(
            EvaluateModelConfig(
                manifest=LabelledManifestConfig(path=str(self.drawn.moved)),
                model=ModelConfig(uri=str(bundle), device="cpu"),
                output=str(self.folder / f"{name}-found"),
                figures=FiguresConfig(resamples=0),
                report=ReportConfig(mistakes=0, label_errors=0),
                label_errors=LabelErrorsConfig() if looks else LabelErrorsConfig(splits=()),
                tracking=TrackingConfig(enabled=False),
                log=LogConfig(progress=False),
            )
        )
        return {figure: summary["figures"][figure] for figure in _FIGURES}


def judge_table(path: Path, drawn: Drawn) -> dict[str, Any]:
    """How often the table is right.

    Args:
        path: Of label errors.
        drawn: Knows the truth.

    Returns:
        moved (labels), top_precision (of as many rows, shared with those that are not there),
        first_quarter_precision (of a quarter of them), confident_rows and their precision, by kind.
    """
    rows = pq.read_table(path).to_pylist()
    right = [row["given"] != (row["label"] in drawn.truth[row["image_id"]]) for row in rows]
    moved = drawn.count_moved()
    confident = {
        kind: [
            hit
            for row, hit in zip(rows, right, strict=True)
            if row["confident"] and row["kind"] == kind
        ]
        for kind in ("wrong", "missing")
    }
    return {
        "moved": moved,
        "top_precision": sum(right[:moved]) / moved,
        "first_quarter_precision": sum(right[: moved // 4]) / (moved // 4),
        "confident": {
            kind: {"rows": len(hits), "precision": float(np.mean(hits)) if hits else None}
            for kind, hits in confident.items()
        },
    }


def tell(results: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The table of ways, and each against the training on moved labels, seed by seed."""
    yield "| trained on | GAP | macro mAP | points of GAP over moved labels |"
    yield "| --- | --- | --- | --- |"
    standard = results[_MOVED]
    for name, found in results.items():
        cells = [
            show_interval(make_interval([one[figure] for one in found]), as_share)
            for figure in _FIGURES
        ]
        gains = make_interval(
            [one["gap"] - other["gap"] for one, other in zip(found, standard, strict=True)]
        )
        cells.append("" if name == _MOVED else show_interval(gains, as_points))
        yield f"| {name} | {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, trains, compares, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("label-studies-output"), help="folder of all it leaves")
    add("--images", type=int, default=4000, help="pictures to draw, all splits together")
    add("--epochs", type=int, default=6, help="passes of each training")
    add("--seeds", type=int, default=3, help="trainings of each way")
    asked = parser.parse_args(argv)
    output = asked.output.absolute()
    drawn = draw_catalogue(output / "catalogue", asked.images)
    study = Study(drawn, output / "noise", epochs=asked.epochs)
    results: dict[str, list[dict[str, Any]]] = {way.name: [] for way in WAYS}
    for seed in range(1, asked.seeds + 1):
        for way in WAYS:
            found = study.run(way, seed)
            results[way.name].append(found)
            sys.stderr.write(f"seed {seed}, {way.name}: GAP {found['gap']:.3f}\n")
    tables = [judge_table(study.table(seed), drawn) for seed in range(1, asked.seeds + 1)]
    print(*tell(results), sep="\n")
    print(json.dumps({"benchmark": "label_noise", "results": results, "label_errors": tables}))


if __name__ == "__main__":
    main()
