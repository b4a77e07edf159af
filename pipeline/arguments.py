"""Command line and YAML files to a configuration dataclass; what is wrong with them in one line.

The dataclasses of :mod:`pipeline.config` hold names, types, defaults and, in their docstrings, the
help. Later files win over earlier ones, arguments over files that stand before them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

import pipeline.config
from pipeline import __version__
from pipeline.errors import ConfigurationError

C = TypeVar("C")


def parse_config(command: str, config_class: type[C], argv: Sequence[str]) -> C:
    """The configuration from defaults, files and arguments.

    Args:
        command: Name of the command, for ``--help``.
        config_class: Frozen dataclass of its configuration.
        argv: Arguments.

    Raises:
        ConfigurationError: Unknown key, wrong type, missing value or unreadable file.
        SystemExit: After ``--help`` and ``--print_config``.
    """
    parsed = make_parser(command, config_class).parse_args(list(argv))
    config: C = _build(config_class, parsed.as_dict())
    return config


def make_parser(command: str, config_class: type[Any]) -> ArgumentParser:
    """The parser of a configuration's dataclass."""
    parser = _OneLineParser(
        prog=command,
        description=(config_class.__doc__ or "").partition("\n")[0],
        epilog=f"mumic-spark {__version__}. The later of files and arguments wins.",
        allow_abbrev=False,  # an option of the next version must not change what --dry means
    )
    parser.config_class = config_class
    parser.add_argument(
        "--config",
        action=_ConfigFile,
        help="YAML file; may be given several times, the later ones win. Sections that only "
        "other jobs have are skipped.",
    )
    parser.add_class_arguments(_spread(config_class), None, as_group=False)
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:  # a flag alone means true
            action.nargs = "?"
            action.const = True
    return parser


def setting_types(config_class: type[Any], prefix: str = "") -> dict[str, Any]:
    """Types of all settings and sections by their dotted names."""
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(config_class).items():
        types[prefix + name] = kind
        section = _section(kind)
        if section is not None:
            types |= setting_types(section, f"{prefix}{name}.")
    return types


def _section(kind: Any) -> Any:
    """The dataclass of a section, also of one that may be null; None for other settings."""
    return next((one for one in (kind, *get_args(kind)) if dataclasses.is_dataclass(one)), None)


def _is_optional(kind: Any) -> bool:
    return NoneType in get_args(kind)


def _required(config_class: type[Any]) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(config_class)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def _spread(config_class: type[Any], *, relaxed: bool = False) -> type[Any]:
    """The dataclass as the parser sees it: sections that may be null are sections like others.

    jsonargparse would hide their settings behind one option, and what is wrong in them behind one
    sentence. Their required settings become null by default; :func:`_build` puts it right.
    """
    types = get_type_hints(config_class)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(config_class):
        kind, section = types[field.name], _section(types[field.name])
        if section is not None:
            made = _spread(section, relaxed=relaxed or _is_optional(kind))
            required = _required(made)
            default = dataclasses.field() if required else dataclasses.field(default_factory=made)
            fields.append((field.name, made, default))
        elif relaxed and field.name in _required(config_class):
            fields.append((field.name, kind | None, dataclasses.field(default=None)))
        else:
            copy = dataclasses.field(default=field.default, default_factory=field.default_factory)
            fields.append((field.name, kind, copy))
    spread = dataclasses.make_dataclass(config_class.__name__, fields, frozen=True, kw_only=True)
    spread.__doc__ = config_class.__doc__
    return spread


def _build(config_class: type[Any], values: Mapping[str, Any], prefix: str = "") -> Any:
    """The dataclass from parsed values."""
    arguments = {}
    for name, kind in get_type_hints(config_class).items():
        section, value = _section(kind), values[name]
        if section is None:
            arguments[name] = tuple(value) if isinstance(value, list) else value
            continue
        missing = [f"{prefix}{name}.{one}" for one in _required(section) if value[one] is None]
        if not missing:
            arguments[name] = _build(section, value, f"{prefix}{name}.")
        elif any(_differs(section, key, given) for key, given in value.items()):
            raise ConfigurationError("a section lacks a setting", where=", ".join(missing))
        else:
            arguments[name] = None
    return config_class(**arguments)


