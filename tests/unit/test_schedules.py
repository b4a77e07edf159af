"""The schedules of the documents: they parse, and every command in them is one of our jobs'."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import yaml

from pipeline.arguments import parse_config

ROOT = Path(__file__).parents[2]
SCHEDULES = ROOT / "docs" / "schedules"


def parse(job: str, arguments: list[str]) -> object:
    """A job's configuration of these arguments, as the job itself reads them."""
    module = importlib.import_module(f"jobs.{job}")
    here = [argument.replace("/opt/mumic", str(ROOT)) for argument in arguments]
    (kind,) = (
        value
        for name, value in vars(module).items()
        if name == "".join(part.title() for part in job.split("_")) + "Config"
    )
    return parse_config(job, kind, here)


def of_shell(command: str) -> tuple[str, list[str]]:
    """Job and arguments of a command line; what the shell computes is a word."""
    text = re.sub(r"\$\([^()]*(?:\([^()]*\))*[^()]*\)", "2026-11-21T02:00:00Z", command)
    text = text.replace("$CONF", "/opt/mumic/conf").replace("$planned", "1")
    words = shlex.split(text.replace("\\\n", " "))
    for place, word in enumerate(words):
        found = re.fullmatch(r".*/jobs/(\w+)\.py|mumic-(?!run$)([a-z-]+)", word)
        if found:
            return found[1] or found[2].replace("-", "_"), words[place + 1 :]
    raise AssertionError(f"no job in {command}")


JOBS = {"tag_nightly", "backfill_catalog", "maintain_tables"}


def test_the_crontab_starts_our_jobs_with_their_own_options() -> None:
    lines = (SCHEDULES / "crontab").read_text(encoding="utf-8").splitlines()
    commands = [of_shell(line.replace("\\%", "%")) for line in lines if re.match(r"\d", line)]

    assert {job for job, _ in commands} == JOBS
    for job, arguments in commands:
        config = parse(job, arguments)
        assert job == "maintain_tables" or config.as_of == "2026-11-21T02:00:00Z"


def test_the_cronjobs_start_our_jobs_with_their_own_options() -> None:
    documents = list(yaml.safe_load_all((SCHEDULES / "cronjob.yaml").read_text(encoding="utf-8")))
    jobs = set()
    for document in documents:
        job_spec = document["spec"]["jobTemplate"]["spec"]
        (container,) = job_spec["template"]["spec"]["containers"]
        job, arguments = of_shell(container["args"][0].split("exec ", 1)[1])
        parse(job, arguments)
        jobs.add(job)
        if job != "maintain_tables":
            (rule,) = job_spec["podFailurePolicy"]["rules"]
            assert rule["onExitCodes"]["values"] == [2, 3]
    assert jobs == JOBS


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The DAG's module, with stand-ins for what it takes from Airflow."""
    names = {
        "airflow": {"DAG": lambda *_, **options: options},
        "airflow.exceptions": {
            "AirflowException": type("AirflowException", (Exception,), {}),
            "AirflowFailException": type("AirflowFailException", (Exception,), {}),
        },
        "airflow.operators": {},
        "airflow.operators.python": {"PythonOperator": lambda **options: options},
    }
    for name, values in names.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(SCHEDULES))
    monkeypatch.delitem(sys.modules, "airflow_dag", raising=False)
    return importlib.import_module("airflow_dag")


def test_the_dags_start_our_jobs_with_their_own_options(airflow: types.ModuleType) -> None:
    for job, command in {
        "tag_nightly": airflow.NIGHTLY,
        "backfill_catalog": airflow.BACKFILL,
        "maintain_tables": airflow.MAINTENANCE,
    }.items():
        place = next(n for n, word in enumerate(command) if word.endswith(f"jobs/{job}.py"))
        assert not re.search(r"(?<!\{)\{(?!\{)", " ".join(command)), "a brace Airflow does not fill"
        parse(job, command[place + 1 :])


@pytest.mark.parametrize(
    ("code", "raises"), [(0, None), (1, "AirflowException"), (2, "AirflowFailException"),
                         (3, "AirflowFailException"), (137, "AirflowException")],
)  # fmt: skip
def test_the_dags_retry_what_a_retry_can_help(airflow, code: int, raises: str | None) -> None:
    command = [sys.executable, "-c", f"raise SystemExit({code})"]
    if raises is None:
        airflow.run(command)
        return
    with pytest.raises(Exception) as error:  # noqa: PT011  (of the stand-in, by its name)
        airflow.run(command)
    assert type(error.value).__name__ == raises
