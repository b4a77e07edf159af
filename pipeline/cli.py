"""What every command has in common: arguments, logs, the summary and the exit code.

Exit codes: 0 done, 1 expected error (one line on stderr), 2 usage or configuration, 3 held by the
audit, 4 unexpected (traceback), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TextIO, TypeVar, cast

from pipeline import __version__
from pipeline.arguments import parse_config
from pipeline.config import LogConfig
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.logs import configure_logging
from pipeline.ranges import validate_ranges
from pipeline.redaction import redact, redacted
from pipeline.storage import validate_writable, write_text

log = logging.getLogger(__name__)

EXIT_UNEXPECTED = 4
EXIT_INTERRUPTED = 130


class JobConfig(Protocol):
    """What every job's configuration has."""

    @property
    def log(self) -> LogConfig:
        """Logs and progress."""


C = TypeVar("C", bound=JobConfig)


def run_job(
    job: str,
    config_class: type[C],
    body: Callable[[C], Mapping[str, object] | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a job from its command line and turn what happens into an exit code.

    Args:
        job: Name of the job, as of its module in ``jobs``.
        config_class: Frozen dataclass of its configuration.
        body: The job itself. What it returns is the summary: one JSON object as the last line of
            stdout and, where the configuration has a ``summary``, in that file. None: no summary.
        argv: Arguments. Default: those of the process.

    Returns:
        The exit code.
    """
    command = command_name(job)
    try:
        config = parse_config(command, config_class, sys.argv[1:] if argv is None else argv)
        validate_ranges(config)
    except ConfigurationError as error:
        _tell(f"{command}: error: {redact(str(error))}")
        return error.exit_code
    except SystemExit as finished:  # --help and --print_config
        return int(finished.code or 0)
    configure_logging(config.log, job=job)
    summary_uri = cast("str | None", getattr(config, "summary", None))
    if summary_uri is not None:
        try:
            validate_writable(summary_uri)
        except PipelineError as error:
            _tell(f"{command}: error: {redact(str(error))}")
            return error.exit_code
    try:
        log.info("%s %s: %s", command, __version__, json.dumps(redacted(config)))
        summary = body(config)
        if summary is not None:
            _publish_summary(summary, summary_uri)
    except KeyboardInterrupt:
        _tell(f"{command}: interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  the one place that turns errors into exit codes
        return _fail(command, job, config, error)
    finally:
        _write(sys.stderr, "")  # what logs and progress could not
    return 0


def command_name(job: str) -> str:
    """The console command of a job."""
    return "mumic-" + job.replace("_", "-")


def _publish_summary(summary: Mapping[str, object], uri: str | None) -> None:
    line = json.dumps(_finite(dict(summary)), default=str)
    try:
        if uri is not None:
            write_text(uri, line + "\n")
    finally:  # a summary that cannot be kept is still told
        unwritten = _write(sys.stdout, line + "\n")
        if unwritten is not None:
            log.warning("the summary cannot be told on stdout: %s", unwritten)


def _finite(value: object) -> object:
    """JSON has no NaN: null instead."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _fail(command: str, job: str, config: JobConfig, error: Exception) -> int:
    """Tell the error and say it in the summary; the exit code."""
    expected = error if isinstance(error, PipelineError) else _explain(error)
    if expected is not None:
        log.debug("the error in full", exc_info=error)
        message, code = redact(str(expected)), expected.exit_code
        text = f"{command}: error: {message}"
    else:
        message, code = redact(f"{type(error).__name__}: {error}"), EXIT_UNEXPECTED
        text = redact("".join(traceback.format_exception(error)).rstrip())
    if config.log.format == "json":
        log.error(text, extra={"exit_code": code})
    else:
        _tell(text)
    if hasattr(config, "summary"):
        # In cluster modes neither stdout nor the exit code arrives: the file must tell failures,
        # and last night's must not be taken for this one's.
        told = {"job": job, "state": "failed", **(getattr(error, "summary", None) or {})}
        told |= {"exit_code": code, "error": message}
        try:
            _publish_summary(told, config.summary)
        except PipelineError as second:
            log.warning("%s", second)
    return code


def _explain(error: Exception) -> PipelineError | None:
    if "pyspark" not in sys.modules:  # jobs without Spark do not load it to learn nothing
        return None
    from pipeline.spark import explain  # noqa: PLC0415

    return explain(error)


def _tell(line: str) -> None:
    _write(sys.stderr, line + os.linesep)


def _write(stream: TextIO | None, text: str) -> OSError | None:
    """Write to stdout or stderr at once, or say why not: words that nobody reads fail no run.

    A stream that cannot be written is left: what waits in it would fail once more when the
    interpreter ends, and change its exit code.
    """
    if stream is None:  # closed by whoever started us
        return None
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError), open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
            stream.flush()
        return error
    return None
