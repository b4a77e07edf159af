"""Which parts of CMA-CLIP earn their place, and how it bears spoilt texts and pictures.

    .venv/bin/python benchmarks/cma_ablation.py [--output cma-ablation-output] [--quick]

Draws the synthetic catalogue with its titles and trains two small towers on it; on these, frozen,
the whole model and five with a part less are trained with the same seeds. Images are decoded once;
trainings run side by side, one thread each. Each finished one is kept in the output folder: started
again with the same options it goes on where it was.

Leaves ``page.md`` (tables, sentences, the frame of a page for ``docs/decisions``), ``plot.png`` and
``report.json``, which is also the last line of stdout.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modality_ablation.arms import ARMS, FULL, Training
from modality_ablation.data import prepare_data
from modality_ablation.findings import (
    check_claims,
    compare,
    find_noise_lines,
    summarise,
    tell_claims,
)
from modality_ablation.page import make_figures_table, write_page
from modality_ablation.plot import draw_plot
from modality_ablation.settings import ARCHITECTURE, DISTURBANCE, Settings
from modality_ablation.training import run_training
from trials.contest import Contest
from trials.intervals import Interval
from trials.kept import keep_settings, tell, write_json, write_report

from pipeline.errors import PipelineError
from pipeline.models.device import choose_device


def make_settings(asked: argparse.Namespace) -> Settings:
    """What results depend on, from the command line."""
    asked.output.mkdir(parents=True, exist_ok=True)
    architecture = asked.output.absolute() / "architecture.json"
    write_json(architecture, ARCHITECTURE)
    quick = asked.quick
    return Settings(
        architecture=str(architecture),
        images=120 if quick else asked.images,
        validation_share=0.1,
        test_share=0.3 if quick else 0.25,
        max_side=160,
        pretraining_epochs=1 if quick else asked.pretraining_epochs,
        pretraining_batch_size=16 if quick else 128,
        epochs=1 if quick else asked.epochs,
        seeds=2 if quick else asked.seeds,
        batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
        disturbance=DISTURBANCE,
    )


def run_ablation(
    settings: Settings, output: Path, *, device: str, processes: int
) -> dict[str, Any]:
    """All of it, from the first image to the page; the report.

    Args:
        settings: What results depend on.
        output: Folder of all it leaves.
        device: A torch device.
        processes: Trainings at a time.
    """
    begun = time.monotonic()
    keep_settings(settings, output)
    tell(f"drawing {settings.images} pictures")
    data = prepare_data(settings, output / "data", processes=processes)
    # Seed after seed: cut off early, all arms have the first seeds.
    trainings = [
        Training(arm=arm, seed=seed, epochs=settings.epochs)
        for seed in range(1, settings.seeds + 1)
        for arm in ARMS
    ]
    train = functools.partial(
        run_training, settings=settings, folder=output / "data", device=device
    )
    with Contest(
        train,
        output / "results",
        device=device,
        processes=processes,
        describe=_describe,
    ) as contest:
        results = contest.run(trainings, begun=begun)
    spent = data["seconds"] + sum(result["seconds"] for result in results) / processes
    return _report(settings, output, data, results, minutes=spent / 60)


def _describe(result: dict[str, Any]) -> str:
    return "accuracy " + ", ".join(f"{t} {v:.3f}" for t, v in result["accuracy"].items())


def _report(
    settings: Settings,
    output: Path,
    data: dict[str, Any],
    results: list[dict[str, Any]],
    *,
    minutes: float,
) -> dict[str, Any]:
    page, plot = output / "page.md", output / "plot.png"
    claims = check_claims(results)
    page.write_text(write_page(settings, data, results, claims, minutes=minutes))
    draw_plot(plot, results)
    report = {
        "benchmark": "cma_ablation",
        "settings": asdict(settings),
        "data": data,
        "recall_at_precision": _plain(summarise(results, "recall_at_precision")),
        "accuracy": _plain(summarise(results, "accuracy")),
        "differences": _plain(
            {arm: compare(results, FULL, arm, "accuracy") for arm in ARMS if arm != FULL}
        ),
        "noise": {arm: _plain(find_noise_lines(results, arm)) for arm in ARMS},
        "claims": [asdict(claim) for claim in claims],
        "results": results,
        "minutes": round(minutes, 1),
        "page": str(page),
        "plot": str(plot),
    }
    told = [make_figures_table(results, "recall_at_precision"), *tell_claims(claims)]
    print(*told, f"{page} and {plot} are written.", sep="\n")
    print(write_report(output / "report.json", report))
    return report


def _plain(value: Any) -> Any:
    """Intervals as plain data, wherever they stand."""
    if isinstance(value, Interval):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("cma-ablation-output"), help="folder of all it leaves")
    add("--images", type=int, default=4000, help="pictures to draw, all splits together")
    add("--pretraining-epochs", type=int, default=20, help="passes of the towers")
    add("--epochs", type=int, default=16, help="passes of each training")
    add("--seeds", type=int, default=5, help="trainings of each arm")
    add("--batch-size", type=int, default=32, help="images per step")
    add("--learning-rate", type=float, default=1e-3, help="peak rate of all weights")
    add("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    add("--processes", type=int, default=len(os.sched_getaffinity(0)), help="trainings at a time")
    add("--quick", action="store_true", help="a smoke run on tiny sizes: its figures say nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ablation; the exit code."""
    asked = parse_arguments(argv)
    try:
        run_ablation(
            make_settings(asked),
            asked.output,
            device=str(choose_device(asked.device)),
            processes=asked.processes,
        )
    except PipelineError as error:
        tell(f"cma_ablation: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        tell("cma_ablation: interrupted; started again it goes on where it was")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
