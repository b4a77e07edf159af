"""Tasks and labels: what a model is asked about an image, and from which score on it says yes.

Read from YAML::

    tasks:
      - id: scene
        kind: multi_label            # or single_label
        threshold: 0.5               # of labels that give none; default 0.5
        templates: ["a photo of a {}."]   # of labels without texts; {} is the label's name
        labels:
          - id: pool
            name: swimming pool      # default: the id with spaces for underscores
            texts: ["a hotel {}", "blue water to swim in"]
            threshold: 0.4

Knows neither models nor tables.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.errors import TaxonomyError

TaskKind = Literal["multi_label", "single_label"]

DEFAULT_TEMPLATES = ("a photo of a {}.",)
DEFAULT_THRESHOLD = 0.5
VERSION_HEX_DIGITS = 12

_KINDS = ("multi_label", "single_label")
_TASK_KEYS = frozenset({"id", "kind", "threshold", "templates", "labels"})
_LABEL_KEYS = frozenset({"id", "name", "texts", "threshold"})
_MAX_ID_CHARS = 200
# Values that only look like dates or numbers make PyYAML raise more than its own errors, and
# brackets in brackets without end exhaust it.
_UNREADABLE = (
    *(yaml.YAMLError, ArithmeticError, AttributeError, LookupError),
    *(RecursionError, TypeError, ValueError),
)
_REPR = reprlib.Repr()
_REPR.maxlevel = 2


@dataclass(frozen=True)
class Label:
    """One label of a task.

    Attributes:
        id: Stable key; what the tables hold.
        name: For people, and what stands for ``{}`` in texts.
        texts: What the text tower reads, placeholders already filled. At least one.
        threshold: Score from which on the label is a tag, 0 to 1.
    """

    id: str
    name: str
    texts: tuple[str, ...]
    threshold: float


@dataclass(frozen=True)
class Task:
    """Labels that belong together.

    Attributes:
        id: Stable key; what the tables hold.
        kind: ``multi_label``: each label is its own question. ``single_label``: at most one holds.
        labels: In file order, ids unique.
    """

    id: str
    kind: TaskKind
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Taxonomy:
    """All tasks of a model. Equal content means an equal version.

    Attributes:
        tasks: In file order, ids unique.
    """

    tasks: tuple[Task, ...]

    @property
    def labels(self) -> tuple[tuple[Task, Label], ...]:
        """All labels with their tasks, flat, in file order: the order of score columns [L]."""
        return tuple((task, label) for task in self.tasks for label in task.labels)

    @property
    def columns(self) -> tuple[tuple[Task, slice], ...]:
        """Each task with the columns of its labels among those of :attr:`labels`."""
        found, start = [], 0
        for task in self.tasks:
            end = start + len(task.labels)
            found.append((task, slice(start, end)))
            start = end
        return tuple(found)

    @property
    def version(self) -> str:
        """Digest of tasks, ids, names, texts and thresholds in file order, 12 hex digits."""
        canonical = json.dumps(
            self.to_dict(), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode()).hexdigest()[:VERSION_HEX_DIGITS]

    def to_dict(self) -> dict[str, Any]:
        """The taxonomy as plain data, every text and threshold spelled out."""
        return {
            "tasks": [
                {
                    "id": task.id,
                    "kind": task.kind,
                    "labels": [
                        {
                            "id": label.id,
                            "name": label.name,
                            "texts": list(label.texts),
                            "threshold": label.threshold,
                        }
                        for label in task.labels
                    ],
                }
                for task in self.tasks
            ]
        }

    def with_thresholds(self, thresholds: Mapping[tuple[str, str], float]) -> Taxonomy:
        """The same taxonomy with other thresholds.

        Args:
            thresholds: New threshold, 0 to 1, of each (task id, label id); others keep theirs.

        Raises:
            TaxonomyError: If a key names no label or a value is not within 0 to 1.
        """
        unknown = set(thresholds) - {(task.id, label.id) for task, label in self.labels}
        if unknown:
            raise TaxonomyError(
                "thresholds name labels the taxonomy does not have", got=sorted(unknown)[:5]
            )

        def moved(task: Task, label: Label) -> Label:
            key = (task.id, label.id)
            if key not in thresholds:
                return label
            where = f"task {task.id}, label {label.id}"
            return replace(label, threshold=_threshold(thresholds[key], where))

        return Taxonomy(
            tuple(
                replace(task, labels=tuple(moved(task, label) for label in task.labels))
                for task in self.tasks
            )
        )


def read_taxonomy(path: str | Path) -> Taxonomy:
    """Read and validate a taxonomy file.

    Args:
        path: A local YAML file.

    Raises:
        TaxonomyError: If it cannot be read or breaks the contract; names the place.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaxonomyError("the taxonomy file cannot be read", where=path, got=error) from error
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506  a SafeLoader
    except _UNREADABLE as error:
        raise TaxonomyError("the taxonomy file is not valid YAML", where=path, got=error) from error
    return parse_taxonomy(data, where=str(path))


