"""Everything random in a training, as a function of its seed and the place in it.

A training that goes on after a kill, or in another number of micro-batches, draws what it would
have drawn: there is no state of a generator that could be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# What seeds are for: the first number of their place.
ORDER, CUTS, STEP, PRIOR, DISTURBANCE = range(5)


def make_seed(seed: int, *place: int) -> int:
    """A seed of its own for every place in a training (epoch, step, process, and so on).

    Args:
        seed: The training's, at least 0.
        place: Any numbers, at least 0; other places give other, unrelated seeds.
    """
    # SeedSequence ignores trailing zeros: say how long the place is.
    words = np.random.SeedSequence([seed, len(place), *place]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1


def make_generator(seed: int, *place: int) -> torch.Generator:
    """A generator of one place. On the CPU: every device sees the same images the same way."""
    return torch.Generator().manual_seed(make_seed(seed, *place))


@contextmanager
def keep_reproducible(device: torch.device) -> Iterator[None]:
    """Choose deterministic kernels; the caller's random state comes back after."""
    devices = [device] if device.type == "cuda" else []
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(devices=devices), flags:
        yield
