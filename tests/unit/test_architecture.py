"""The arrows between the rooms of the house, read from the source: who may import whom.

Imports inside functions count, and so do imports of imports: a Spark room that reaches torch
through three of our own modules still needs torch on the driver. Imports under ``TYPE_CHECKING``
never run; they count only for the arrows between packages.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "udfs", "jobs")

TORCH = frozenset({"torch", "torchvision", "open_clip", "timm", "transformers"})
SPARK = frozenset({"pyspark", "delta", "py4j"})

# Room (a module or a package with all in it), what it never reaches, why.
ROOMS = {
    "pipeline.images": (TORCH | SPARK, "runs in decoders and wherever images are looked at"),
    "pipeline.models": (SPARK, "the engine runs on machines without Spark and Java"),
    "pipeline.training": (SPARK, "a GPU machine that trains has no Java"),
    "pipeline.evaluation": (SPARK, "a GPU machine that trains has no Java"),
    "pipeline.registry": (TORCH | SPARK, "the driver finds the champion; it loads no model"),
    "pipeline.tables": (TORCH, "the driver plans; it loads no model"),
    "pipeline.tagging": (TORCH, "the driver plans; it takes the UDF as an argument"),
    "pipeline.spark": (TORCH, "the driver plans; it loads no model"),
    "pipeline.errors": (TORCH | SPARK, "everything may import it"),
    "pipeline.config": (TORCH | SPARK, "everything may import it"),
    "pipeline.taxonomy": (TORCH | SPARK, "everything may import it"),
    "pipeline.images.reasons": (TORCH | SPARK, "everything may import it"),
    "pipeline.cli": (TORCH, "jobs that load no model start without it"),
}

MAX_LINES = 400
MAX_JOB_LINES = 80
NAMES_THAT_SAY_NOTHING = {"common", "helper", "helpers", "misc", "util", "utils"}


@dataclass(frozen=True)
class Source:
    """One module: its text, what it imports at run time, and what only a type checker imports."""

    name: str
    path: Path
    tree: ast.Module
    runtime: frozenset[str]
    typing: frozenset[str]


def read_sources(root: Path) -> dict[str, Source]:
    """Every module of the product under a root, by its dotted name."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    trees = {
        module_name(path.relative_to(root)): (path, ast.parse(path.read_text(encoding="utf-8")))
        for path in paths
    }
    sources = {}
    for name, (path, tree) in trees.items():
        found: dict[bool, set[str]] = {False: set(), True: set()}
        for statement, only_types in import_statements(tree):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            for target in targets(statement, package=package):
                # "from a import b": b may be a module of a, or a name in it.
                found[only_types].add(target if target in trees else known_part(target, trees))
        sources[name] = Source(name, path, tree, frozenset(found[False]), frozenset(found[True]))
    return sources


