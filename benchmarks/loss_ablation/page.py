"""The findings of an ablation in Markdown: tables, sentences, and the frame of a decision's page.

Only what was measured is filled in. What is decided, and why, is for whoever reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trials.intervals import Interval, as_points, as_share, make_table, show_interval

from loss_ablation.findings import (
    compare_finalists,
    summarise_finalists,
    tell_effects,
    tell_finals,
)
from loss_ablation.settings import Settings
from loss_ablation.training import FIGURES

Result = Mapping[str, Any]
_NAMES = {"gap": "GAP", "gap_at_10": "GAP@10", "macro_map": "macro mAP"}
_HEADINGS = [_NAMES[figure] for figure in FIGURES]


def write_page(
    settings: Settings,
    data: Mapping[str, Any],
    screened: Sequence[Result],
    finals: Sequence[Result],
    *,
    notes: Sequence[str],
    minutes: float,
) -> str:
    """The page as Markdown.

    Args:
        settings: Of the ablation.
        data: What :func:`loss_ablation.data.prepare_data` says.
        screened: Results of the screening.
        finals: Results of the finals.
        notes: What the reader has to know beyond that.
        minutes: Spent on it.
    """
    blocks = [
        "# Which loss trains the model",
        "**Decided.** _To be written by whoever reads what follows._",
        f"**Measured.** {_describe(settings, data, minutes)}",
        *notes,
        "## Finals",
        f"Mean over {settings.seeds} seeds that the screening did not see, with 95 % of Student's"
        " distribution over seeds; the test images are the same for all. Each interval"
        " stands for itself: of twenty, one misses by chance.",
        make_finals_table(finals),
        "Differences seed by seed, row minus column, in points of GAP:",
        make_differences_table(finals),
        "\n".join(f"- {line}" for line in tell_finals(finals)),
        "## Screening",
        "One seed each, with 95 % of a bootstrap over test images. The best of each family on the"
        " validation images went to the finals.",
        make_screening_table(screened),
        "One choice changed and all others equal, over the settings that allow it:",
        "\n".join(f"- {line}" for line in tell_effects(screened)),
        "**What would change it.** _To be written. Not varied here: the recipe (one rate and one"
        " number of passes for all), the towers, the data._",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def make_finals_table(finals: Sequence[Result]) -> str:
    """The finalists, best first.

    Args:
        finals: Results of the finals.
    """
    rows = []
    for row in summarise_finalists(finals):
        shown = [
            show_interval(Interval(**row[figure]), as_share) if figure in row else "diverged"
            for figure in FIGURES
        ]
        rows.append([row["variant"], *shown])
    return make_table(["finalist", *_HEADINGS], rows)


def make_differences_table(finals: Sequence[Result]) -> str:
    """Each finalist minus each one behind it, in points of GAP.

    Args:
        finals: Results of the finals.
    """
    names = [row["variant"] for row in summarise_finalists(finals) if "gap" in row]
    rows = []
    for index, first in enumerate(names[:-1]):
        cells = [""] * index
        for second in names[index + 1 :]:
            found = compare_finalists(finals, first, second)
            cells.append(show_interval(found["gap"], as_points) if found else "no common seed")
        rows.append([first, *cells])
    return make_table(["", *names[1:]], rows) if rows else ""


def make_screening_table(screened: Sequence[Result]) -> str:
    """All that was screened, best GAP first.

    Args:
        screened: Results of the screening.
    """
    rows = []
    done = [result for result in screened if "failed" not in result]
    for result in sorted(done, key=lambda one: -one["test"]["gap"]["value"]):
        shown = [
            show_interval(Interval(**result["test"][figure], n=1), as_share) for figure in FIGURES
        ]
        rows.append([result["family"], result["tau"], result["bias"], result["parts"], *shown])
    return make_table(["loss", "tau", "bias", "tuned towers", *_HEADINGS], rows)


def _describe(settings: Settings, data: Mapping[str, Any], minutes: float) -> str:
    images = data["images"]
    source = settings.manifest or "the synthetic catalogue, 20 % of the positives of training and"
    if settings.manifest is None:
        source += " validation moved to a wrong label, test images clean"
    start = settings.pretrained or "random weights (so a frozen tower is a random one)"
    return (
        f"On {source}: {images['train']:,} training, {images['validation']:,} validation and"
        f" {images['test']:,} test images, {data['labels']} labels,"
        f" {data['labels_per_image']} to a training image; label frequencies alone give GAP"
        f" {data['gap_of_label_frequencies']:.3f}. {settings.screening_epochs} passes in the"
        f" screening, {settings.final_epochs} in the finals, AdamW at {settings.learning_rate:g},"
        f" batches of {settings.batch_size}, from {start}. {minutes:.0f} minutes in all."
    )
