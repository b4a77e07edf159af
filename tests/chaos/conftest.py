"""What the tests of faults share, and their table: what was done, how often, what came of it.

A test names its fault with ``@pytest.mark.fault("...")`` and may say more with the fixture
``record_property``: ``times`` and ``outcome``. ``--write-faults`` keeps the table in
docs/reliability.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pyspark
import pytest
from submitted import draw_night
from undisturbed import Undisturbed, undisturbed_outcomes

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
CALLS = Path(__file__).parents[1] / "fakes" / "failing_calls.c"
BEGIN, END = "<!-- faults -->\n", "<!-- end of faults -->\n"
_FAULT = "fault"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-faults", action="store_true", help="keep the table in docs/reliability.md"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker(_FAULT)
    if marker is not None:
        report.user_properties.append((_FAULT, marker.args[0]))
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    rows = [
        describe(report)
        for outcome in ("passed", "failed", "error", "skipped")
        for report in terminalreporter.stats.get(outcome, [])
        if _FAULT in dict(report.user_properties)
    ]
    if not rows:
        return
    table = "\n".join(["| fault | times | outcome |", "|---|---|---|", *sorted(rows)]) + "\n"
    terminalreporter.section("faults on purpose")
    terminalreporter.write(table)
    if config.getoption("--write-faults", default=False):
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + table + END + rest.partition(END)[2])


@pytest.fixture(scope="session")
def failing_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of ``tests/fakes/failing_calls.c``, for LD_PRELOAD."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("calls can be made to fail where there is Linux and a C compiler")
    path = tmp_path_factory.mktemp("library") / "failing_calls.so"
    options = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror")
    subprocess.run([compiler, *options, "-o", str(path), str(CALLS), "-ldl"], check=True)
    return path


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night of twenty drawn photos between damaged inputs."""
    return draw_night(tmp_path_factory.mktemp("night"), 20)


@pytest.fixture(scope="session")
def undisturbed(manifest: Path, tiny_bundle: Path) -> Undisturbed:
    """What a run of that night ends as, if nothing disturbs it."""
    return undisturbed_outcomes(manifest, tiny_bundle)


@pytest.fixture(scope="session")
def spark_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spark's own folder, but for what a local cluster writes into it."""
    home = tmp_path_factory.mktemp("spark-home")
    for entry in Path(pyspark.__file__).parent.iterdir():
        if entry.name != "work":
            (home / entry.name).symlink_to(entry)
    return home


def describe(report: pytest.TestReport) -> str:
    """A row of the table."""
    told = dict(report.user_properties)
    outcome = str(told.get("outcome", "the promise held"))
    if report.failed:
        outcome = "**the test failed**"
    elif report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        outcome = f"skipped: {str(reason).removeprefix('Skipped: ')}"
    return f"| {told[_FAULT]} | {told.get('times', 1)} | {outcome} |"
