"""Nightly tagging, a backfill in its window, and weekly maintenance, as Airflow DAGs.

Copy it into your DAGs folder and edit the constants. Retries resume, because run ids are made from
the data interval. Exit codes 2 (configuration) and 3 (held by the audit) fail without a retry.
"""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta

from airflow import DAG
from airflow.exceptions import AirflowException, AirflowFailException
from airflow.operators.python import PythonOperator

REPO = "/opt/mumic"
TABLES = "s3a://our-bucket/tables"
BUNDLE = "s3://our-bucket/bundle"
MANIFESTS = "s3a://our-bucket/manifests"
SUBMIT = ["spark-submit", "--properties-file", f"{REPO}/conf/spark/yarn.conf"]
FOR_PEOPLE = {2: "the configuration is wrong", 3: "the audit holds the run: see docs/operations.md"}


def job(name: str, *arguments: str) -> list[str]:
    """The command of a job; Airflow fills in what stands in braces."""
    return [
        *SUBMIT,
        f"{REPO}/jobs/{name}.py",
        f"--config={REPO}/conf/base.yaml",
        f"--config={REPO}/conf/{name}.yaml",
        f"--tables.location={TABLES}",
        *arguments,
    ]


NIGHTLY = job(
    "tag_nightly",
    f"--model.uri={BUNDLE}",
    f"--manifest.path={MANIFESTS}/{{{{ ds }}}}",
    "--as_of={{ data_interval_end | ts }}",
    "--run_id=nightly-{{ ds }}",
)
BACKFILL = job(
    "backfill_catalog",
    f"--model.uri={BUNDLE}",
    f"--manifest.path={MANIFESTS}/catalogue",
    "--as_of={{ data_interval_end | ts }}",
    "--pace.window=22:00-06:00",
)
MAINTENANCE = job("maintain_tables")


def run(command: list[str]) -> None:
    """Run a job; its exit code decides whether a retry makes sense."""
    code = subprocess.run(command, check=False).returncode
    if code in FOR_PEOPLE:
        raise AirflowFailException(FOR_PEOPLE[code])
    if code != 0:
        raise AirflowException(f"exit code {code}")


def schedule(dag_id: str, command: list[str], cron: str) -> DAG:
    """A DAG of one task, one run of it at a time."""
    dag = DAG(
        dag_id,
        schedule=cron,
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        default_args={"retries": 3, "retry_delay": timedelta(minutes=10)},
    )
    PythonOperator(task_id=dag_id, python_callable=run, op_args=[command], dag=dag)
    return dag


nightly = schedule("mumic_tag_nightly", NIGHTLY, "0 2 * * *")
backfill = schedule("mumic_backfill_catalog", BACKFILL, "0 22 * * *")
maintenance = schedule("mumic_maintain_tables", MAINTENANCE, "0 12 * * 0")
