"""What setup.cfg, the lock, the scripts and the Spark properties promise each other."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import pipeline

ROOT = Path(__file__).parents[2]
SPARK_CONFS = sorted((ROOT / "conf" / "spark").glob("*.conf"))


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg", encoding="utf-8")
    return parsed


@pytest.fixture(scope="module")
def locked() -> dict[str, Version]:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return {
        canonicalize_name(name): Version(version)
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, flags=re.MULTILINE)
    }


def lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip()]


# --- version and commands


def test_the_installed_version_is_that_of_the_source() -> None:
    assert importlib.metadata.version("mumic-spark") == pipeline.__version__


def test_the_change_log_has_a_place_for_this_version() -> None:
    headings = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )

    assert headings[0] in ("Unreleased", pipeline.__version__)
    assert "Unreleased" in headings or pipeline.__version__ in headings


def test_every_console_command_has_its_job(setup_cfg: configparser.ConfigParser) -> None:
    for line in lines(setup_cfg["options.entry_points"]["console_scripts"]):
        command, _, place = (part.strip() for part in line.partition("="))
        module, _, function = place.partition(":")
        path = ROOT / f"{module.replace('.', '/')}.py"

        assert command == f"mumic-{path.stem.replace('_', '-')}"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        mains = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        assert len(mains) == 1, f"{path} has no {function}()"
        (main,) = mains
        assert len(main.args.defaults) == len(main.args.args), f"{command} calls it bare"
        assert main.returns is not None
        assert ast.unparse(main.returns) == "int", f"{command} exits with what it returns"


def test_every_job_has_a_console_command_and_runs_under_spark_submit(
    setup_cfg: configparser.ConfigParser,
) -> None:
    commands = setup_cfg["options.entry_points"]["console_scripts"]

    for path in sorted((ROOT / "jobs").glob("[!_]*.py")):
        assert f"= jobs.{path.stem}:main" in commands
        assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), path.name


# --- versions


def test_the_lock_satisfies_every_range(
    setup_cfg: configparser.ConfigParser, locked: dict[str, Version]
) -> None:
    ranges = [
        Requirement(line)
        for line in lines(setup_cfg["options"]["install_requires"])
        + lines(setup_cfg["options.extras_require"]["dev"])
    ]

    assert len(ranges) > 20
    for requirement in ranges:
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("name", ["requirements.lock", "scripts/uv.lock"])
def test_locks_have_hashes_and_name_no_index(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^\s*#.*\n?", "", text).strip())

    assert all("--hash=sha256:" in entry for entry in entries)
    code = "\n".join(entries)
    assert not re.search(r"://|--(extra-)?index|--find-links|\s@\s", code)


@pytest.mark.parametrize("path", SPARK_CONFS, ids=lambda path: path.name)
def test_the_delta_jar_is_of_the_locked_versions(path: Path, locked: dict[str, Version]) -> None:
    """The jar's name holds Spark's version, its version is delta-spark's."""
    spark = locked["pyspark"]
    expected = f"delta-spark_{spark.major}.{spark.minor}_2.13:{locked['delta-spark']}"

    packages = spark_settings(path).get("spark.jars.packages")

    if path.name == "kubernetes.conf":
        assert packages is None, "the image holds the jar"
    else:
        assert packages == f"io.delta:{expected}"


# --- Spark properties


def spark_settings(path: Path) -> dict[str, str]:
    settings = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, value = line.split(maxsplit=1)
            assert name not in settings, f"{name} twice in {path.name}"
            settings[name] = value
    return settings


@pytest.mark.parametrize("path", SPARK_CONFS, ids=lambda path: path.name)
def test_every_spark_setting_has_its_reason_above_it(path: Path) -> None:
    above = ""
    without = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            if not above.startswith("#"):
                without.append(line)
            # Spark would take a comment after a value as part of the value.
            assert "#" not in line, line
        above = line

    assert without == []


@pytest.mark.parametrize("path", SPARK_CONFS, ids=lambda path: path.name)
def test_every_cluster_has_the_settings_that_results_rest_on(path: Path) -> None:
    here = spark_settings(path)
    laptop = spark_settings(ROOT / "conf" / "spark" / "laptop.conf")

    for name, value in laptop.items():
        matters = name.startswith(("spark.sql.", "spark.databricks."))
        # How many parts work is cut into is a matter of size, not of results.
        if matters and not name.endswith(("Partitions", "partitions", "PartitionNum")):
            assert here[name] == value, name


def test_gpu_clusters_give_each_task_a_whole_gpu_and_all_cores() -> None:
    for path in SPARK_CONFS:
        settings = spark_settings(path)
        if "spark.executor.resource.gpu.amount" in settings:
            assert settings["spark.executor.resource.gpu.amount"] == "1"
            assert settings["spark.task.resource.gpu.amount"] == "1"
            assert settings["spark.task.cpus"] == settings["spark.executor.cores"]


# --- scripts


def fake_command(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_gpu_discovery_prints_what_spark_reads(tmp_path: Path) -> None:
    fake_command(tmp_path / "nvidia-smi", "printf '0\\n1\\n10\\n'")

    found = run_script("conf/spark/get_gpus.sh", PATH=f"{tmp_path}:{os.environ['PATH']}")

    assert json.loads(found.stdout) == {"name": "gpu", "addresses": ["0", "1", "10"]}


@pytest.mark.parametrize("answer", ["exit 9", "true"], ids=["no driver", "no GPU"])
def test_gpu_discovery_fails_where_there_is_no_gpu(tmp_path: Path, answer: str) -> None:
    fake_command(tmp_path / "nvidia-smi", answer)

    found = run_script("conf/spark/get_gpus.sh", PATH=f"{tmp_path}:{os.environ['PATH']}")

    assert found.returncode != 0
    assert found.stdout == ""


def fake_java(home: Path, version: str) -> Path:
    fake_command(
        home / "bin" / "java",
        f"echo 'openjdk version \"{version}\" 2024-01-16' >&2\necho '    java.home = {home}' >&2",
    )
    return home


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_java_home_is_taken_where_it_is_new_enough(tmp_path: Path, version: str) -> None:
    home = fake_java(tmp_path / "java", version)

    found = run_script("scripts/find_java.sh", JAVA_HOME=str(home))

    assert found.stdout.strip() == str(home)


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.22"])
def test_an_old_java_home_gives_way_to_the_java_on_the_path(tmp_path: Path, version: str) -> None:
    old = fake_java(tmp_path / "old", version)
    new = fake_java(tmp_path / "new", "17.0.1")

    found = run_script(
        "scripts/find_java.sh",
        JAVA_HOME=str(old),
        PATH=f"{new}/bin:{os.environ['PATH']}",
    )

    assert found.stdout.strip() == str(new)


def run_script(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / name)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
