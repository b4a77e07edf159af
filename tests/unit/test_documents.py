"""The documents say what is: targets, links, commands and configuration keys exist."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import importlib
import re
import subprocess
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pyspark
import pytest
import yaml

import pipeline.cli
import pipeline.config
import pipeline.errors
from pipeline.arguments import setting_types
from pipeline.errors import PipelineError
from pipeline.images.reasons import Reason
from pipeline.tables.schemas import TABLES
from pipeline.tables.views import VIEWS
from pipeline.taxonomy import parse_taxonomy
from udfs.functions import MODEL_FUNCTIONS

ROOT = Path(__file__).parents[2]
GENERATED = {"build", "demo-output", "dist"}
# Not ROOT.rglob: .venv alone holds tens of thousands of files.
DOCUMENTS = sorted(
    document
    for place in ROOT.iterdir()
    if place.name not in GENERATED and not place.name.startswith(".")
    for document in (place.rglob("*.md") if place.is_dir() else [place])
    if document.suffix == ".md"
)
CONFIGURATIONS = sorted((ROOT / "conf").glob("*.yaml"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- make


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile(), flags=re.MULTILINE))


def code_of(document: Path) -> str:
    """Fenced and indented blocks and inline code of a Markdown file, one after the other."""
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^(?: {4}|\t).*$", text, flags=re.MULTILINE)
    inline = re.findall(r"`([^`]+)`", text)
    return "\n".join([*fenced, *indented, *inline])


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_make_targets_that_a_document_names_exist(document: Path) -> None:
    mentioned = re.findall(r"(?:^|[\s;&(])make ([a-z][a-z-]*)", code_of(document))

    assert set(mentioned) - make_targets() == set()


def test_the_readme_names_its_two_commands() -> None:
    assert {"make demo", "make test"} <= set(
        re.findall(r"make [a-z-]+", code_of(ROOT / "README.md"))
    )


def test_make_help_explains_every_target() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert set(re.findall(r"^  ([a-z-]+) +\S", listed.stdout, flags=re.MULTILINE)) == make_targets()
    assert {"setup", "demo", "test", "test-unit", "lint", "build", "clean"} <= make_targets()


def test_no_target_is_mistaken_for_a_file() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", makefile(), flags=re.MULTILINE)

    assert phony is not None
    assert set(phony[1].split()) == make_targets()


# --- links


def links(document: Path) -> Iterator[str]:
    """Targets of Markdown links, inline and by reference, outside of code."""
    text = document.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]+`", "code", text)
    yield from re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", text)
    yield from re.findall(r"^\[[^\]]+\]: <?([^\s>]+)", text, flags=re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(
        r"^```.*?^```",
        "",
        document.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    made: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        made[anchor] = made.get(anchor, -1) + 1
        if made[anchor]:
            made[f"{anchor}-{made[anchor]}"] = 0
    return set(made)


def broken_links(document: Path) -> list[str]:
    broken = []
    for link in links(document):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue  # no test needs the network
        place, _, anchor = link.partition("#")
        target = document.parent / unquote(place) if place else document
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# What it's for\n", encoding="utf-8")
    document = tmp_path / "here.md"
    document.write_text(
        "[a](there.md) [b](there.md#what-its-for) [c](gone.md) [d](there.md#nowhere) [e](#not)\n"
        "`[f](code)` [g](https://example.com/x)\n[h]: also-gone.md\n",
        encoding="utf-8",
    )

    assert broken_links(document) == ["gone.md", "there.md#nowhere", "#not", "also-gone.md"]


# --- commands and files


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_commands_and_files_that_a_document_names_exist(document: Path) -> None:
    setup_cfg = configparser.ConfigParser()
    setup_cfg.read(ROOT / "setup.cfg", encoding="utf-8")
    installed = setup_cfg["options.entry_points"]["console_scripts"]
    code = code_of(document)

    commands = set(re.findall(r"(?<![\w/.-])(mumic-[a-z]+(?:-[a-z]+)*)(?= )", code))
    commands.discard("mumic-spark")
    files = re.findall(r"(?<![\w/.])((?:conf|jobs|scripts|tests|pipeline)/[\w./-]+\.\w+)", code)

    assert {command for command in commands if f"{command} =" not in installed} == set()
    # NAME and VERSION are for the reader to fill in.
    literal = {name for name in files if not re.search(r"[A-Z]{4}", name)}
    assert {name for name in literal if not (ROOT / name).exists()} == set()


# --- configuration


def config_class(job: str) -> type:
    return typing.cast(
        "type",
        getattr(pipeline.config, "".join(word.title() for word in job.split("_")) + "Config"),
    )


def config_classes() -> list[type]:
    return [config_class(path.stem) for path in sorted((ROOT / "jobs").glob("[!_]*.py"))]


def nested_class(annotation: object) -> type | None:
    """The dataclass in an annotation, also where it may be None."""
    options = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (types.UnionType, typing.Union)
        else (annotation,)
    )
    for option in options:
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def key_paths(values: object, above: str = "") -> Iterator[str]:
    """Dotted paths of all leaves of a YAML document."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from key_paths(value, f"{above}.{key}" if above else str(key))
    elif above:
        yield above


