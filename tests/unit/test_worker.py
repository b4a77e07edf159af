"""What a worker process keeps, and what the driver tells it; no Spark, no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import ModelConfig
from pipeline.errors import BundleError
from udfs import worker
from udfs.settings import TaggerSettings

SETTINGS = TaggerSettings(
    model=ModelConfig(uri="/bundle"), model_version="mumic-1", taxonomy_version="t1"
)


@pytest.fixture(autouse=True)
def _empty_worker() -> Iterator[None]:
    worker._engines.clear()
    yield
    worker._engines.clear()


class Loads:
    """Counts what it loads."""

    def __init__(self, version: str = "mumic-1") -> None:
        self.devices: list[str] = []
        self.version = version

    def __call__(self, settings: TaggerSettings, device: str) -> Any:
        self.devices.append(device)
        predictor = SimpleNamespace(model_version=self.version, taxonomy_version="t1")
        return SimpleNamespace(predictor=predictor)


def on(device: str) -> worker.ChooseDevice:
    return lambda configured, addresses: device


def test_the_model_is_loaded_once_for_a_process_and_a_device() -> None:
    load = Loads()

    first = [worker.get_engine(SETTINGS, choose=on("cuda:0"), load=load) for _ in range(3)]
    other = worker.get_engine(SETTINGS, choose=on("cuda:1"), load=load)
    again = worker.get_engine(SETTINGS, choose=on("cuda:0"), load=load)

    assert load.devices == ["cuda:0", "cuda:1"]
    assert first == [again] * 3
    assert other is not again


def test_functions_with_another_floor_share_the_model() -> None:
    load = Loads()

    for floor in (0.0, 0.5):
        worker.get_engine(replace(SETTINGS, score_floor=floor), choose=on("cpu"), load=load)

    assert load.devices == ["cpu"]


def test_another_configuration_replaces_the_model_of_a_device() -> None:
    load = Loads()
    larger = replace(SETTINGS, model=replace(SETTINGS.model, batch_size=64))

    for settings in (SETTINGS, larger, larger):
        worker.get_engine(settings, choose=on("cpu"), load=load)

    assert load.devices == ["cpu", "cpu"]
    assert len(worker._engines) == 1


def test_a_bundle_that_is_not_the_drivers_is_refused_and_not_kept() -> None:
    for _ in range(2):
        with pytest.raises(BundleError, match=r"expected model mumic-1.*got model mumic-2"):
            worker.get_engine(SETTINGS, choose=on("cpu"), load=Loads("mumic-2"))

    assert worker._engines == {}


def test_a_refused_bundle_is_named_without_its_keys() -> None:
    uri = "s3://KEY:SEC/RET@bucket/bundle?endpoint_override=SECRET"
    settings = replace(SETTINGS, model=ModelConfig(uri=uri))

    with pytest.raises(BundleError) as caught:
        worker.get_engine(settings, choose=on("cpu"), load=Loads("mumic-2"))

    assert "[s3://bucket/bundle]" in str(caught.value)


class FakeTask:
    """A task as Spark describes it."""

    def __init__(self, addresses: list[str] | None, cores: int = 3) -> None:
        self._addresses = addresses
        self._cores = cores

    def resources(self) -> dict[str, Any]:
        if self._addresses is None:
            return {}
        return {"gpu": SimpleNamespace(name="gpu", addresses=self._addresses)}

    def cpus(self) -> int:
        return self._cores


def test_the_device_is_chosen_from_the_configuration_and_the_tasks_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Loads()
    settings = replace(SETTINGS, model=replace(SETTINGS.model, device="cuda"))

    for addresses in (["3"], ["5"], ["3"]):
        monkeypatch.setattr(worker.TaskContext, "get", lambda given=addresses: FakeTask(given))
        worker.get_engine(
            settings, choose=lambda device, given: f"{device}:{','.join(given)}", load=load
        )

    assert load.devices == ["cuda:3", "cuda:5"]


@pytest.mark.parametrize(
    ("task", "addresses", "cores"),
    [
        (None, (), None),
        (FakeTask(None), (), 3),
        (FakeTask(["2"], cores=8), ("2",), 8),
    ],
    ids=["outside of tasks", "a task without GPUs", "a task with a GPU"],
)
def test_devices_and_cores_are_those_of_the_task(
    monkeypatch: pytest.MonkeyPatch,
    task: FakeTask | None,
    addresses: tuple[str, ...],
    cores: int | None,
) -> None:
    monkeypatch.setattr(worker.TaskContext, "get", lambda: task)

    assert worker.assigned_gpus() == addresses
    assert worker.task_cores() == cores
