"""A run in MLflow: what a job was told, what it came to, and the files it made.

A training of hours is not lost because a tracking server went away: from the first record that the
store does not take, records wait, and are given again when the job ends. What is missing then is
told, in the log and in :meth:`Tracker.describe`.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import TrackingConfig
from pipeline.models.bundle_info import TAXONOMY_NAME, BundleInfo
from pipeline.redaction import redact, redacted
from pipeline.registry.connection import (
    Connection,
    connect,
    errors,
    find_experiment,
    import_mlflow,
    told,
)
from pipeline.registry.layout import BUNDLE_NAME
from pipeline.registry.provenance import describe_code

_LOG = logging.getLogger(__name__)

# MLflow's own limits.
_PARAMETER_CHARS = 6000
_RECORDS_PER_CALL = 100
# At the end; each may wait for the network.
_FAILURES_UNTIL_GIVEN_UP = 3


class TrackedConfig(Protocol):
    """What the configuration of a tracked job has."""

    @property
    def tracking(self) -> TrackingConfig:
        """Where runs are kept."""


class Tracker(Protocol):
    """A run that is going on. No method raises because of the store."""

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, to go on with it later; None where none is kept."""

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Settings, nested or not; what is logged twice must be equal."""

    def log_metrics(self, metrics: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Figures; those that are not defined (None, NaN) are left out. Steps make a curve."""

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Words to find the run by."""

    def log_data(self, name: str, *, digest: str, source: str, context: str) -> None:
        """The data a run was made from: a name, its digest, its place, and what for."""

    def log_json(self, name: str, content: object) -> None:
        """Plain JSON data as a file."""

    def log_text(self, name: str, text: str) -> None:
        """A text as a file."""

    def log_file(self, path: Path, *, folder: str | None = None) -> None:
        """A file (a plot, a report). It must stay until the run ends."""

    def log_bundle(self, info: BundleInfo) -> None:
        """A bundle, all of it, with its taxonomy beside it. It must stay until the run ends."""

    def describe(self) -> dict[str, object]:
        """For a job's summary: the run, its store, and the records that are missing so far."""


@contextmanager
def tracked_run(
    config: TrackedConfig, *, job: str, folder: Path | None = None, run_id: str | None = None
) -> Iterator[Tracker]:
    """Keep a run for as long as the block lasts; its end says how the block ended.

    Args:
        config: The job's resolved configuration; kept with the run, without secrets.
        job: The job's name.
        folder: Where the job writes its output: the place of the default store.
        run_id: A run to go on with. Default: a new one.

    Raises:
        ConfigurationError: It is not said where the store is, or the place cannot be one.
        RegistryError: The store does not answer when the run begins.
    """
    if not config.tracking.enabled:
        yield _NoTracker()
        return
    connection = connect(config.tracking, folder=folder)
    with tracked_by(connection, config, job=job, run_id=run_id) as tracker:
        yield tracker


