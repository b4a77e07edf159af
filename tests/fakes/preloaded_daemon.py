"""The process that Spark's Python workers are forked from, with torch imported once for all.

Spark's own daemon imports nothing, and each worker of each test would spend seconds on torch.
"""

from __future__ import annotations

import open_clip  # noqa: F401  (and torch with it)
from pyspark.daemon import manager

if __name__ == "__main__":
    manager()
