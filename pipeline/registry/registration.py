"""A bundle as a version of a registered model, which this product and MLflow itself can load.

A version is a Python model of MLflow made from code (:mod:`pipeline.models.served_model`), with the
bundle as its artifact and the library beside it. No pickle is written.
"""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import pipeline
from pipeline.errors import ConfigurationError, RegistryError
from pipeline.models.bundle_info import BundleInfo
from pipeline.registry.connection import Connection, import_mlflow, told
from pipeline.registry.layout import BUNDLE_NAME

_LOG = logging.getLogger(__name__)

DIGEST_TAG = "bundle_digest"

_FOLDER = "model"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")
_SCRIPT = Path(pipeline.__file__).parent / "models" / "served_model.py"
# What the library needs to tag, in the versions that registered it.
_REQUIREMENTS = (
    "filelock",
    "mlflow",
    "numpy",
    "open-clip-torch",
    "pandas",
    "pillow",
    "pyarrow",
    "pyyaml",
    "safetensors",
    "tenacity",
    "torch",
    "torchvision",
    "urllib3",
)


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version that holds a bundle.

    Attributes:
        name: Of the registered model.
        version: Its number, as text.
        is_new: Whether it was made just now.
    """

    name: str
    version: str
    is_new: bool

    @property
    def uri(self) -> str:
        """``models:/name/version``."""
        return f"models:/{self.name}/{self.version}"


def validate_name(name: str) -> None:
    """Refuse names of models that registries, or our URIs, cannot hold.

    Raises:
        ConfigurationError: It holds a slash, a colon, a quote, or nothing.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            "this cannot be the name of a model",
            where="name",
            expected="letters, digits, underscores, dots, hyphens and spaces",
            got=repr(name),
        )


def find_version(connection: Connection, name: str, digest: str) -> str | None:
    """The newest version of a model that holds a bundle, if there is one.

    Args:
        connection: The registry.
        name: Of the registered model.
        digest: The bundle's.

    Raises:
        RegistryError: The registry does not answer.
    """
    wanted = f"name = '{name}' and tags.{DIGEST_TAG} = '{digest}'"
    with told(connection.registry_uri):
        found = connection.client.search_model_versions(wanted)
    numbers = [int(version.version) for version in found if version.status == "READY"]
    return str(max(numbers)) if numbers else None


def register_bundle(
    connection: Connection,
    name: str,
    info: BundleInfo,
    *,
    run_id: str,
    settings: Mapping[str, Any],
    tags: Mapping[str, str],
) -> Registered:
    """Make a bundle a version of a registered model; one bundle makes one version.

    Files are uploaded before the version is made, so that a version is always whole. Two jobs that
    register the same bundle at the same moment can make two: registries know no transactions.

    Args:
        connection: The registry.
        name: Of the registered model; made where it is missing.
        info: The bundle.
        run_id: The run that keeps the version's files.
        settings: What :mod:`pipeline.models.served_model` reads: device, precision,
            scaled_decoding, batch_size. It may read no uri unless whoever loads it allows it.
        tags: Of a version that is made.

    Raises:
        RegistryError: The registry does not answer, or a file cannot be kept.
    """
    standing = find_version(connection, name, info.digest)
    if standing is not None:
        return Registered(name=name, version=standing, is_new=False)
    client = connection.client
    with (
        told(connection.registry_uri, "the model cannot be registered"),
        tempfile.TemporaryDirectory(prefix="mumic-register-") as temp,
    ):
        folder = Path(temp) / _FOLDER
        write_python_model(folder, info, settings=settings)
        client.log_artifacts(run_id, str(folder), _FOLDER)
        _make_model(connection, name)
        version = client.create_model_version(
            name,
            source=f"{client.get_run(run_id).info.artifact_uri}/{_FOLDER}",
            run_id=run_id,
            tags={**tags, DIGEST_TAG: info.digest},
        )
    if version.status != "READY":
        raise RegistryError(
            "the registry did not finish a version",
            where=f"{name} version {version.version}",
            got=version.status,
        )
    _LOG.info("registered %s as %s version %s", info.path, name, version.version)
    return Registered(name=name, version=str(version.version), is_new=True)


def write_python_model(folder: Path, info: BundleInfo, *, settings: Mapping[str, Any]) -> None:
    """Write a bundle as MLflow's Python model.

    Args:
        folder: Where; it must not exist yet.
        info: The bundle.
        settings: As for :func:`register_bundle`.
    """
    import_mlflow()
    import pandas as pd  # noqa: PLC0415
    from mlflow import pyfunc  # noqa: PLC0415
    from mlflow.models import ModelSignature  # noqa: PLC0415
    from mlflow.types import ColSpec, DataType, Schema  # noqa: PLC0415
    from mlflow.types.schema import Array, Object, Property  # noqa: PLC0415

    tag = Object(
        [
            Property("task", DataType.string),
            Property("label", DataType.string),
            Property("score", DataType.double),
        ]
    )
    signature = ModelSignature(
        inputs=Schema(
            [
                ColSpec(DataType.binary, "content", required=False),
                ColSpec(DataType.string, "uri", required=False),
                ColSpec(DataType.string, "text", required=False),
            ]
        ),
        outputs=Schema(
            [
                ColSpec(Array(tag), "tags"),
                ColSpec(DataType.string, "reason", required=False),
                ColSpec(DataType.string, "detail", required=False),
            ]
        ),
    )
    with tempfile.TemporaryDirectory(prefix="mumic-register-") as temp, warnings.catch_warnings():
        # its hints are about notebooks, and about type hints it then cannot read
        warnings.simplefilter("ignore")
        bundle = Path(temp) / BUNDLE_NAME  # MLflow keeps the folder's name
        shutil.copytree(info.path, bundle, copy_function=_link_or_copy)
        pyfunc.save_model(
            path=str(folder),
            python_model=str(_SCRIPT),
            artifacts={BUNDLE_NAME: str(bundle)},
            code_paths=[str(_SCRIPT.parents[1])],
            model_config={**settings, "allowed_roots": [], "allowed_hosts": []},
            pip_requirements=[f"{one}=={importlib.metadata.version(one)}" for one in _REQUIREMENTS],
            signature=signature,
            input_example=pd.DataFrame({"content": [_draw_example()]}),
        )


def _make_model(connection: Connection, name: str) -> None:
    """The registered model itself, made where it is missing."""
    client = connection.client
    exceptions = import_mlflow().exceptions
    try:
        client.create_registered_model(name)
    except exceptions.MlflowException:
        client.get_registered_model(name)  # raises where it is not that it exists already


def _link_or_copy(source: str, target: str) -> None:
    """Weights are large, and MLflow copies them again."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _draw_example() -> bytes:
    """The smallest picture that shows what to send."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 140, 200)).save(buffer, format="PNG")
    return buffer.getvalue()
