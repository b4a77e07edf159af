"""The findings in Markdown: tables, sentences, and the frame of a decision's page.

Only what was measured is filled in. What is decided, and why, is for whoever reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trials.intervals import as_points, as_share, make_table, show_interval

from modality_ablation.arms import CONCATENATION, FULL
from modality_ablation.findings import (
    Claim,
    Figure,
    compare,
    find_noise_lines,
    list_tasks,
    summarise,
    tell_claims,
)
from modality_ablation.settings import Settings

Result = Mapping[str, Any]
_TITLES: Mapping[Figure, str] = {
    "recall_at_precision": "Recall (%) at 90 % precision, as the paper's table 6 has it",
    "accuracy": "Accuracy (%)",
}


def write_page(
    settings: Settings,
    data: Mapping[str, Any],
    results: Sequence[Result],
    claims: Sequence[Claim],
    *,
    minutes: float,
) -> str:
    """The page as Markdown.

    Args:
        settings: Of the ablation.
        data: What :func:`modality_ablation.data.prepare_data` says.
        results: Of all trainings.
        claims: What was to be checked.
        minutes: Spent on it.
    """
    blocks = [
        "# Which parts of CMA-CLIP earn their place",
        "**Decided.** _To be written by whoever reads what follows._",
        f"**Measured.** {_describe(settings, data, minutes)}",
        *(
            block
            for figure, title in _TITLES.items()
            for block in (f"## {title}", make_figures_table(results, figure))
        ),
        "Differences seed by seed, the whole model minus the arm, in points of accuracy:",
        make_differences_table(results),
        "## Noise",
        "All, some or none of the test images' texts or pictures spoilt: mean accuracy (%) of the"
        " attributes, and in brackets the mean weight (%) of the modality that is spoilt.",
        make_noise_table(results),
        "## What was to be shown",
        "\n".join(f"- {line}" for line in tell_claims(claims)),
        "**What would change it.** _To be written. Not varied here: the recipe (one rate and one"
        " number of passes for all), pretrained towers, the data._",
    ]
    return "\n\n".join(blocks) + "\n"


def make_figures_table(results: Sequence[Result], figure: Figure) -> str:
    """Arms by attributes, and their mean, each with its interval.

    Args:
        results: Of all trainings.
        figure: Which figure.
    """
    rows = [
        [arm, *(show_interval(interval, _as_percent) for interval in row.values())]
        for arm, row in summarise(results, figure).items()
    ]
    return make_table(["", *list_tasks(results)], rows)


def make_differences_table(results: Sequence[Result]) -> str:
    """The whole model minus each other arm, seed by seed.

    Args:
        results: Of all trainings.
    """
    rows = []
    for arm in summarise(results, "accuracy"):
        found = {} if arm == FULL else compare(results, FULL, arm, "accuracy")
        if found:
            rows.append([arm, *(show_interval(one, as_points) for one in found.values())])
    return make_table(["", *list_tasks(results)], rows)


def make_noise_table(results: Sequence[Result]) -> str:
    """Kinds of noise by rates, of the whole model and of plain concatenation.

    Args:
        results: Of all trainings.
    """
    rows, rates = [], []
    for arm in (FULL, CONCATENATION):
        lines = find_noise_lines(results, arm)
        rates = list(dict.fromkeys(line["rate"] for line in lines)) or rates
        for kind in dict.fromkeys((line["modality"], line["how"]) for line in lines):
            cells = [
                f"{_as_percent(line['accuracy'].value)}"
                + (f" ({_as_percent(line['weight'].value)})" if arm == FULL else "")
                for line in lines
                if (line["modality"], line["how"]) == kind
            ]
            rows.append([f"{arm}: {kind[0]} {kind[1]}", *cells])
    return make_table(["", *(f"{100 * rate:g} %" for rate in rates)], rows)


def _describe(settings: Settings, data: Mapping[str, Any], minutes: float) -> str:
    images = data["images"]
    told = settings.disturbance
    known = ", ".join(f"{count:,} with a {task}" for task, count in data["known"].items())
    return (
        "The synthetic catalogue with titles: the wall's colour stands in the picture alone, the"
        " room's type in the title alone, the view in the picture or, where it shows none, in the"
        f" title. {images['train']:,} training, {images['validation']:,} validation and"
        f" {images['test']:,} test images ({known})."
        f" The towers are the same for all arms and seeds: {settings.pretraining_epochs} passes"
        " over pictures, titles and the scene's labels of the training split; then frozen. Of the"
        f" test pictures {as_share(data['pretraining']['found'])} find their own title among a"
        " hundred."
        f" {settings.epochs} passes for an arm's own parts, AdamW at {settings.learning_rate:g},"
        f" batches of {settings.batch_size}, {settings.seeds} seeds. While training, texts are"
        f" taken away at {as_share(told.text_dropout)} and swapped at {as_share(told.text_swap)},"
        f" pictures taken away at {as_share(told.image_dropout)}, swapped at"
        f" {as_share(told.image_swap)} and noise at {as_share(told.image_noise)}."
        f" {minutes:.0f} minutes in all."
    )


def _as_percent(share: float) -> str:
    return f"{100 * share:.1f}"
