"""Where a bundle is among the files of a registered model."""

from __future__ import annotations

from pathlib import Path

from pipeline.models.bundle_info import INFO_NAME

BUNDLE_NAME = "bundle"

# MLflow keeps what a Python model brings along under this name.
_INSIDE_A_PYTHON_MODEL = Path("artifacts") / BUNDLE_NAME


def find_bundle(folder: Path) -> Path:
    """The bundle's own folder.

    Args:
        folder: A registered model's files: a bundle as it is, or one that register_model wrapped.
    """
    inside = folder / _INSIDE_A_PYTHON_MODEL
    return inside if not (folder / INFO_NAME).is_file() and inside.is_dir() else folder
