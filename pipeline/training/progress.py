"""What a training shows while it works: images, images per second, loss, and the time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from tqdm import tqdm

from pipeline.logs import BarStream

_LOG = logging.getLogger(__name__)

_SECONDS_BETWEEN_BARS = 1.0
# Where there is no bar (JSON logs, several processes) a line now and then says the same.
_SECONDS_BETWEEN_LINES = 60.0


class EpochBar:
    """The progress of one epoch.

    Args:
        bar: tqdm's; disabled where lines of the log take its place.
        title: Which epoch it is.
        images: Of the epoch.
        seen: Of this epoch, before it was cut off.
        later: Images of all epochs after this one.
        told: Whether this process tells anything.
    """

    def __init__(
        self, bar: tqdm, *, title: str, images: int, seen: int, later: int, told: bool
    ) -> None:
        self._bar, self._title, self._told = bar, title, told
        self._images, self._before, self._seen, self._later = images, seen, seen, later
        self._every_s = _SECONDS_BETWEEN_LINES if bar.disable else _SECONDS_BETWEEN_BARS
        self._started = self._last = time.monotonic()

    def advance(self, images: int, loss: Tensor) -> None:
        """Count a step's images.

        Args:
            images: Of the step.
            loss: Of the step, a scalar. It is looked at only to be shown: that waits for a GPU.
        """
        self._seen += images
        now = time.monotonic()
        if self._told and now - self._last >= self._every_s:
            self._last = now
            pace = (now - self._started) / (self._seen - self._before)
            left = tqdm.format_interval((self._images - self._seen + self._later) * pace)
            if self._bar.disable:
                _LOG.info(
                    "%s: %d of %d images, loss %.4f, %.0f images/s, %s left",
                    *(self._title, self._seen, self._images, float(loss), 1 / pace, left),
                )
            else:
                self._bar.set_postfix(loss=f"{float(loss):.4f}", left=left, refresh=False)
        self._bar.update(images)


@contextmanager
def show_epoch(
    *, epoch: int, epochs: int, images: int, seen: int, shown: bool, told: bool = True
) -> Iterator[EpochBar]:
    """Show the progress of an epoch, with the time left of the whole training.

    Args:
        epoch: 0 to epochs - 1.
        epochs: Of the training.
        images: Of an epoch.
        seen: Of this epoch, before it was cut off.
        shown: As a bar on stderr; otherwise as lines of the log.
        told: Whether this process tells anything.
    """
    title = f"epoch {epoch + 1} of {epochs}"
    with tqdm(
        desc=title,
        initial=seen,
        total=images,
        unit="img",
        file=BarStream(),
        dynamic_ncols=True,
        disable=not (shown and told),
        leave=False,
        mininterval=_SECONDS_BETWEEN_BARS,
    ) as bar:
        later = (epochs - epoch - 1) * images
        yield EpochBar(bar, title=title, images=images, seen=seen, later=later, told=told)