def _differs(section: type[Any], key: str, given: Any) -> bool:
    """Whether somebody gave this setting."""
    if key in _required(section):
        return given is not None
    return bool(given != getattr(section, key, given))


def validate_keys(content: Mapping[str, Any], config_class: type[Any], prefix: str = "") -> None:
    """Refuse keys that a configuration does not have.

    Args:
        content: What a file says, or a section of it.
        config_class: The configuration's dataclass, or the section's.
        prefix: Where the section is, with a dot at the end.

    Raises:
        ConfigurationError: With the key, and what was probably meant.
    """
    types = get_type_hints(config_class)
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key not in types:
            names = [prefix + known for known in types]
            raise _unknown(name, names, todo=f"known here: {', '.join(names)}")
        section = _section(types[key])
        if section is None or (value is None and _is_optional(types[key])):
            continue
        if not isinstance(value, Mapping):
            raise ConfigurationError(
                "a section has a wrong value", where=name, expected="settings", got=repr(value)
            )
        validate_keys(value, section, f"{name}.")


class _OneLineParser(ArgumentParser):
    """Tells what is wrong in one line."""

    config_class: type[Any]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a ConfigurationError."""
        message = " ".join(message.split())
        types = setting_types(self.config_class)
        todo = f"see {self.prog} --help"
        if unknown := _UNKNOWN.search(message):
            raise _unknown(unknown["key"], list(types), todo=todo) from ex
        if (wrong := _WRONG_VALUE.search(message)) and wrong["key"] in types:
            raise ConfigurationError(
                "a setting has a wrong value",
                where=wrong["key"],
                expected=_in_words(types[wrong["key"]]),
                got=wrong["value"],
            ) from ex
        raise ConfigurationError(message, todo=todo) from ex


# What jsonargparse says, in the forms that are worth a better sentence.
_UNKNOWN = re.compile(r"unrecognized arguments: (?:--)?(?P<key>[^\s=]+)")
_WRONG_VALUE = re.compile(
    r'Parser key "(?P<key>[\w.]+)": .*(?:Got value|Given value): (?P<value>.*)'
)


def _unknown(name: str, known: Sequence[str], *, todo: str) -> ConfigurationError:
    close = difflib.get_close_matches(name, known, n=1)
    return ConfigurationError(
        "there is no such setting", where=name, todo=f"did you mean {close[0]}?" if close else todo
    )


def _in_words(kind: Any) -> str:
    """A type as people write its values."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return """a list such as '["a", "b"]'"""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(part) for part in get_args(kind))
    words = {str: "text (in YAML put a number that is a name in quotes)", NoneType: "null"}
    return words.get(kind) or str(getattr(kind, "__name__", kind))


class _ConfigFile(ActionConfigFile):
    """Reads a YAML file, less the sections that only other jobs know.

    So one base.yaml serves all jobs; a section that no job knows is an error.
    """

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        content = read_yaml(Path(values))
        types = get_type_hints(parser.config_class)
        foreign = _sections_of_all_jobs() - set(types)
        used = {key: value for key, value in content.items() if key not in foreign}
        try:
            validate_keys(used, parser.config_class)
            for key, value in used.items():
                if value is None and _section(types[key]) is not None:
                    used[key] = dict.fromkeys(_required(_section(types[key])))
            self.apply_config(parser, cfg, self.dest, json.dumps(used, default=str))
        except ConfigurationError as error:
            raise ConfigurationError(f"in {values}: {error}") from error
        except TypeError as error:
            parser.error(f"in {values}: {error}", error)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a file; none where it is empty.

    Raises:
        ConfigurationError: It cannot be read, or holds no settings.
    """
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
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            "the configuration file is no mapping",
            where=path,
            expected="sections such as tables and model",
            got=type(content).__name__,
        )
    return content


def _sections_of_all_jobs() -> set[str]:
    """Top-level keys of every job's configuration."""
    classes = [kind for kind in vars(pipeline.config).values() if dataclasses.is_dataclass(kind)]
    keys = [{field.name for field in dataclasses.fields(kind)} for kind in classes]
    return set().union(*(names for names in keys if "log" in names))
