"""The figures of the ablation as a picture: arms with their intervals, and the lines of noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from trials.intervals import make_reaches

from modality_ablation.arms import CONCATENATION, FULL
from modality_ablation.findings import MEAN_OF_TASKS, find_noise_lines, summarise

Result = Mapping[str, Any]

# Okabe and Ito's colours: told apart by colour-blind readers, too.
_COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73")
_WIDTH_IN, _HEIGHT_IN = 13.0, 8.0


def draw_plot(path: Path, results: Sequence[Result]) -> None:
    """Draw arms and noise into a PNG.

    Args:
        path: Where it goes.
        results: Of all trainings.
    """
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    figure.suptitle("Parts of CMA-CLIP, compared: mean over seeds, 95 %")
    tasks = list(summarise(results, "accuracy")[FULL])
    kinds = list(
        dict.fromkeys((line["modality"], line["how"]) for line in find_noise_lines(results, FULL))
    )
    above, below = figure.subfigures(2, 1)
    arms = above.subplots(1, len(tasks), sharey=True)
    for axis, task in zip(arms, tasks, strict=True):
        _draw_arms(axis, results, task)
    noise = below.subplots(1, len(kinds), sharey=True)
    for axis, kind in zip(noise, kinds, strict=True):
        _draw_noise(axis, results, kind)
    noise[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _draw_arms(axis: Axes, results: Sequence[Result], task: str) -> None:
    rows = {arm: asdict(row[task]) for arm, row in summarise(results, "accuracy").items()}
    y = list(range(len(rows), 0, -1))
    axis.errorbar(
        [row["value"] for row in rows.values()],
        y,
        xerr=make_reaches(list(rows.values())),
        fmt="o",
        color=_COLOURS[0],
        capsize=3,
    )
    axis.set_yticks(y, list(rows), fontsize=8)
    axis.set_title(f"accuracy, {task if task != MEAN_OF_TASKS else 'mean of attributes'}")
    axis.grid(axis="x", alpha=0.3)
    axis.margins(y=0.15)


def _draw_noise(axis: Axes, results: Sequence[Result], kind: tuple[str, str]) -> None:
    for (arm, what), colour in zip(
        ((FULL, "accuracy"), (CONCATENATION, "accuracy"), (FULL, "weight")), _COLOURS, strict=False
    ):
        lines = [
            line
            for line in find_noise_lines(results, arm)
            if (line["modality"], line["how"]) == kind
        ]
        found = [asdict(line[what]) for line in lines]
        axis.errorbar(
            [100 * line["rate"] for line in lines],
            [one["value"] for one in found],
            yerr=make_reaches(found),
            color=colour,
            linestyle="--" if what == "weight" else "-",
            capsize=2,
            label=f"{arm}: {what if what == 'accuracy' else 'weight of what is spoilt'}",
        )
    axis.set_ylim(0, 1)
    axis.set_title(f"{kind[0]} {kind[1]}")
    axis.set_xlabel("test images spoilt (%)")
    axis.grid(alpha=0.3)
