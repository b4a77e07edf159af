"""Take out the lines that keep promises, one by one, and see that a test fails each time.

    .venv/bin/python scripts/mutate.py [--only unit] [--promise WORDS] [--write]

The mutants are in tests/mutants.yaml. Each is tried in a copy of the tree, with the one test that
is named. Exits with 1 where a mutant survives that nobody explained. ``--only`` takes those whose
test stands in one folder of tests, ``--promise`` those whose promise has the words; ``--write``
writes docs/promises.md, where the others keep what it says of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
MUTANTS = ROOT / "tests" / "mutants.yaml"
DOCUMENT = ROOT / "docs" / "promises.md"
COPIED = ("pipeline", "udfs", "jobs", "tests", "conf", "demo", "docs", "setup.cfg", "scripts")
HEAD = """\
# Promises and their tests

Each promise of [architecture.md](architecture.md) has a test, and a line that keeps it.
[scripts/mutate.py](../scripts/mutate.py) takes the line out (the mutants are in
[tests/mutants.yaml](../tests/mutants.yaml)) and runs the test: it must fail. `killed`: it did.
`not tried`: no run has tried it yet.

| promise | line in | test | mutant |
|---|---|---|---|
"""


def try_mutant(mutant: dict[str, str], tree: Path) -> bool:
    """Whether the test fails without the line."""
    source = tree / mutant["file"]
    whole = source.read_text(encoding="utf-8")
    if whole.count(mutant["line"]) != 1:
        raise SystemExit(f"{mutant['file']} does not hold once: {mutant['line']!r}")
    source.write_text(whole.replace(mutant["line"], mutant["instead"]), encoding="utf-8")
    try:
        return run_test(mutant["test"], tree) == 1  # pytest: tests were run, and some failed
    finally:
        source.write_text(whole, encoding="utf-8")


def run_test(test: str, tree: Path) -> int:
    """Exit code of pytest in the copied tree."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{test} cannot be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode


def describe(mutant: dict[str, str], fate: str) -> str:
    """A row of the document."""
    file, test = mutant["file"], mutant["test"]
    path, _, name = test.partition("::")
    cells = (mutant["promise"], f"[{Path(file).name}](../{file})", f"[{name or path}](../{path})")
    return f"| {' | '.join((*cells, fate))} |\n"


def read_fates() -> dict[str, str]:
    """What the document says became of each mutant, by its promise."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row[-1] for row in rows[1:]}


def main() -> int:
    """Try the mutants; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("unit", "spark", "state", "chaos"))
    parser.add_argument("--promise", default="", help="words of a promise")
    parser.add_argument("--write", action="store_true", help="write docs/promises.md")
    options = parser.parse_args()
    rows, unexplained, fates = [], 0, read_fates()
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        tree = Path(temporary)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        for mutant in yaml.safe_load(MUTANTS.read_text(encoding="utf-8")):
            elsewhere = options.only and not mutant["test"].startswith(f"tests/{options.only}/")
            if elsewhere or options.promise not in mutant["promise"]:
                rows.append(describe(mutant, fates.get(mutant["promise"], "not tried")))
                continue
            began = time.monotonic()
            killed = try_mutant(mutant, tree)
            unexplained += not killed and "survives" not in mutant
            told = "killed" if killed else "SURVIVES"
            print(f"{told:9}{time.monotonic() - began:6.0f} s  {mutant['promise']}", flush=True)
            why = mutant.get("survives", "nobody knows why")
            rows.append(describe(mutant, "killed" if killed else f"survives: {why}"))
    if options.write:
        DOCUMENT.write_text(HEAD + "".join(rows), encoding="utf-8")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