def is_known(path: str, config: type) -> bool:
    hints = typing.get_type_hints(config)
    key, _, rest = path.partition(".")
    if key not in {field.name for field in dataclasses.fields(config)}:
        return False
    if not rest:
        return True
    nested = nested_class(hints[key])
    return nested is not None and is_known(rest, nested)


def test_there_is_a_base_configuration() -> None:
    assert "base" in {path.stem for path in CONFIGURATIONS}


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=named)
def test_configuration_keys_are_known(path: Path) -> None:
    """``base.yaml`` holds keys of any job; a job's file only its own."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    allowed = config_classes() if path.stem == "base" else [config_class(path.stem)]

    assert [
        key for key in key_paths(values) if not any(is_known(key, config) for config in allowed)
    ] == []


def test_unknown_configuration_keys_are_found() -> None:
    config = pipeline.config.TagNightlyConfig

    assert is_known("manifest.columns.image_id", config)
    assert not is_known("manifest.colums.image_id", config)
    assert not is_known("manifest.path.image_id", config)
    assert not is_known("sql", config)


# --- what readers copy


README = ROOT / "README.md"
# Options of the programs that stand in front of ours; the rest of theirs have a hyphen.
FOREIGN_OPTIONS = {"conf", "files", "master", "packages", "upgrade", "version"}
OWN_OPTIONS = {"config", "help", "print_config"}


def blocks(document: Path, language: str) -> list[str]:
    """Fenced blocks of one language."""
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def settings(classes: Iterable[type]) -> set[str]:
    """Dotted names of all settings and sections."""
    return {name for kind in classes for name in setting_types(kind)}


def unknown_options(code: str, known: set[str]) -> list[str]:
    """Options that nobody has. Ours hold no hyphens."""
    named = re.findall(r"(?<![\w-])--([a-z][\w.]*)(?![\w-])", code)
    return [option for option in named if option.rstrip(".") not in known]


def benchmark_options() -> set[str]:
    """Options of the commands that measure."""
    commands = (ROOT / "benchmarks").glob("*.py")
    sources = "\n".join(path.read_text(encoding="utf-8") for path in commands)
    return set(re.findall(r'\badd(?:_argument)?\(\s*"--(\w+)"', sources))


def unknown_keys(code: str, known: set[str]) -> list[str]:
    """Inline ``section.key`` whose section exists, but not the key."""
    sections = {name.split(".")[0] for name in known if "." in name}
    named = re.findall(r"(?<![\w./-])([a-z_]+(?:\.[a-z_]+)+)(?![\w/(])", code)
    files = (".py", ".yaml", ".json", ".md", ".html", ".parquet")
    return [
        key
        for key in named
        if key.split(".")[0] in sections and key not in known and not key.endswith(files)
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_options_and_settings_that_a_document_names_exist(document: Path) -> None:
    known = settings(config_classes())
    code = code_of(document)
    text = document.read_text(encoding="utf-8")
    inline = "\n".join(re.findall(r"`([^`\n]+)`", text))
    # In the picture of what is not built yet, settings have their place already.
    inline = inline.replace("manifest.complete", "").replace("manifest.retire_missing", "")

    ours = known | OWN_OPTIONS | benchmark_options()
    assert unknown_options(code, ours | FOREIGN_OPTIONS) == []
    assert unknown_keys(inline, known) == []


def commands(document: Path) -> Iterator[tuple[str, str]]:
    """Job and arguments of each command line that starts one of ours."""
    for block in [*blocks(document, "bash"), *blocks(document, "")]:
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:jobs/(\w+)\.py|\bmumic-([a-z-]+[a-z]))\s(.*)", line)
            if found and (found[1] or found[2] != "spark"):
                yield found[1] or found[2].replace("-", "_"), found[3]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_each_command_has_only_options_of_its_own_job(document: Path) -> None:
    wrong = {
        job: unknown
        for job, arguments in commands(document)
        if (unknown := unknown_options(arguments, settings([config_class(job)]) | OWN_OPTIONS))
    }

    assert wrong == {}


def test_the_readme_shows_how_each_job_is_started() -> None:
    jobs = {path.stem for path in (ROOT / "jobs").glob("[!_]*.py")}

    assert {job for job, _ in commands(README)} == jobs


def test_unknown_options_are_found() -> None:
    known = settings([pipeline.config.TagNightlyConfig])

    code = "spark-submit --py-files x --dry_run --stage.chunk_row 5 --as_off 1\n--fetch.attempts"
    assert unknown_options(code, known) == ["stage.chunk_row", "as_off"]
    assert unknown_keys("`fetch.hosts` `fetch.attempts` `a.b` `model.py`", known) == ["fetch.hosts"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_yaml_of_a_document_is_a_taxonomy_or_settings(document: Path) -> None:
    for block in blocks(document, "yaml"):
        values = yaml.safe_load(block)
        if "tasks" in values:
            parse_taxonomy(values)
        else:
            assert set(key_paths(values)) <= settings(config_classes())


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_python_of_a_document_imports_what_exists(document: Path) -> None:
    for block in blocks(document, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                module = importlib.import_module(node.module)
                assert {a.name for a in node.names if not hasattr(module, a.name)} == set()


# --- what readers look up


def table_after(document: Path, heading: str) -> list[list[str]]:
    """Cells of the first table whose header row starts with ``heading``, less the backticks."""
    lines = document.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return rows


def test_the_readme_names_every_reason_and_whether_another_night_helps() -> None:
    told = {reason: again.startswith("yes") for reason, _, again in table_after(README, "reason")}

    assert told == {reason.value: reason.retriable for reason in Reason}


def test_the_readme_names_every_exit_code() -> None:
    told = {int(code) for code, _ in table_after(README, "exit code")}
    errors = [kind for kind in vars(pipeline.errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in errors if issubclass(kind, PipelineError)}
    interrupted = {pipeline.cli.EXIT_UNEXPECTED, pipeline.cli.EXIT_INTERRUPTED}
    by_sigterm = {128 + 15}

    assert told == {0} | codes | interrupted | by_sigterm


def test_the_readme_names_every_table_view_and_function() -> None:
    tables = [name for name, _ in table_after(README, "table")]
    functions = [name.partition("(")[0] for name, _ in table_after(README, "function")]

    assert tables == [*(table.name for table in TABLES), *VIEWS]
    assert functions == [*MODEL_FUNCTIONS, "cosine_similarity"]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_tables_document_lists_each_column_with_type_and_comment(table: typing.Any) -> None:
    text = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    section = text.partition(f"### {table.name}\n")[2].partition("\n#")[0]
    listed = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", section, flags=re.MULTILINE)

    assert listed == [
        (column.name, column.dataType.simpleString(), column.metadata["comment"])
        for column in table.columns
    ]
    assert all(f"`{key}`" in section.partition("|")[0] for key in table.key)
    assert ("change data feed" in section.partition("|")[0]) == table.change_data_feed


def test_the_s3_client_is_of_sparks_hadoop() -> None:
    jars = Path(pyspark.__file__).parent / "jars"
    (hadoop,) = jars.glob("hadoop-client-api-*.jar")
    version = hadoop.stem.removeprefix("hadoop-client-api-")
    places = [README, *(ROOT / "conf" / "spark").glob("*.conf")]
    named_versions = [
        found
        for place in places
        for found in re.findall(r"hadoop-aws:([\d.]+\d)", place.read_text(encoding="utf-8"))
    ]

    assert named_versions
    assert set(named_versions) == {version}


def test_every_decision_is_in_the_list_of_decisions() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = {page.name for page in folder.glob("*.md")} - {"README.md"}

    assert {link for link in links(folder / "README.md") if link.endswith(".md")} == pages
