"""The state of a Python worker process: its model, loaded once for each device.

Spark reuses worker processes from task to task, and may give a reused one another GPU. torch is
imported here only when a model is loaded, so that the driver can build UDFs without it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark import TaskContext

from pipeline.config import Device
from pipeline.errors import BundleError
from udfs.settings import TaggerSettings

if TYPE_CHECKING:
    from pipeline.models.engine import Engine

log = logging.getLogger(__name__)

ChooseDevice = Callable[[Device, Sequence[str]], str]
LoadEngine = Callable[[TaggerSettings, str], "Engine"]

# By device: one model in the memory of a GPU at a time.
_engines: dict[str, tuple[TaggerSettings, Engine]] = {}


def assigned_gpus() -> tuple[str, ...]:
    """Addresses of the GPUs Spark gave this task; empty outside of tasks and without GPUs."""
    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context is not None else None
    return tuple(gpus.addresses) if gpus is not None else ()


def task_cores() -> int | None:
    """Cores of this task; None outside of tasks."""
    context = TaskContext.get()
    return context.cpus() if context is not None else None


def executor_folder() -> Path | None:
    """A folder that all workers of an executor share, and that ends with it; None without one.

    It is where Spark keeps blocks and shuffles.
    """
    folders = os.environ.get("SPARK_LOCAL_DIRS", "")
    return Path(folders.split(",")[0]) if folders and TaskContext.get() is not None else None


def choose_torch_device(device: Device, addresses: Sequence[str]) -> str:
    """A device in torch's words, made torch's current one.

    Args:
        device: As configured.
        addresses: GPUs of the task.

    Raises:
        DeviceError: A GPU was asked for and there is none.
    """
    import torch  # noqa: PLC0415

    from pipeline.models.device import choose_device  # noqa: PLC0415

    chosen = choose_device(device, addresses)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # else pinned memory and streams make a context on GPU 0
    return str(chosen)


def load_engine(settings: TaggerSettings, device: str) -> Engine:
    """Load the model and make what feeds it.

    Args:
        settings: What the driver expects.
        device: In torch's words.

    Raises:
        BundleError: The bundle here is not the driver's.
        DecoderError: No decoder can be started here.
    """
    from pipeline.models.bundle import read_bundle  # noqa: PLC0415
    from pipeline.models.locate import locate_bundle  # noqa: PLC0415
    from pipeline.models.memory import Memory  # noqa: PLC0415
    from pipeline.models.serving import make_engine  # noqa: PLC0415

    model, decode, cores = settings.model, settings.decode, task_cores()
    memory, folder = None, executor_folder()
    if folder is not None and model.remember_images > 0:
        # of all that decides what becomes of an image's bytes
        parts = (settings.model_version, settings.taxonomy_version, str(decode.max_pixels))
        path = folder / f"results-{'-'.join(parts)}.sqlite"
        memory = Memory(path, limit=model.remember_images)
    engine, loader = make_engine(
        read_bundle(locate_bundle(model.uri, model.cache_dir)),
        replace(model, threads=model.threads or cores),
        settings.fetch,
        replace(decode, threads=decode.threads or cores),
        device=device,
        tag_without_image=model.tag_without_image,
        memory=memory,
    )
    loader.start()  # the preflight finds where that does not work
    return engine


def get_engine(
    settings: TaggerSettings,
    *,
    choose: ChooseDevice = choose_torch_device,
    load: LoadEngine = load_engine,
) -> Engine:
    """The engine of this process for the device of this task; loaded for the first that asks.

    Args:
        settings: What the driver expects. Others than before replace what the device holds.
        choose: From the configured device and the GPUs of this task to a device.
        load: Makes an engine.

    Raises:
        BundleError: The bundle here is not the driver's.
        DeviceError: A GPU was asked for and there is none.
    """
    device = choose(settings.model.device, assigned_gpus())
    wanted = replace(settings, score_floor=0.0)  # no matter of the engine's
    if device in _engines:
        held, engine = _engines[device]
        if held == wanted:
            return engine
        del _engines[device], engine  # its memory goes before the next model comes
    started = time.monotonic()
    engine = load(wanted, device)
    predictor = engine.predictor
    validate_versions(settings, predictor.model_version, predictor.taxonomy_version)
    _engines[device] = (wanted, engine)
    log.info(
        "loaded %s on %s in %.1f s", settings.model_version, device, time.monotonic() - started
    )
    return engine


def validate_versions(settings: TaggerSettings, model: str, taxonomy: str) -> None:
    """Refuse a model that is not the one the driver read.

    Raises:
        BundleError: With both versions.
    """
    expected = (settings.model_version, settings.taxonomy_version)
    found = (model, taxonomy)
    if found != expected:
        raise BundleError(
            "the bundle on an executor is not the driver's",
            where=settings.model.uri,
            expected=f"model {expected[0]}, taxonomy {expected[1]}",
            got=f"model {found[0]}, taxonomy {found[1]}",
            todo="give every machine the same bundle, or a URI they all read",
        )