@contextmanager
def tracked_by(
    connection: Connection, config: TrackedConfig, *, job: str, run_id: str | None = None
) -> Iterator[Tracker]:
    """As :func:`tracked_run`, in a store that is connected already."""
    client = connection.client
    experiment = find_experiment(connection, config.tracking.experiment)
    with told(connection.tracking_uri):
        if run_id is None:
            run = client.create_run(experiment, run_name=config.tracking.run_name)
            run_id = str(run.info.run_id)
            logged: Mapping[str, str] = {}
        else:
            client.update_run(run_id, status="RUNNING")
            logged = client.get_run(run_id).data.params
    tracker = _MlflowTracker(connection, run_id)
    tracker.log_tags({"job": job, "mlflow.source.name": f"mumic {job}", **describe_code()})
    # Of a run that goes on the first settings stand: MLflow takes no others.
    settings = flatten(redacted(config))
    tracker.log_parameters({name: value for name, value in settings.items() if name not in logged})
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def flatten(settings: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted names, as text; lists as JSON, None as ``null``."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, str):
            flat[name] = value
        else:
            flat[name] = json.dumps(value, default=str)
    return flat


@dataclass(frozen=True)
class _Record:
    """Something to be kept: what it is, and the call that keeps it."""

    what: str
    keep: Callable[[], object]


class _MlflowTracker:
    """Keeps records in MLflow, in order; see the module's docstring for what happens if it fails.

    Args:
        connection: The store.
        run_id: An active run of it.
    """

    def __init__(self, connection: Connection, run_id: str) -> None:
        self._run_id = run_id
        self._connection = connection
        self._client = connection.client
        self._entities = import_mlflow().entities
        self._waiting: deque[_Record] = deque()
        self._waits = False

    @property
    def run_id(self) -> str | None:
        return self._run_id

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        found = [
            self._entities.Param(name, value[:_PARAMETER_CHARS])
            for name, value in flatten(parameters).items()
        ]
        for start in range(0, len(found), _RECORDS_PER_CALL):
            part = found[start : start + _RECORDS_PER_CALL]
            self._keep("settings", functools.partial(self._batch, params=part))

    def log_metrics(self, metrics: Mapping[str, float | None], *, step: int | None = None) -> None:
        now = int(time.time() * 1000)
        found = [
            self._entities.Metric(name, float(value), now, step or 0)
            for name, value in metrics.items()
            if value is not None and math.isfinite(value)
        ]
        if found:
            self._keep("figures", lambda: self._batch(metrics=found))

    def log_tags(self, tags: Mapping[str, object]) -> None:
        found = [self._entities.RunTag(name, str(value)) for name, value in tags.items()]
        self._keep("tags", lambda: self._batch(tags=found))

    def log_data(self, name: str, *, digest: str, source: str, context: str) -> None:
        place = json.dumps({"uri": redact(source)})
        data = self._entities.DatasetInput(
            self._entities.Dataset(name, digest, "local", place),
            [self._entities.InputTag("mlflow.data.context", context)],
        )
        self._keep(f"data {name}", lambda: self._client.log_inputs(self._run_id, [data]))

    def log_json(self, name: str, content: object) -> None:
        self.log_text(name, json.dumps(content, indent=2, default=str) + "\n")

    def log_text(self, name: str, text: str) -> None:
        self._keep(name, lambda: self._client.log_text(self._run_id, text, name))

    def log_file(self, path: Path, *, folder: str | None = None) -> None:
        self._keep(path.name, lambda: self._client.log_artifact(self._run_id, str(path), folder))

    def log_bundle(self, info: BundleInfo) -> None:
        self.log_tags({"bundle_digest": info.digest, "taxonomy_version": info.taxonomy.version})
        self.log_file(info.path / TAXONOMY_NAME)
        self._keep(
            "bundle",
            lambda: self._client.log_artifacts(self._run_id, str(info.path), BUNDLE_NAME),
        )

    def describe(self) -> dict[str, object]:
        return {
            "mlflow_run": self._run_id,
            "mlflow_store": redact(self._connection.tracking_uri),
            "mlflow_missing": len(self._waiting),
        }

    def close(self, status: str) -> None:
        """Give again what waits, and end the run."""
        self._keep("end", lambda: self._client.set_terminated(self._run_id, status))
        failed: list[_Record] = []
        while self._waiting and len(failed) < _FAILURES_UNTIL_GIVEN_UP:
            record = self._waiting.popleft()
            try:
                record.keep()
            except errors() as error:
                failed.append(record)
                _LOG.warning("MLflow does not take %s: %s", record.what, redact(str(error)))
        self._waiting.extendleft(reversed(failed))
        if self._waiting:
            _LOG.error(
                "run %s in %s lacks %d records: %s",
                self._run_id,
                redact(self._connection.tracking_uri),
                len(self._waiting),
                ", ".join(sorted({record.what for record in self._waiting})),
            )

    def _keep(self, what: str, keep: Callable[[], object]) -> None:
        record = _Record(what, keep)
        if self._waits:
            self._waiting.append(record)
            return
        try:
            keep()
        except errors() as error:
            self._waits = True
            self._waiting.append(record)
            _LOG.warning(
                "MLflow does not take %s; it and what follows wait until the job ends: %s",
                what,
                redact(str(error)),
            )

    def _batch(self, **records: Sequence[Any]) -> None:
        self._client.log_batch(self._run_id, **records)


class _NoTracker:
    """Keeps nothing: tracking is switched off."""

    run_id = None

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float | None], *, step: int | None = None) -> None:
        pass

    def log_tags(self, tags: Mapping[str, object]) -> None:
        pass

    def log_data(self, name: str, *, digest: str, source: str, context: str) -> None:
        pass

    def log_json(self, name: str, content: object) -> None:
        pass

    def log_text(self, name: str, text: str) -> None:
        pass

    def log_file(self, path: Path, *, folder: str | None = None) -> None:
        pass

    def log_bundle(self, info: BundleInfo) -> None:
        pass

    def describe(self) -> dict[str, object]:
        return {}


def is_unfinished(connection: Connection, run_id: str) -> bool:
    """Whether the store has a run, and it did not come to its end.

    Args:
        connection: The store.
        run_id: MLflow's id.
    """
    try:
        run = connection.client.get_run(run_id)
    except errors():
        return False
    return bool(run.info.lifecycle_stage == "active" and run.info.status != "FINISHED")
