"""Compare a candidate with the champion, register it and move the alias; or move it back."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pipeline.cli import run_job
from pipeline.config import RegisterModelConfig

JOB = "register_model"


def register_model(config: RegisterModelConfig) -> Mapping[str, object]:
    """The job. Starts no JVM."""
    # Torch takes seconds to load: not for --help and not before a wrong setting is told.
    from pipeline.evaluation.promotion import run_registration  # noqa: PLC0415

    return run_registration(config, now=lambda: datetime.now(UTC))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit code."""
    return run_job(JOB, RegisterModelConfig, register_model, argv)


if __name__ == "__main__":
    sys.exit(main())
