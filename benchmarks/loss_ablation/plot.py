"""The figures of an ablation as a picture, every one with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from trials.intervals import make_reaches

from loss_ablation.grid import ASYMMETRIC, FIXED, LEARNT, LINEAR, PLAIN, SOFTMAX

Result = Mapping[str, Any]

# Okabe and Ito's colours: told apart by colour-blind readers, too.
_COLOURS = {"-": "#000000", "none": "#0072B2", "learnt": "#E69F00", "prior": "#009E73"}
_BIASES = {"-": "no bias", "none": "bias 0", "learnt": "bias learnt", "prior": "bias from prior"}
_SHIFT = {"-": 0.0, "none": -0.18, "learnt": 0.0, "prior": 0.18}
_WIDTH_IN, _HEIGHT_IN = 13.0, 9.0
_FINAL_FIGURES = {"gap": "GAP", "macro_map": "macro mAP"}


def draw_plot(
    path: Path,
    *,
    screened: Sequence[Result],
    finalists: Sequence[Mapping[str, Any]],
    title: str,
) -> None:
    """Draw screening and finals into a PNG.

    Args:
        path: Where it goes.
        screened: Results of the screening.
        finalists: Rows of :func:`loss_ablation.findings.summarise_finalists`.
        title: Above all.
    """
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, 2, height_ratios=(3, 2))
    axes[0][1].sharey(axes[0][0])
    done = [result for result in screened if "failed" not in result]
    for axis, parts, said in (
        (axes[0][0], ("both",), "both towers tuned"),
        (axes[0][1], ("image", "neither"), "no text tower tuned"),
    ):
        shown = [result for result in done if result["parts"] in parts]
        _draw_screening(axis, shown)
        axis.set_title(f"Screening, {said}: one seed, 95 % over test images", fontsize=10)
    handles = [
        Line2D([], [], marker="o", color=colour, label=_BIASES[bias])
        for bias, colour in _COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize=8)
    for axis, (key, said) in zip(axes[1], _FINAL_FIGURES.items(), strict=True):
        _draw_finals(axis, [row for row in finalists if key in row], key)
        axis.set_title(f"Finals, {said}: mean over seeds, 95 %", fontsize=10)
    axes[1][1].tick_params(labelleft=False)
    figure.savefig(path, dpi=110)


def _find_place(result: Result) -> str:
    """Where a result stands from left to right."""
    family = result["family"]
    if family in (FIXED, LEARNT):
        return str(result["tau"])
    if family == SOFTMAX:
        return f"soft-\nmax\n{result['tau']}"
    if family == LINEAR:
        return "linear,\nfrozen" if result["parts"] == "neither" else "linear\nhead"
    return {PLAIN: "plain\n(1)", ASYMMETRIC: "asym-\nmetric"}[family]


def _draw_screening(axis: Axes, results: Sequence[Result]) -> None:
    places = list(dict.fromkeys(_find_place(result) for result in results))
    for bias, colour in _COLOURS.items():
        shown = [result for result in results if result["bias"] == bias]
        if not shown:
            continue
        x = [places.index(_find_place(result)) + _SHIFT[bias] for result in shown]
        figures = [result["test"]["gap"] for result in shown]
        axis.errorbar(
            x,
            [one["value"] for one in figures],
            yerr=make_reaches(figures),
            fmt="o",
            color=colour,
            markersize=4,
            linewidth=1,
        )
        line = [index for index, result in enumerate(shown) if result["family"] == FIXED]
        axis.plot(
            [x[index] for index in line],
            [figures[index]["value"] for index in line],
            color=colour,
            linewidth=0.8,
            alpha=0.5,
        )
    axis.set_xticks(range(len(places)), places, fontsize=8)
    axis.set_xlabel("temperature of the tempered sigmoid, and its rivals")
    axis.set_ylabel("GAP on clean test images")
    axis.grid(axis="y", alpha=0.3)


def _draw_finals(axis: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    figures = [row[key] for row in rows]
    y = range(len(rows), 0, -1)
    axis.errorbar(
        [one["value"] for one in figures],
        list(y),
        xerr=make_reaches(figures),
        fmt="o",
        color="#000000",
        capsize=3,
    )
    axis.set_yticks(list(y), [row["variant"] for row in rows], fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.margins(y=0.15)
