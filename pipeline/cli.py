"""What every command has in common: its command line, its logs, its summary and its exit code.

Exit codes: 0 done, 1 expected error (one line on stderr), 2 usage or configuration, 3 held by the
audit, 4 unexpected (traceback), 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Protocol, TypeVar, Union, cast, get_args, get_origin

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

import pipeline.config
from pipeline import __version__
from pipeline.config import LogConfig
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.logs import configure_logging
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
        config = parse_config(job, config_class, sys.argv[1:] if argv is None else argv)
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
    return 0


def command_name(job: str) -> str:
    """The console command of a job."""
    return "mumic-" + job.replace("_", "-")


def parse_config(job: str, config_class: type[C], argv: Sequence[str]) -> C:
    """The configuration from defaults, files and arguments, the later ones winning.

    Args:
        job: Name of the job.
        config_class: Frozen dataclass of its configuration.
        argv: Arguments.

    Raises:
        ConfigurationError: Unknown key, wrong type, missing value or unreadable file.
        SystemExit: After ``--help`` and ``--print_config``.
    """
    parser = _JobParser(job, config_class)
    parsed = parser.parse_args(list(argv))
    values = vars(parser.instantiate(parsed))
    names = {field.name for field in dataclasses.fields(cast("Any", config_class))}
    return config_class(**{name: value for name, value in values.items() if name in names})


class _JobParser(ArgumentParser):
    """Parser of one job, made from its configuration's dataclass."""

    def __init__(self, job: str, config_class: type[Any]) -> None:
        super().__init__(
            prog=command_name(job),
            allow_abbrev=False,  # an option of the next version must not change what --dry means
            description=(config_class.__doc__ or "").partition("\n")[0],
            epilog=f"mumic-spark {__version__}. The later of files and arguments wins.",
        )
        self.config_class = config_class
        self.add_argument(
            "--config",
            action=_ConfigFile,
            help="YAML file; may be given several times, the later ones win. Sections that only "
            "other jobs have are skipped.",
        )
        self.add_class_arguments(config_class, None, as_group=False)
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool:  # a flag alone means true
                action.nargs = "?"
                action.const = True

    def validate_keys(self, content: Mapping[str, Any], prefix: str = "") -> None:
        """Refuse keys the job does not have.

        Args:
            content: A configuration file's content.
            prefix: Where in the configuration it stands, with a dot at the end.
        """
        known = {action.dest for action in self._actions}
        for key, value in content.items():
            name = f"{prefix}{key}"
            below = f"{name}."
            if any(other.startswith(below) for other in known):
                if not isinstance(value, Mapping):
                    raise ConfigurationError(
                        "a section has a wrong value", where=name, expected="settings", got=value
                    )
                self.validate_keys(value, below)
            elif name not in known:
                self.error(f"unrecognized arguments: {name}")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Tell a wrong command line or file in one line."""
        message = " ".join(message.split())
        known = {action.dest: action for action in self._actions}
        if unknown := _UNKNOWN.search(message):
            name = ".".join(part for part in (unknown["group"], unknown["key"]) if part)
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigurationError(
                "there is no such setting",
                where=name,
                todo=f"did you mean {close[0]}?" if close else f"see {self.prog} --help",
            ) from ex
        if (wrong := _WRONG_VALUE.search(message)) and wrong["key"] in known:
            kind = getattr(known[wrong["key"]], "_typehint", None)
            raise ConfigurationError(
                "a setting has a wrong value",
                where=wrong["key"],
                expected=_in_words(kind),
                got=wrong["value"],
            ) from ex
        raise ConfigurationError(message, todo=f"see {self.prog} --help") from ex


def _in_words(kind: Any) -> str:
    """A type as people write its values."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return """a list such as '["a", "b"]'"""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(part) for part in get_args(kind))
    words = {str: "text (in YAML put a number that is a name in quotes)", type(None): "null"}
    return words.get(kind) or str(getattr(kind, "__name__", kind))


# What jsonargparse says, in the few forms that are worth a better sentence.
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[^']*)' does not accept option|unrecognized arguments:|^Option)"
    r" '?(?:--)?(?P<key>\S+?)'?(?: |$)"
)
_WRONG_VALUE = re.compile(
    r'Parser key "(?P<key>[\w.]+)": .*(?:Got value|Given value): (?P<value>.*)'
)


class _ConfigFile(ActionConfigFile):
    """Reads a YAML file, less the sections that only other jobs know.

    So one base.yaml serves all jobs; a section that no job knows is an error.
    """

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        path = Path(values)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(
                "the configuration file cannot be read", where=path, got=error.strerror
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                "the configuration file is not YAML", where=path, got=error
            ) from error
        if content is None:
            return
        if not isinstance(content, dict):
            raise ConfigurationError(
                "the configuration file is no mapping",
                where=path,
                expected="sections such as tables and model",
                got=type(content).__name__,
            )
        own = {field.name for field in dataclasses.fields(parser.config_class)}
        foreign = _sections_of_all_jobs() - own
        used = {key: value for key, value in content.items() if key not in foreign}
        try:
            parser.validate_keys(used)
            self.apply_config(parser, cfg, self.dest, json.dumps(used, default=str))
        except ConfigurationError as error:
            raise ConfigurationError(f"in {path}: {error}") from error
        except TypeError as error:
            parser.error(f"in {path}: {error}", error)


def _sections_of_all_jobs() -> set[str]:
    """Top-level keys of every job's configuration."""
    classes = [kind for kind in vars(pipeline.config).values() if dataclasses.is_dataclass(kind)]
    keys = [{field.name for field in dataclasses.fields(kind)} for kind in classes]
    return set().union(*(names for names in keys if "log" in names))


def _publish_summary(summary: Mapping[str, object], uri: str | None) -> None:
    line = json.dumps(_finite(dict(summary)), default=str)
    try:
        if uri is not None:
            write_text(uri, line + "\n")
    finally:  # a summary that cannot be kept is still told
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


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
        told = {"job": job, "state": "failed", "exit_code": code, "error": message}
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
    sys.stderr.write(line + os.linesep)
    sys.stderr.flush()
