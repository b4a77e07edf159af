"""The process that decoders are forked from, on a machine that has no room for the second one.

Both tries for it fail; the third decoder finds room again.
"""

from __future__ import annotations

import errno
import itertools
import os

from poisoned_warden import main

__all__ = ["main"]

_FAILING = (2, 3)
_forks = itertools.count(1)
_fork = os.fork


def fork() -> int:
    if next(_forks) in _FAILING:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return _fork()


os.fork = fork
