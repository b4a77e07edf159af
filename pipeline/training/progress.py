"""What a training shows while it works: images, images per second, loss, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from tqdm import tqdm

_SECONDS_BETWEEN_BARS = 1.0


class EpochBar:
    """The bar of one epoch, on stderr.

    Args:
        bar: tqdm's.
        later: Images of all epochs after this one.
    """

    def __init__(self, bar: tqdm, later: int) -> None:
        self._bar, self._later = bar, later
        self._first, self._shown = bar.n, 0.0

    def advance(self, images: int, loss: Tensor) -> None:
        """Count a step's images.

        Args:
            images: Of the step.
            loss: Of the step, a scalar. It is looked at once a second: that waits for a GPU.
        """
        now = time.monotonic()
        if not self._bar.disable and now - self._shown >= _SECONDS_BETWEEN_BARS:
            self._shown = now
            elapsed = self._bar.format_dict["elapsed"]
            pace = elapsed / max(1, self._bar.n + images - self._first)
            left = (self._bar.total - self._bar.n - images + self._later) * pace
            self._bar.set_postfix(
                loss=f"{float(loss):.4f}", left=tqdm.format_interval(left), refresh=False
            )
        self._bar.update(images)


@contextmanager
def show_epoch(
    *, epoch: int, epochs: int, images: int, seen: int, shown: bool
) -> Iterator[EpochBar]:
    """Show the progress of an epoch, with the time left of the whole training.

    Args:
        epoch: 0 to epochs - 1.
        epochs: Of the training.
        images: Of an epoch.
        seen: Of this epoch, before it was cut off.
        shown: Whether to show it.
    """
    with tqdm(
        desc=f"epoch {epoch + 1} of {epochs}",
        initial=seen,
        total=images,
        unit="img",
        file=sys.stderr,
        disable=not shown,
        leave=False,
        mininterval=_SECONDS_BETWEEN_BARS,
    ) as bar:
        yield EpochBar(bar, (epochs - epoch - 1) * images)