def write_taxonomy(taxonomy: Taxonomy, path: str | Path) -> None:
    """Write a taxonomy so that reading it gives an equal one."""
    text = yaml.safe_dump(taxonomy.to_dict(), sort_keys=False, allow_unicode=True, width=100)
    Path(path).write_text(text, encoding="utf-8")


def parse_taxonomy(data: object, *, where: str = "taxonomy") -> Taxonomy:
    """Make a taxonomy from plain data as YAML gives it.

    Args:
        data: ``{"tasks": [...]}``, see the module's docstring.
        where: Named in errors, with the place inside.

    Raises:
        TaxonomyError: If anything is missing, unknown, mistyped, repeated or out of range.
    """
    root = _mapping(data, frozenset({"tasks"}), where)
    entries = _items(root, "tasks", where)
    tasks = [_task(entry, f"{where}, task {i + 1}") for i, entry in enumerate(entries)]
    _refuse_repeats([task.id for task in tasks], "task", where)
    return Taxonomy(tuple(tasks))


def _task(data: object, where: str) -> Task:
    fields = _mapping(data, _TASK_KEYS, where)
    task_id = _id(fields, where)
    where = f"{where} ({task_id})"
    kind = fields.get("kind")
    if kind not in _KINDS:
        raise TaxonomyError("unknown task kind", where=where, expected=_KINDS, got=_shown(kind))
    threshold = _threshold(fields.get("threshold", DEFAULT_THRESHOLD), where)
    templates = _texts(fields["templates"], where) if "templates" in fields else DEFAULT_TEMPLATES
    labels = [
        _label(entry, templates, threshold, f"{where}, label {i + 1}")
        for i, entry in enumerate(_items(fields, "labels", where))
    ]
    _refuse_repeats([label.id for label in labels], "label", where)
    return Task(id=task_id, kind=kind, labels=tuple(labels))


def _label(data: object, templates: tuple[str, ...], threshold: float, where: str) -> Label:
    fields = _mapping(data, _LABEL_KEYS, where)
    label_id = _id(fields, where)
    where = f"{where} ({label_id})"
    name = _text(fields.get("name", label_id.replace("_", " ")), f"{where}, name")
    texts = _texts(fields["texts"], where) if "texts" in fields else templates
    return Label(
        id=label_id,
        name=name,
        texts=tuple(text.replace("{}", name) for text in texts),
        threshold=_threshold(fields.get("threshold", threshold), where),
    )


def _mapping(data: object, keys: frozenset[str], where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise TaxonomyError(
            "not a mapping", where=where, expected=f"keys {sorted(keys)}", got=type(data).__name__
        )
    unknown = [key for key in data if key not in keys]
    if unknown:
        raise TaxonomyError("unknown key", where=where, expected=sorted(keys), got=_shown(unknown))
    return data


def _items(fields: dict[str, Any], key: str, where: str) -> list[object]:
    items = fields.get(key)
    if not isinstance(items, list) or not items:
        raise TaxonomyError(
            f"{key} must be a list with at least one entry", where=where, got=_shown(items)
        )
    return items


def _id(fields: dict[str, Any], where: str) -> str:
    value = _text(fields.get("id"), f"{where}, id")
    if len(value) > _MAX_ID_CHARS or not value.isprintable():
        raise TaxonomyError(
            "an id is printable and short",
            where=where,
            expected=f"at most {_MAX_ID_CHARS} characters",
            got=repr(value[:_MAX_ID_CHARS]),
        )
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TaxonomyError(
            "not a text",
            where=where,
            expected="a text that is not blank; quote yes, no and numbers in YAML",
            got=_shown(value),
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise TaxonomyError(
            "a text holds what is no character", where=where, got=ascii(value[:_MAX_ID_CHARS])
        ) from error
    return value.strip()


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise TaxonomyError(
            "texts and templates are lists with at least one text", where=where, got=_shown(value)
        )
    return tuple(_text(text, f"{where}, text {i + 1}") for i, text in enumerate(value))


def _threshold(value: object, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:  # type: ignore[operator]
        raise TaxonomyError(
            "threshold out of range", where=where, expected="0 to 1", got=_shown(value)
        )
    return float(value)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    """A value in an error, cut short: aliases make values of a small file that fill a memory."""
    try:
        return _REPR.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"{type(value).__name__}, too long to show"


def _refuse_repeats(ids: list[str], what: str, where: str) -> None:
    repeated = sorted({one for one in ids if ids.count(one) > 1})
    if repeated:
        raise TaxonomyError(f"{what} ids must be unique", where=where, got=repeated)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice instead of dropping the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "a key is given twice in one mapping", node.start_mark
            )
        return mapping
