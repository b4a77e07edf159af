"""Train MuMIC on a labelled manifest and write its bundle. One process starts no JVM."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from pipeline.cli import run_job
from pipeline.config import TrainModelConfig

JOB = "train_model"


def train_model(config: TrainModelConfig) -> Mapping[str, object]:
    """The job."""
    # Torch takes seconds to load: not for --help and not before a wrong setting is told.
    from pipeline.training.launch import run_training, validate_training  # noqa: PLC0415

    if config.distribution.processes == 1:
        return run_training(config)
    from pipeline.spark import open_session  # noqa: PLC0415
    from udfs.distributed_training import launch_training  # noqa: PLC0415

    validate_training(config)
    return launch_training(open_session(f"mumic {JOB}"), config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit code."""
    return run_job(JOB, TrainModelConfig, train_model, argv)


if __name__ == "__main__":
    sys.exit(main())
