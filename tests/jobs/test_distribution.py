"""What ``make build`` makes is what a cluster gets: complete, and importable from a zip."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import pipeline

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "udfs", "jobs")


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def product_files() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".html") or path.name == "py.typed"
    }


def test_the_zip_holds_the_whole_product_and_nothing_else(distribution: Path) -> None:
    names = zipfile.ZipFile(one(distribution, "*-pyfiles.zip")).namelist()

    packed = {name for name in names if ".dist-info/" not in name}

    assert packed == product_files()
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed


def test_the_zip_is_the_wheel_under_a_name_that_spark_submit_takes(distribution: Path) -> None:
    wheel = one(distribution, "*.whl")
    zipped = one(distribution, "*.zip")

    assert zipped.name == f"mumic_spark-{pipeline.__version__}-pyfiles.zip"
    assert zipped.read_bytes() == wheel.read_bytes()


def test_every_module_imports_from_the_zip(distribution: Path, tmp_path: Path) -> None:
    """Nothing of the product reads files beside its own source, which a zip does not have."""
    zipped = one(distribution, "*.zip")
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert module.__file__.startswith({str(zipped)!r}), module.__file__\n"
    )
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in sorted(product_files())
        if name.endswith(".py")
    ]

    imported = subprocess.run(
        [sys.executable, "-c", code, *modules],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(zipped)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert imported.returncode == 0, imported.stderr


def test_decoders_start_from_the_zip(distribution: Path, tmp_path: Path) -> None:
    """The process they are forked from imports what the worker imports, from where it does."""
    zipped = one(distribution, "*.zip")
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.png")
    code = (
        "from pathlib import Path\n"
        "from pipeline.images import cage\n"
        "from pipeline.images.decoder import Decoder\n"
        "from pipeline.images.preprocess import Preprocessing\n"
        f"assert cage.__file__.startswith({str(zipped)!r}), cage.__file__\n"
        "decoder = Decoder(preprocessing=Preprocessing(size=8), max_pixels=10_000, cover=None)\n"
        "caged = cage.Cage(decoder, timeout_s=60, memory_mb=256)\n"
        "print(caged.decode(Path('photo.png').read_bytes()).pixels.shape)\n"
        "mapped = Path(f'/proc/{caged._idle[0].pid}/cmdline').read_text()\n"
        f"assert {str(zipped)!r} in mapped, mapped\n"
    )

    decoded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(zipped)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert decoded.stdout == "(8, 8, 3)\n", decoded.stderr


@pytest.mark.parametrize(
    "name", ["LICENSE", "requirements.lock", "Makefile", "scripts/setup.sh", "tests/conftest.py"]
)
def test_the_sdist_holds_what_the_wheel_cannot(distribution: Path, name: str) -> None:
    assert name in sdist_files(distribution)


def test_the_sdist_holds_the_configuration(distribution: Path) -> None:
    configuration = {
        str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*") if path.is_file()
    }

    assert configuration
    assert configuration <= sdist_files(distribution)


def sdist_files(distribution: Path) -> set[str]:
    with tarfile.open(one(distribution, "*.tar.gz")) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}
