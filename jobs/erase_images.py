"""Remove images from every table for good, or let erased ones come back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline.cli import run_job
from pipeline.config import EraseImagesConfig
from pipeline.spark import open_session
from pipeline.tagging.erase import JOB, run_erasure, validate_ids
from pipeline.tagging.request import Summary, parse_as_of


def erase_images(config: EraseImagesConfig) -> Summary:
    """The job. What is wrong with the command line is told before Spark starts."""
    validate_ids(config)
    parse_as_of(config.as_of)
    return run_erasure(open_session(f"mumic {JOB}"), config, now=lambda: datetime.now(UTC))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit code."""
    return run_job(JOB, EraseImagesConfig, erase_images, argv)


if __name__ == "__main__":
    sys.exit(main())
