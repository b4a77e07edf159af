"""Which loss, temperature, bias and tuned parts train MuMIC best, with intervals.

    .venv/bin/python benchmarks/ablation.py [--output ablation-output] [--quick]
    .venv/bin/python benchmarks/ablation.py --manifest labelled.parquet --taxonomy taxonomy.yaml

``benchmarks/photo_folder.py`` makes both from a folder of photos and a CSV. Without a manifest it
draws the synthetic catalogue: a long tail, 20 % of the positives of training and validation moved
to a wrong label, test images clean. Every variant is trained once (screening); the best of each of
six families on the validation images is trained anew with five other seeds (finals). Images are
decoded once; trainings run side by side, one thread each. Each finished one is kept in the output
folder: started again with the same options it goes on where it was. Nothing trained here is kept,
so a linear head can take part.

Leaves ``page.md`` (tables, sentences, the frame of a page for ``docs/decisions``), ``plot.png`` and
``report.json``, which is also the last line of stdout.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loss_ablation.data import prepare_data
from loss_ablation.findings import (
    compare_finalists,
    find_effects,
    summarise_finalists,
    tell_effects,
    tell_finals,
)
from loss_ablation.grid import FAMILIES, TAUS, choose_finalists, make_grid, pick_variants
from loss_ablation.page import make_finals_table, write_page
from loss_ablation.plot import draw_plot
from loss_ablation.settings import ARCHITECTURE, Settings
from loss_ablation.training import Training, run_training
from trials.contest import Contest
from trials.kept import keep_settings, tell, write_json, write_report

from pipeline.errors import ConfigurationError, PipelineError
from pipeline.models.device import choose_device

_SCREENING_SEED = 0
# Without two there is nothing to compare.
_FEWEST_FINALISTS = 2
# Of the time that is given, so that a machine that slows down still ends in time.
_PLANNED_SHARE = 0.95


def make_settings(asked: argparse.Namespace) -> Settings:
    """What results depend on, from the command line."""
    if (asked.manifest is None) != (asked.taxonomy is None):
        raise ConfigurationError(
            "a manifest and its taxonomy belong together", where="--manifest, --taxonomy"
        )
    quick = asked.quick
    architecture = asked.architecture
    if architecture is None:
        architecture = str(_write_architecture(asked.output, side=32 if quick else None))
    return Settings(
        manifest=asked.manifest and str(Path(asked.manifest).absolute()),
        taxonomy=asked.taxonomy and str(Path(asked.taxonomy).absolute()),
        architecture=architecture,
        pretrained=asked.pretrained,
        images=150 if quick else asked.images,
        validation_share=0.2 if quick else 0.08,
        test_share=0.3 if quick else 0.22,
        max_side=160 if quick else 1600,
        taus=(0.07,) if quick else TAUS,
        variants=tuple(asked.variants),
        screening_epochs=1 if quick else asked.screening_epochs,
        final_epochs=1 if quick else asked.final_epochs,
        seeds=2 if quick else asked.seeds,
        batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
        resamples=20 if quick else 500,
    )


def _write_architecture(output: Path, *, side: int | None) -> Path:
    """The default towers as a file; smaller pictures for a quick look."""
    architecture = json.loads(json.dumps(ARCHITECTURE))
    if side is not None:
        architecture["vision_cfg"]["image_size"] = side
    # Named by what is in it: other towers are other settings.
    digest = hashlib.sha256(json.dumps(architecture).encode()).hexdigest()[:8]
    output.mkdir(parents=True, exist_ok=True)
    path = output.absolute() / f"architecture-{digest}.json"
    write_json(path, architecture)
    return path


class Ablation:
    """One ablation from the first image to the page.

    Args:
        settings: What results depend on.
        output: Folder of all it leaves.
        device: A torch device.
        processes: Trainings at a time.
        minutes: Time for all of it, that of earlier starts included.
    """

    def __init__(
        self, settings: Settings, output: Path, *, device: str, processes: int, minutes: float
    ) -> None:
        self.settings, self.output = settings, output
        self.device, self.processes, self.minutes = device, processes, minutes
        self.grid = pick_variants(make_grid(settings.taus), settings.variants)
        self.begun = time.monotonic()
        self.notes: list[str] = []

    def run(self) -> dict[str, Any]:
        """All of it; the report."""
        keep_settings(self.settings, self.output)
        tell("decoding" if self.settings.manifest else f"drawing {self.settings.images} pictures")
        data = prepare_data(self.settings, self.output / "data", processes=self.processes)
        train = functools.partial(
            run_training,
            settings=self.settings,
            folder=self.output / "data",
            device=self.device,
        )
        with Contest(
            train,
            self.output / "results",
            device=self.device,
            processes=self.processes,
            describe=lambda result: f"GAP {result['test']['gap']['value']:.3f}",
        ) as contest:
            screening = [
                Training(
                    stage="screening",
                    variant=variant,
                    seed=_SCREENING_SEED,
                    epochs=self.settings.screening_epochs,
                )
                for variant in self.grid
            ]
            later = len(FAMILIES) * self.settings.seeds * self.settings.final_epochs
            screened = contest.run(screening, later=later, begun=self.begun)
            spent = data["seconds"] + sum(one["seconds"] for one in screened) / self.processes
            chosen = self.choose(contest, screened, spent)
            finals = contest.run(self.make_finals(chosen), begun=self.begun)
        spent += sum(one["seconds"] for one in finals) / self.processes
        return self.report(data, screened, finals, minutes=spent / 60)

    def choose(
        self, contest: Contest[Training], screened: Sequence[dict[str, Any]], spent: float
    ) -> list[str]:
        """Names of the finalists: chosen once, as many as the time allows."""
        kept = self.output / "finalists.json"
        if not kept.exists():
            names = choose_finalists(screened, len(FAMILIES))
            each = contest.estimate(screened, self.make_finals(names[:1]))
            left = _PLANNED_SHARE * 60 * self.minutes - spent
            most = max(_FEWEST_FINALISTS, math.floor(left / each))
            write_json(kept, {"chosen": names[:most], "no_time_for": names[most:]})
        found = json.loads(kept.read_text())
        if found["no_time_for"]:
            self.notes.append(
                f"{self.minutes:g} minutes left no time for finals of"
                f" {', '.join(found['no_time_for'])}: of them only the screening is known."
            )
        names = found["chosen"]
        tell(f"finalists: {', '.join(names)}")
        return list(names)

    def make_finals(self, names: Sequence[str]) -> list[Training]:
        """The trainings of finalists, seed after seed, so that all have the first seeds first."""
        variants = {variant.name: variant for variant in self.grid}
        seeds = range(_SCREENING_SEED + 1, _SCREENING_SEED + 1 + self.settings.seeds)
        return [
            Training(
                stage="finals",
                variant=variants[name],
                seed=seed,
                epochs=self.settings.final_epochs,
            )
            for seed, name in itertools.product(seeds, names)
        ]

    def report(
        self,
        data: dict[str, Any],
        screened: list[dict[str, Any]],
        finals: list[dict[str, Any]],
        *,
        minutes: float,
    ) -> dict[str, Any]:
        """Write page, plot and report; tell the tables; the report."""
        page, plot = self.output / "page.md", self.output / "plot.png"
        page.write_text(
            write_page(self.settings, data, screened, finals, notes=self.notes, minutes=minutes)
        )
        finalists = summarise_finalists(finals)
        draw_plot(
            plot, screened=screened, finalists=finalists, title="Ways to train MuMIC, compared"
        )
        words = [*self.notes, *tell_finals(finals), *tell_effects(screened)]
        names = [row["variant"] for row in finalists]
        report = {
            "benchmark": "ablation",
            "settings": asdict(self.settings),
            "data": data,
            "finalists": finalists,
            "differences": [
                {"first": one, "second": other}
                | {
                    figure: asdict(interval)
                    for figure, interval in compare_finalists(finals, one, other).items()
                }
                for one, other in itertools.combinations(names, 2)
            ],
            "effects": [asdict(effect) for effect in find_effects(screened)],
            "screening": screened,
            "finals": finals,
            "words": words,
            "minutes": round(minutes, 1),
            "page": str(page),
            "plot": str(plot),
        }
        print(make_finals_table(finals), *words, f"{page} and {plot} are written.", sep="\n")
        print(write_report(self.output / "report.json", report))
        return report


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("ablation-output"), help="folder of all it leaves")
    add("--manifest", help="a labelled manifest with train, validation and test images")
    add("--taxonomy", help="its taxonomy")
    add("--variants", nargs="+", default=(), metavar="NAME", help="screen these alone")
    add("--architecture", help="open_clip name or .json; default: a small residual network")
    add("--pretrained", help="weights the towers start from; default: random ones")
    add("--images", type=int, default=3400, help="pictures to draw, all splits together")
    add("--screening-epochs", type=int, default=5, help="passes of each training of the screening")
    add("--final-epochs", type=int, default=7, help="passes of each training of the finals")
    add("--seeds", type=int, default=5, help="trainings of each finalist")
    add("--batch-size", type=int, default=32, help="images per step")
    add("--learning-rate", type=float, default=1e-3, help="peak rate of the towers")
    add("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    add("--processes", type=int, default=len(os.sched_getaffinity(0)), help="trainings at a time")
    add("--minutes", type=float, default=40, help="fewer finalists where it would take longer")
    add("--quick", action="store_true", help="a smoke run on tiny sizes: its figures say nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ablation; the exit code."""
    asked = parse_arguments(argv)
    try:
        Ablation(
            make_settings(asked),
            asked.output,
            device=str(choose_device(asked.device)),
            processes=asked.processes,
            minutes=asked.minutes,
        ).run()
    except PipelineError as error:
        tell(f"ablation: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        tell("ablation: interrupted; started again it goes on where it was")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
