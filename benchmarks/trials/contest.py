"""Runs the trainings of an ablation side by side, keeps each result, tells how long it takes.

In processes of one thread each: two of them use two cores better than one training with two
threads.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from pipeline.errors import ModelError
from trials.kept import tell, write_json


class Training(Protocol):
    """One training that an ablation needs."""

    @property
    def name(self) -> str:
        """Of its result's file."""
        ...

    @property
    def stage(self) -> str:
        """What it is for."""
        ...

    @property
    def cost(self) -> float:
        """What it takes, on any scale."""
        ...


T = TypeVar("T", bound=Training)


class Contest(Generic[T]):
    """The trainings of an ablation, those that are done already included.

    Args:
        train: Trains and measures, in another process: a function of a module, or a partial of
            one. A result has ``seconds`` and ``cost``, and ``failed`` where the training diverged.
        results: Folder of the results.
        device: A torch device.
        processes: Trainings at a time.
        describe: What is told of a result that did not fail.
    """

    def __init__(
        self,
        train: Callable[[T], dict[str, Any]],
        results: Path,
        *,
        device: str,
        processes: int,
        describe: Callable[[dict[str, Any]], str],
    ) -> None:
        self._train, self._results, self._processes = train, results, processes
        self._describe_done = describe
        self._results.mkdir(exist_ok=True)
        # Spawned, not forked: threads of torch do not survive a fork.
        self._pool = ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=prepare_process,
            initargs=(device,),
        )

    def __enter__(self) -> Self:
        """Ready; processes start with the first training."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the processes; what was not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def run(
        self, trainings: Sequence[T], *, later: float = 0.0, begun: float
    ) -> list[dict[str, Any]]:
        """Results of trainings, in their order; those that are kept are not run again.

        Args:
            trainings: What is needed.
            later: Cost of what will come after them, for the time left.
            begun: When the ablation started, by the monotonic clock.

        Raises:
            ModelError: All of them diverged.
        """
        kept = {training.name: self._read(training) for training in trainings}
        waiting = [training for training in trainings if kept[training.name] is None]
        left = sum(training.cost for training in waiting) + later
        started, done = time.monotonic(), 0.0
        futures = {self._pool.submit(self._train, training): training for training in waiting}
        for finished, future in enumerate(as_completed(futures), len(trainings) - len(waiting) + 1):
            training = futures[future]
            result = future.result()
            write_json(self._place(training), result)
            kept[training.name] = result
            done += training.cost
            left -= training.cost
            now = time.monotonic()
            tell(
                f"{training.stage} {finished} of {len(trainings)}: {training.name}:"
                f" {self._describe(result)};"
                f" {(now - begun) / 60:.1f} min so far,"
                f" about {left * (now - started) / done / 60:.1f} min left"
            )
        results = [result for result in kept.values() if result is not None]
        if all("failed" in result for result in results):
            raise ModelError("every training diverged", got=results[0]["failed"])
        return results

    def estimate(self, results: Sequence[dict[str, Any]], trainings: Sequence[T]) -> float:
        """Seconds that trainings will take, going by those that were run.

        Args:
            results: At least one that did not diverge: such a training ends sooner.
            trainings: To be run.
        """
        pace = statistics.median(
            result["seconds"] / result["cost"] for result in results if "failed" not in result
        )
        return pace * sum(training.cost for training in trainings) / self._processes

    def _place(self, training: T) -> Path:
        return self._results / f"{training.name}.json"

    def _read(self, training: T) -> dict[str, Any] | None:
        place = self._place(training)
        if not place.exists():
            return None
        found: dict[str, Any] = json.loads(place.read_text())
        return found

    def _describe(self, result: dict[str, Any]) -> str:
        return f"failed: {result['failed']}" if "failed" in result else self._describe_done(result)


def prepare_process(device: str) -> None:
    """Called once in each process of the pool."""
    # Control-C reaches all of them: one line of the ablation is enough.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.getLogger("pipeline").setLevel(logging.ERROR)  # random weights are no news here
    if device == "cpu":
        torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """A killed ablation leaves nobody behind who trains on."""
    parent.join()
    os._exit(1)
