"""The documents say what is: targets, links, commands and configuration keys exist."""

from __future__ import annotations

import configparser
import dataclasses
import re
import subprocess
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

import pipeline.config

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
