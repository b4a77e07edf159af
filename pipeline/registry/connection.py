"""The one way to MLflow: which store, and nothing but that store.

MLflow takes seconds to import, so nothing here does before somebody connects.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import TrackingConfig
from pipeline.errors import ConfigurationError, RegistryError
from pipeline.redaction import redact
from pipeline.storage import absolute

DATABASE_NAME = "mlflow.db"
ARTIFACTS_NAME = "mlflow-artifacts"

_SERVERS = frozenset({"http", "https", "databricks", "databricks-uc"})
_DATABASES = frozenset({"sqlite", "postgresql", "mysql", "mssql"})
_SCHEME = re.compile(r"(?P<name>[a-z][a-z0-9-]*)(?:\+\w+)?://")
_SQLITE = "sqlite:///"

# Read by MLflow when it is imported or later.
_ALWAYS = {
    # figures of use, sent to a third party
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # its own lines on stderr would stand between ours, and are no JSON
    "MLFLOW_CONFIGURE_LOGGING": "false",
}
# What people set for themselves counts.
_BY_DEFAULT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # 7 tries with doubled pauses are four minutes of silence until a wrong address is told
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An MLflow store.

    Attributes:
        client: MLflow's client of the store.
        tracking_uri: Where runs are.
        registry_uri: Where models are.
        artifacts: Where files of a new experiment go; None: where the server says.
    """

    client: Any
    tracking_uri: str
    registry_uri: str
    artifacts: str | None


def import_mlflow() -> Any:
    """MLflow, kept from telling third parties about its use."""
    os.environ.update(_ALWAYS)
    for name, value in _BY_DEFAULT.items():
        os.environ.setdefault(name, value)
    # a line for each migration of a new database
    logging.getLogger("alembic").setLevel(logging.WARNING)

    import mlflow  # noqa: PLC0415  seconds of imports that local bundles never need
    import mlflow.artifacts  # noqa: PLC0415

    return mlflow


def connect(config: TrackingConfig, *, folder: Path | None = None) -> Connection:
    """Connect to the store a job is told, and find out whether it answers.

    Args:
        config: Where it is.
        folder: Where the job writes its output: the place of the default database.

    Raises:
        ConfigurationError: It is not said where the store is, or the place cannot be one.
        RegistryError: It does not answer.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        if folder is None:
            raise ConfigurationError(
                "it is not said where MLflow's store is",
                where="tracking.uri",
                expected="a server or a database, here or in MLFLOW_TRACKING_URI",
                todo=f"a training without them makes {DATABASE_NAME} beside its bundle: give "
                f"sqlite:///FOLDER/{DATABASE_NAME}",
            )
        uri = f"{_SQLITE}{folder.absolute() / DATABASE_NAME}"
    uri, beside = _checked(uri)
    artifacts = absolute(config.artifacts) if config.artifacts else beside
    mlflow = import_mlflow()
    with told(uri):
        client = mlflow.MlflowClient(
            tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI")
        )
        client.search_experiments(max_results=1)
    return Connection(
        client=client,
        tracking_uri=uri,
        registry_uri=str(client._registry_uri),
        artifacts=artifacts,
    )


def connect_environment() -> Connection:
    """Connect to the store that MLflow's own settings name, for jobs that only read models.

    Raises:
        ConfigurationError: Nothing is set: MLflow would make a store in the current folder.
    """
    mlflow = import_mlflow()
    named = any(os.environ.get(f"MLFLOW_{kind}_URI") for kind in ("TRACKING", "REGISTRY"))
    if not named and not mlflow.tracking.is_tracking_uri_set():
        raise ConfigurationError(
            "it is not said where the registry is",
            where="MLFLOW_TRACKING_URI",
            expected="a server or a database",
            got="nothing",
        )
    return Connection(
        client=mlflow.MlflowClient(),
        tracking_uri=mlflow.get_tracking_uri(),
        registry_uri=mlflow.get_registry_uri(),
        artifacts=None,
    )


def find_experiment(connection: Connection, name: str) -> str:
    """The id of an experiment, made where it is missing.

    Raises:
        ConfigurationError: It has to be made, and its files would go to the current folder.
        RegistryError: It was deleted, or the store does not answer.
    """
    client = connection.client
    with told(connection.tracking_uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            if connection.artifacts is None and not _is_server(connection.tracking_uri):
                raise ConfigurationError(
                    "it is not said where files of the experiment go",
                    where="tracking.artifacts",
                    expected="a folder or a URI, since the store is a database",
                )
            try:
                return str(client.create_experiment(name, connection.artifacts))
            except import_mlflow().exceptions.MlflowException:
                # somebody else made it in between, or it cannot be made
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
    if found.lifecycle_stage != "active":
        raise RegistryError(
            "the experiment was deleted",
            where=f"{name} in {redact(connection.tracking_uri)}",
            todo="restore it with mlflow experiments restore, or set tracking.experiment",
        )
    return str(found.experiment_id)


@contextmanager
def told(uri: str, what: str = "MLflow's store did not do it") -> Iterator[None]:
    """Turn what MLflow raises into an error told in one line.

    Raises:
        RegistryError: Whatever the store, its database or the network answered.
    """
    try:
        yield
    except errors() as error:
        raise RegistryError(what, where=redact(uri), got=redact(str(error))) from error


def errors() -> tuple[type[Exception], ...]:
    """What MLflow raises where its store, the network or a disk fails."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  comes with MLflow

    return import_mlflow().exceptions.MlflowException, SQLAlchemyError, OSError


def _checked(uri: str) -> tuple[str, str | None]:
    """The URI in the form that means the same everywhere, and the folder for files beside it."""
    if uri.split(":", maxsplit=1)[0] in ("databricks", "databricks-uc"):
        return uri, None
    scheme = _SCHEME.match(uri)
    if scheme is None or scheme["name"] not in _SERVERS | _DATABASES:
        raise ConfigurationError(
            "this cannot be a store of MLflow",
            where="tracking.uri or MLFLOW_TRACKING_URI",
            expected=f"http(s)://..., {_SQLITE}FOLDER/{DATABASE_NAME} or another database",
            got=redact(uri),
        )
    if scheme["name"] != "sqlite":
        return uri, None
    place = uri.partition("///")[2]
    if not place:
        raise ConfigurationError("a database in memory keeps nothing", where="tracking.uri")
    path = Path(place).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            "the database's folder cannot be made", where="tracking.uri", got=error
        ) from error
    return f"{_SQLITE}{path}", str(path.parent / ARTIFACTS_NAME)


def _is_server(uri: str) -> bool:
    return uri.split(":", maxsplit=1)[0] in _SERVERS
