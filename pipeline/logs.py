"""Logging of a job: text for people or one JSON object a line, always on stderr."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from pipeline.config import LogConfig
from pipeline.redaction import redact

# They say at INFO what only their developers want to know: py4j every call into the JVM.
_TALKATIVE = ("py4j", "urllib3", "filelock", "fsspec", "matplotlib", "mlflow", "PIL", "open_clip")


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is at the moment of writing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


class BarStream:
    """Stderr for progress bars: what it does not take (a full disk, a closed pipe) is left out."""

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class RedactingFilter(logging.Filter):
    """Drops secrets of URIs from messages and tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's message and traceback; every record passes."""
        record.msg = redact(record.getMessage())
        record.args = None
        if record.exc_info:
            # What formatters print instead of making it from the exception.
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True


def configure_logging(config: LogConfig, *, job: str) -> None:
    """Send all logs to stderr. Calling it again replaces what the last call set.

    Args:
        config: Level and format.
        job: Name of the job, a field of every JSON line.
    """
    handler = StderrHandler()
    handler.addFilter(RedactingFilter())
    handler.setFormatter(_json_formatter(job) if config.format == "json" else _text_formatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)


def _text_formatter() -> logging.Formatter:
    formatter = logging.Formatter(
        "%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ"
    )
    formatter.converter = time.gmtime
    return formatter


def _json_formatter(job: str) -> logging.Formatter:
    formatter = JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        static_fields={"job": job},
        json_ensure_ascii=False,
    )
    formatter.converter = time.gmtime
    return formatter
