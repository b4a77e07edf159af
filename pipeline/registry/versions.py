"""Models in the MLflow registry, read. Imports MLflow only when a ``models:/`` URI is used.

Where nobody hands in a connection, the servers are MLflow's own settings (``MLFLOW_TRACKING_URI``,
``MLFLOW_REGISTRY_URI``), so that executors find what the driver found.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BundleError, ConfigurationError
from pipeline.redaction import redact
from pipeline.registry.connection import Connection, connect_environment, errors, import_mlflow

_PREFIX = "models:/"
_FORM = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[^/@:]+)|/(?P<version>[1-9][0-9]*))")


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """One version of a registered model.

    Attributes:
        uri: ``models:/name/version``: names the same content for everybody, unlike an alias.
        key: A file name that is unique to this version, also after its name was used again.
        name: Of the registered model.
        version: Its number, as text.
    """

    uri: str
    key: str
    name: str
    version: str


def is_model_uri(uri: str) -> bool:
    """Whether the URI names a model of the registry."""
    return uri.startswith(_PREFIX)


def pin_model(uri: str, connection: Connection | None = None) -> RegisteredModel:
    """Resolve an alias to the version it stands for at this moment.

    Args:
        uri: ``models:/name@alias`` or ``models:/name/version``.
        connection: Default: what MLflow's own settings name.

    Raises:
        ConfigurationError: If the URI has another form.
        BundleError: If the registry has no such model, or cannot be reached.
    """
    match = _FORM.fullmatch(uri)
    if match is None:
        raise ConfigurationError(
            "not a model of the registry",
            where="model.uri",
            expected="models:/name@alias or models:/name/version",
            got=uri,
        )
    name, alias, number = match["name"], match["alias"], match["version"]
    connection = connection or connect_environment()
    try:
        if alias:
            version = connection.client.get_model_version_by_alias(name, alias)
        else:
            version = connection.client.get_model_version(name, number)
    except errors() as error:
        raise BundleError(
            "the registry has no such model",
            where=f"{uri} in {redact(connection.registry_uri)}",
            got=error,
        ) from error
    identity = f"{connection.registry_uri} {name} {version.version} {version.creation_timestamp}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return RegisteredModel(
        uri=f"{_PREFIX}{name}/{version.version}", key=key, name=name, version=str(version.version)
    )


def resolve_model_uri(uri: str) -> str:
    """Name the same model for every machine of a run: an alias becomes the version behind it.

    Args:
        uri: A bundle's URI of any kind; all but those of the registry are returned as they are.

    Returns:
        A URI for :func:`pipeline.models.locate.locate_bundle`.

    Raises:
        ConfigurationError: If a ``models:/`` URI has another form.
        BundleError: If the registry has no such model, or cannot be reached.
    """
    return pin_model(uri).uri if is_model_uri(uri) else uri


def download_model(
    model: RegisteredModel, folder: Path, connection: Connection | None = None
) -> None:
    """Download a registered model's files into an existing, empty folder.

    Args:
        model: The version.
        folder: Where its files go.
        connection: Default: what MLflow's own settings name.

    Raises:
        BundleError: If it cannot be downloaded.
    """
    connection = connection or connect_environment()
    try:
        import_mlflow().artifacts.download_artifacts(
            artifact_uri=model.uri,
            dst_path=str(folder),
            tracking_uri=connection.tracking_uri,
            registry_uri=connection.registry_uri,
        )
    except errors() as error:
        raise BundleError("the model cannot be downloaded", where=model.uri, got=error) from error
