"""Evaluate a bundle on a labelled manifest, and calibrate its thresholds. Starts no JVM."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from pipeline.cli import run_job
from pipeline.config import EvaluateModelConfig

JOB = "evaluate_model"


def evaluate_model(config: EvaluateModelConfig) -> Mapping[str, object]:
    """The job."""
    # Torch takes seconds to load: not for --help and not before a wrong setting is told.
    from pipeline.evaluation.launch import run_evaluation  # noqa: PLC0415

    return run_evaluation(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit code."""
    return run_job(JOB, EvaluateModelConfig, evaluate_model, argv)


if __name__ == "__main__":
    sys.exit(main())
