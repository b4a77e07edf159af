"""The demo: a catalogue is drawn, a small model trained, and three nights are tagged and checked.

    make demo        (or .venv/bin/python demo/run.py, from any folder)

Every job runs as its own process, as it would in production; this script writes no table and opens
no Spark session. What it leaves in ``demo-output/`` it removes when it is run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: modules are named from the repository, not from here
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from demo import expectations, nights, scores, sheet, verify
from demo.catalogue import IMAGES, make_catalogue
from demo.layout import DEFAULT_OUTPUT, ROOT, Layout, shown
from demo.nights import Night, Summary
from demo.steps import (
    StepFailedError,
    Steps,
    make_environment,
    run_command,
    tell_failure,
)

_BROKEN_SHOWN = 10


class Demo:
    """One demo from the first to the last step.

    Args:
        layout: Where everything goes.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.steps = Steps(layout.logs)
        self.environment = make_environment(os.environ, java_home=ROOT / ".venv" / "java_home")

    def run(self, *, images: int, epochs: int | None) -> None:
        """All steps.

        Raises:
            StepFailedError: One of them failed, or a promise is broken.
        """
        begun = time.monotonic()
        self.layout.clear()
        with self.steps.step("catalogue", f"drawing {images:,} hotel photos"):
            cores = len(os.sched_getaffinity(0))
            manifests = make_catalogue(self.layout, images=images, processes=cores)
        three = nights.make_nights(manifests)
        training = self.train(epochs)
        summaries: list[Summary] = []
        for night in three:
            summaries.append(self.tag(night))
            self.check_night(three[: len(summaries)])
        again = self.start_again(three[-2], summaries[-2])
        self.ask()
        with self.steps.step("report", "measuring the ranking, drawing the contact sheet"):
            figures = self.measure()
            self.draw(figures)
        self.steps.seconds["all"] = round(time.monotonic() - begun, 1)
        report = {
            **figures,
            "runs": summaries,
            "started_again": again,
            "training": training,
            "step_seconds": self.steps.seconds,
        }
        self.layout.summary.write_text(json.dumps(report, indent=2) + "\n")
        self.tell_end()

    def train(self, epochs: int | None) -> dict[str, Any]:
        """Train the model; the summary of the job."""
        summary = self.layout.logs / "train_model.json"
        command = [
            shown(Path(sys.executable)),
            *("jobs/train_model.py", "--config", "conf/base.yaml"),
            *("--config", "conf/demo/train_model.yaml"),
            *("--manifest.path", shown(self.layout.labelled)),
            *("--taxonomy", shown(self.layout.taxonomy)),
            *("--bundle", shown(self.layout.bundle)),
            *("--summary", shown(summary)),
        ]
        if epochs is not None:
            command += ["--optimizer.epochs", str(epochs)]
        with self.steps.step("training", "training a small model (some minutes)") as log:
            self.call(command, log)
            told = nights.read_summary(summary)
            print(f"trained on {told['images']:,} images in {told['seconds']:.0f} s")
        return told

    def tag(self, night: Night) -> Summary:
        """Tag one night; the summary of the run."""
        summary = self.layout.logs / f"{night.run_id}.json"
        with self.steps.step(night.run_id, f"{night.run_id}: {night.about}") as log:
            self.call(nights.make_command(self.layout, night, summary=summary), log)
            told = nights.read_summary(summary)
        print("\n".join(nights.describe_summary(told)))
        return told

    def check_night(self, done: Sequence[Night]) -> None:
        """Check the promise after the last of these nights, with another reader than Spark."""
        night, tables = done[-1], self.layout.tables
        report = verify.verify_run(tables, night.manifest, night.run_id)
        kept = ", ".join(f"{count:,} {name}" for name, count in sorted(report.statuses.items()))
        self.hold(
            night.run_id,
            report.broken,
            f"each of {report.wanted:,} images has one row ({kept}); all {report.tags:,} tags and"
            f" {report.embeddings:,} embeddings are of tagged images",
        )
        if len(done) == 2:  # noqa: PLR2004
            before = done[0]
            broken = expectations.check_second_night(
                tables,
                first=before.manifest,
                second=night.manifest,
                run_ids=(before.run_id, night.run_id),
            )
            self.hold(night.run_id, broken, "the model saw what is new, changed, or failed and due")
        if len(done) == 3:  # noqa: PLR2004
            broken = expectations.check_repeated_delivery(
                tables, run_ids=(done[-2].run_id, night.run_id)
            )
            self.hold(night.run_id, broken, "a repeated delivery called no model, changed nothing")

    def start_again(self, night: Night, before: Summary) -> Summary:
        """Start a finished run once more; its summary."""
        versions = verify.read_versions(self.layout.tables)
        summary = self.layout.logs / f"{night.run_id}-again.json"
        with self.steps.step("again", f"{night.run_id} once more, though it is published") as log:
            self.call(nights.make_command(self.layout, night, summary=summary), log)
            told = nights.read_summary(summary)
        broken = expectations.check_started_again(
            self.layout.tables, versions=versions, summaries=(before, told)
        )
        self.hold(night.run_id, broken, "a finished run that is started again writes to no table")
        return told

    def ask(self) -> None:
        """Ask what people ask, with SQL, all in one Spark session."""
        command = [
            *nights.submit(),
            "demo/answers.py",
            *("--tables", shown(self.layout.tables)),
            *("--model", shown(self.layout.bundle)),
        ]
        with self.steps.step("questions", "what people ask of the tables") as log:
            print(self.call(command, log))

    def measure(self) -> scores.Figures:
        """How well the model ranks."""
        layout = self.layout
        figures = scores.measure_scores(layout.tables, labelled=layout.labelled, truth=layout.truth)
        print("\n".join(scores.describe_figures(figures)))
        return figures

    def draw(self, figures: Mapping[str, Any]) -> None:
        """Draw the contact sheet."""
        sheet.write_sheet(
            self.layout.sheet,
            tables=self.layout.tables,
            truth=self.layout.truth,
            title="Three nights of a drawn hotel catalogue",
            subtitle=f"Published tags and their scores; {figures['images_scored']:,} pictures that"
            " the training never saw, these chosen to show many labels. "
            f"GAP {figures['gap']:.2f}, by label frequencies alone"
            f" {figures['gap_of_label_frequencies']:.2f}.",
        )

    def call(self, command: Sequence[str], log: Path) -> str:
        """Show a command, run it; what it wrote to stdout."""
        print(f"$ {shlex.join(command)}", flush=True)
        return run_command(command, log=log, environment=self.environment)

    def hold(self, run_id: str, broken: Sequence[str], kept: str) -> None:
        """Say that a promise is kept, or end the demo.

        Raises:
            StepFailedError: It is broken.
        """
        if broken:
            print("\n".join(f"  - {wrong}" for wrong in broken[:_BROKEN_SHOWN]))
            raise StepFailedError(
                f"the promise is broken after {run_id} in {len(broken)} places: {broken[0]}"
            )
        print(f"  kept (read with deltalake): {kept}", flush=True)

    def tell_end(self) -> None:
        """Where everything is, and how long it took."""
        print("\nseconds:")
        for step, seconds in self.steps.seconds.items():
            print(f"  {step:<12}{seconds:>7.1f}")
        print(f"\n{shown(self.layout.summary)} and {shown(self.layout.sheet)} are written.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    # For work on the demo itself: a smaller one, somewhere else.
    parser.add_argument("--images", type=int, default=IMAGES, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        demo = Demo(Layout(options.output.absolute()))
        demo.run(images=options.images, epochs=options.epochs)
    except StepFailedError as error:
        tell_failure(error)
        return 1
    except OSError as error:
        sys.stderr.write(f"demo: error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
