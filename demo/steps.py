"""The steps of the demo: each timed, with a log of its own, and told in one line when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo.layout import ROOT, shown

_TAIL_LINES = 25
_TAIL_CHARS = 200  # of a line: plans of Spark are longer than anybody reads


class StepFailedError(Exception):
    """A step of the demo went wrong.

    Args:
        message: What, in one line.
        log: What the step wrote.
    """

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


class Steps:
    """Runs steps one after the other.

    Args:
        logs: Folder for their logs.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, doing: str) -> Iterator[Path]:
        """Time a step and name it in what it raises.

        Args:
            name: In the table of times, and of the log.
            doing: Said before it begins.

        Yields:
            The step's log.

        Raises:
            StepFailedError: Whatever went wrong.
        """
        log = self._logs / f"{len(self.seconds) + 1:02d}-{name}.log"
        print(f"\n==> {doing}", flush=True)
        begun = time.monotonic()
        try:
            yield log
        except StepFailedError as error:
            raise StepFailedError(f"step {name} failed: {error}", error.log) from error
        except Exception as error:
            with log.open("a") as stream:
                stream.write(traceback.format_exc())
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise StepFailedError(f"step {name} failed: {what}", log) from error
        self.seconds[name] = round(time.monotonic() - begun, 1)


def run_command(command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> str:
    """Run a command in the repository; it writes its errors to the log.

    Returns:
        What it wrote to stdout.

    Raises:
        StepFailedError: It cannot be run, or its exit code is not 0.
    """
    with log.open("a") as errors:
        try:
            ended = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                check=False,
            )
        except OSError as error:
            raise StepFailedError(f"{command[0]} cannot be run: {error.strerror}", log) from error
        errors.write(ended.stdout)
    if ended.returncode != 0:
        raise StepFailedError(f"{Path(command[0]).name} ended with code {ended.returncode}", log)
    return ended.stdout


def make_environment(known: Mapping[str, str], *, java_home: Path) -> dict[str, str]:
    """The environment of the demo's commands.

    Args:
        known: Of this process.
        java_home: File in which the set-up wrote where Java is.
    """
    environment = dict(known)
    # Workers started as "python3" would be another interpreter with other libraries.
    environment["PYSPARK_PYTHON"] = environment["PYSPARK_DRIVER_PYTHON"] = sys.executable
    # The Spark of this environment, not one that happens to be installed.
    environment.pop("SPARK_HOME", None)
    # Machines whose own name does not resolve can run the demo too.
    environment.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if java_home.exists():
        environment["JAVA_HOME"] = java_home.read_text().strip()
    return environment


def tell_failure(error: StepFailedError) -> None:
    """The end of the step's log, and what went wrong in one line below it, on stderr."""
    lines = [f"demo: error: {error}"]
    if error.log is not None:
        text = error.log.read_text(errors="replace") if error.log.exists() else ""
        tail = [line[:_TAIL_CHARS] for line in text.splitlines()[-_TAIL_LINES:]]
        lines[:0] = [f"the end of {shown(error.log)}:", *(f"  | {line}" for line in tail)]
    sys.stderr.write(os.linesep.join(["", *lines, ""]))
    sys.stderr.flush()
