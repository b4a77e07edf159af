"""Runs the trainings of an ablation side by side, keeps each result, tells how long it takes."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loss_ablation.settings import Settings, write_json
from loss_ablation.training import Training, prepare_process, run_training
from pipeline.errors import ModelError


class Contest:
    """The trainings of an ablation, those that are done already included.

    Args:
        settings: Of the ablation.
        folder: Its output; results go to ``results``, data lie in ``data``.
        device: A torch device.
        processes: Trainings at a time.
    """

    def __init__(self, settings: Settings, folder: Path, *, device: str, processes: int) -> None:
        self._settings, self._device, self._processes = settings, device, processes
        self._data, self._results = folder / "data", folder / "results"
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
        self, trainings: Sequence[Training], *, later: float = 0.0, begun: float
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
        futures = {
            self._pool.submit(
                run_training, training, self._settings, self._data, self._device
            ): training
            for training in waiting
        }
        for finished, future in enumerate(as_completed(futures), len(trainings) - len(waiting) + 1):
            training = futures[future]
            result = future.result()
            write_json(self._place(training), result)
            kept[training.name] = result
            done += training.cost
            left -= training.cost
            now = time.monotonic()
            _tell(
                f"{training.stage} {finished} of {len(trainings)}: {training.variant.name}"
                f" seed {training.seed}: {_describe(result)};"
                f" {(now - begun) / 60:.1f} min so far,"
                f" about {left * (now - started) / done / 60:.1f} min left"
            )
        results = [result for result in kept.values() if result is not None]
        if all("failed" in result for result in results):
            raise ModelError("every training diverged", got=results[0]["failed"])
        return results

    def estimate(self, results: Sequence[dict[str, Any]], trainings: Sequence[Training]) -> float:
        """Seconds that trainings will take, going by those that were run.

        Args:
            results: At least one that did not diverge: such a training ends sooner.
            trainings: To be run.
        """
        pace = statistics.median(
            result["seconds"] / result["cost"] for result in results if "failed" not in result
        )
        return pace * sum(training.cost for training in trainings) / self._processes

    def _place(self, training: Training) -> Path:
        return self._results / f"{training.name}.json"

    def _read(self, training: Training) -> dict[str, Any] | None:
        place = self._place(training)
        if not place.exists():
            return None
        found: dict[str, Any] = json.loads(place.read_text())
        return found


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _describe(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"failed: {result['failed']}"
    return f"GAP {result['test']['gap']['value']:.3f}"
