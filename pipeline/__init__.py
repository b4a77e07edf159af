"""Batch image tagging on Spark with MuMIC: the library behind the jobs.

Knows nothing of command lines: no argparse, no ``sys.exit``, no ``print``.
"""

__version__ = "0.1.0"
