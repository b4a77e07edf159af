"""What the jobs are told about MLflow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where MLflow keeps runs and models. Nothing else of MLflow's is ever called.

    Attributes:
        enabled: Keep a run of the job: settings, curves, figures, files. register_model needs it.
        uri: A tracking server (``https://...``) or a database (``sqlite:///path/mlflow.db``,
            ``postgresql://...``). Default: ``MLFLOW_TRACKING_URI``, else, for jobs that write an
            output, ``mlflow.db`` beside it.
        experiment: The experiment that runs go to; made where it is missing.
        artifacts: Folder or URI for the files of an experiment that is made. Default: a server's
            own; with SQLite ``mlflow-artifacts`` beside the database. Other databases need it.
        run_name: Name of the run. Default: made up by MLflow.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "mumic"
    artifacts: str | None = None
    run_name: str | None = None