def module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_statements(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import, at any depth, and whether it stands under ``if TYPE_CHECKING``."""
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, only_types = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, only_types
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend((child, True) for child in node.body)
            pending.extend((child, only_types) for child in node.orelse)
        else:
            pending.extend((child, only_types) for child in ast.iter_child_nodes(node))


def targets(statement: ast.Import | ast.ImportFrom, *, package: str) -> Iterator[str]:
    """The absolute dotted names a statement may import."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    base = statement.module or ""
    if statement.level:
        parents = package.split(".")[: len(package.split(".")) - statement.level + 1]
        base = ".".join([*parents, base] if base else parents)
    yield from (f"{base}.{alias.name}" for alias in statement.names)


def known_part(name: str, modules: dict[str, tuple[Path, ast.Module]]) -> str:
    """The longest beginning that is a module of ours, else the library's top-level name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in modules:
            return ".".join(parts[:length])
    return parts[0]


def reached(sources: dict[str, Source], start: str) -> dict[str, list[str]]:
    """Everything that importing and using a module may import, each with the way there."""
    ways = {start: [start]}
    pending = [start]
    while pending:
        name = pending.pop(0)
        if name not in sources:
            continue
        parents = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
        for target in sorted(sources[name].runtime | parents):
            if target not in ways:
                ways[target] = [*ways[name], target]
                pending.append(target)
    return ways


def broken_arrows(sources: dict[str, Source], room: str, forbidden: frozenset[str]) -> list[str]:
    """Ways from a module of the room to a library that it must not reach."""
    inside = [name for name in sources if name == room or name.startswith(f"{room}.")]
    return [
        " -> ".join(way)
        for name in inside
        for target, way in reached(sources, name).items()
        if target in forbidden
    ]


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    return read_sources(ROOT)


def test_every_package_is_read(sources: dict[str, Source]) -> None:
    assert {name.split(".")[0] for name in sources} == set(PACKAGES)
    assert set(ROOMS) <= set(sources)


@pytest.mark.parametrize(
    ("package", "above"), [("pipeline", ("udfs", "jobs")), ("udfs", ("jobs",))]
)
def test_packages_import_downwards_only(
    sources: dict[str, Source], package: str, above: tuple[str, ...]
) -> None:
    upwards = [
        f"{source.name} imports {target}"
        for source in sources.values()
        if source.name.split(".")[0] == package
        for target in sorted(source.runtime | source.typing)
        if target.split(".")[0] in above
    ]

    assert upwards == []


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_reach_only_what_they_may(sources: dict[str, Source], room: str) -> None:
    forbidden, why = ROOMS[room]

    assert broken_arrows(sources, room, forbidden) == [], why


def test_an_arrow_broken_three_imports_away_in_a_function_is_found(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "pipeline/__init__.py": "",
            "pipeline/tables/__init__.py": "",
            "pipeline/tables/store.py": "from pipeline.cli import run",
            "pipeline/cli.py": "def run():\n    from .models.bundle import read\n",
            "pipeline/models/__init__.py": "",
            "pipeline/models/bundle.py": "import numpy\nimport torch.nn\n",
        },
    )

    assert broken_arrows(read_sources(tmp_path), "pipeline.tables", TORCH) == [
        "pipeline.tables.store -> pipeline.cli -> pipeline.models.bundle -> torch"
    ]


def test_an_import_for_the_type_checker_is_no_arrow_at_run_time(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "pipeline/__init__.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    import torch\nelse:\n    import numpy\n"
        },
    )

    source = read_sources(tmp_path)["pipeline"]

    assert (source.runtime, source.typing) == ({"numpy", "typing"}, {"torch"})


def test_the_command_line_answers_without_loading_spark_or_torch() -> None:
    """``--help`` and a typing error must not wait for either; nor must the driver for torch."""
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, pipeline.cli, pipeline.models.bundle_info; print(*sys.modules)",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert set(loaded.stdout.split()) & (TORCH | SPARK) == set()


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def test_modules_are_short(sources: dict[str, Source]) -> None:
    lengths = {
        source.name: len(source.path.read_text(encoding="utf-8").splitlines())
        for source in sources.values()
    }
    limits = {name: MAX_JOB_LINES if name.startswith("jobs.") else MAX_LINES for name in lengths}

    assert {name: n for name, n in lengths.items() if n > limits[name]} == {}


def test_module_names_say_what_is_inside(sources: dict[str, Source]) -> None:
    assert [name for name in sources if set(name.split(".")) & NAMES_THAT_SAY_NOTHING] == []


def test_the_library_leaves_the_command_line_to_the_jobs(sources: dict[str, Source]) -> None:
    """No argparse and no way out of the process: a library raises and returns."""
    found = [
        f"{source.path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for source in sources.values()
        if source.name.split(".")[0] in ("pipeline", "udfs")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call | ast.Raise)
        and ast.unparse(node).startswith(
            ("sys.exit(", "exit(", "quit(", "os._exit(", "raise SystemExit", "print(")
        )
    ]

    assert found == []
    assert [source.name for source in sources.values() if "argparse" in source.runtime] == []


def test_spark_is_used_through_its_dataframe_api(sources: dict[str, Source]) -> None:
    """No RDDs and no reaching into the JVM: both end with Spark Connect."""
    found = [
        f"{source.path.relative_to(ROOT)}:{node.lineno}: .{node.attr}"
        for source in sources.values()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and node.attr in {"rdd", "_jvm", "_jsc", "_jdf"}
    ]

    assert found == []
