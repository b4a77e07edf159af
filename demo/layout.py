"""Where the demo leaves what it makes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository. Every command of the demo runs here, whatever folder it was called from."""

DEFAULT_OUTPUT = ROOT / "demo-output"


@dataclass(frozen=True)
class Layout:
    """The folders and files of one demo.

    Attributes:
        output: Of all of them, absolute.
    """

    output: Path

    @property
    def is_default(self) -> bool:
        """Whether it lies where ``conf/base.yaml`` says."""
        return self.output == DEFAULT_OUTPUT

    @property
    def catalogue(self) -> Path:
        """The drawn pictures, the taxonomy and the truth about them."""
        return self.output / "catalogue"

    @property
    def taxonomy(self) -> Path:
        """The taxonomy."""
        return self.catalogue / "taxonomy.yaml"

    @property
    def truth(self) -> Path:
        """True labels by image_id and version."""
        return self.catalogue / "truth.parquet"

    @property
    def manifests(self) -> Path:
        """The labelled manifest and those of the nights."""
        return self.output / "manifests"

    @property
    def labelled(self) -> Path:
        """The manifest to train on."""
        return self.manifests / "labelled.parquet"

    @property
    def bundle(self) -> Path:
        """The trained model."""
        return self.output / "bundle"

    @property
    def tables(self) -> Path:
        """The Delta tables."""
        return self.output / "tables"

    @property
    def logs(self) -> Path:
        """What each step wrote, and the summaries of the jobs."""
        return self.output / "logs"

    @property
    def summary(self) -> Path:
        """Figures of the demo."""
        return self.output / "summary.json"

    @property
    def sheet(self) -> Path:
        """Images with their tags."""
        return self.output / "contact-sheet.png"

    def clear(self) -> None:
        """Remove what an earlier demo left, and nothing else that may lie beside it."""
        for path in (
            self.catalogue,
            self.manifests,
            self.bundle,
            self.tables,
            self.logs,
            self.summary,
            self.sheet,
        ):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self.logs.mkdir(parents=True)


def shown(path: Path) -> str:
    """A path as the demo's commands name it: relative to the repository where it lies in it."""
    return os.path.relpath(path, ROOT) if path.is_relative_to(ROOT) else str(path)
