"""What the tests of faults share, and their table: what was done, how often, what came of it.

A test names its fault with ``@pytest.mark.fault("...")`` and may say more with the fixture
``record_property``: ``times``, ``outcome``, and for each hit what the job was doing, ``hit``.
``--write-faults`` keeps the rows of the tests that ran in docs/reliability.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from pathlib import Path

import pyspark
import pytest
from promise import assert_next_night_works, assert_run_kept_its_promise
from pyspark.sql import SparkSession
from submitted import draw_night
from undisturbed import Undisturbed, undisturbed_outcomes

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
FAKES = Path(__file__).parents[1] / "fakes"
BEGIN, END = "<!-- faults -->\n", "<!-- end of faults -->\n"
_FAULT = "fault"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-faults",
        action="store_true",
        help="keep the rows of these tests in docs/reliability.md",
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
    tests = defaultdict(list)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            told = dict(report.user_properties)
            if _FAULT in told:
                tests[str(told[_FAULT])].append(report)
    rows = {fault: describe(fault, reports) for fault, reports in tests.items()}
    if not rows:
        return
    terminalreporter.section("faults on purpose")
    terminalreporter.write(make_table(rows))
    if config.getoption("--write-faults", default=False):
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        kept, _, after = rest.partition(END)
        rows = {row.split(" | ")[0].removeprefix("| "): row for row in kept.splitlines()[2:]} | rows
        DOCUMENT.write_text(before + BEGIN + make_table(rows) + END + after)


def make_table(rows: dict[str, str]) -> str:
    lines = [
        "| fault | times | outcome |",
        "|---|---|---|",
        *(rows[fault] for fault in sorted(rows)),
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def failing_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of ``tests/fakes/failing_calls.c``, for LD_PRELOAD."""
    return compile_library("failing_calls", tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="session")
def hanging_open(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of ``tests/fakes/hanging_open.c``, for LD_PRELOAD."""
    return compile_library("hanging_open", tmp_path_factory.mktemp("library"))


def compile_library(name: str, folder: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("calls can be made to fail where there is Linux and a C compiler")
    path = folder / f"{name}.so"
    options = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror")
    source = str(FAKES / f"{name}.c")
    subprocess.run([compiler, *options, "-o", str(path), source, "-ldl"], check=True)
    return path


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night of twenty drawn photos between damaged inputs."""
    return draw_night(tmp_path_factory.mktemp("night"), 20)


@pytest.fixture(scope="session")
def undisturbed(manifest: Path, tiny_bundle: Path) -> Undisturbed:
    """What a run of that night ends as, if nothing disturbs it."""
    return undisturbed_outcomes(manifest, tiny_bundle)


@pytest.fixture
def assert_promise_kept(
    spark: SparkSession,
    manifest: Path,
    undisturbed: Undisturbed,
    tiny_bundle: Path,
    tmp_path: Path,
) -> Callable[[Path], None]:
    """The oracle over the tables of a night that was disturbed and ended well; then the next one.

    The next night runs in this process, in a session that knows nothing of the tables.
    """

    def check(tables: Path) -> None:
        from jobs.tag_nightly import main

        assert_run_kept_its_promise(tables, manifest, undisturbed)
        assert_next_night_works(tables, manifest, tiny_bundle, folder=tmp_path, main=main)

    return check


@pytest.fixture(scope="session")
def spark_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spark's own folder, but for what a local cluster writes into it."""
    home = tmp_path_factory.mktemp("spark-home")
    for entry in Path(pyspark.__file__).parent.iterdir():
        if entry.name != "work":
            (home / entry.name).symlink_to(entry)
    return home


def describe(fault: str, reports: list[pytest.TestReport]) -> str:
    """The row of a fault: times over all of its tests, and what came of them."""
    times = sum(map(count_times, reports))
    outcomes = dict.fromkeys(map(describe_outcome, reports))  # each once, in order
    hit = Counter(
        str(told) for report in reports for name, told in report.user_properties if name == "hit"
    )
    if hit:
        told = ", ".join(f"{state} {count}" for state, count in hit.most_common())
        outcomes[f"hit while {told}"] = None
    return f"| {fault} | {times} | {'; '.join(outcomes)} |"


def count_times(report: pytest.TestReport) -> int:
    return 0 if report.skipped else int(dict(report.user_properties).get("times", 1))


def describe_outcome(report: pytest.TestReport) -> str:
    if report.failed:
        return "**a test failed**"
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        return f"skipped: {str(reason).removeprefix('Skipped: ')}"
    return str(dict(report.user_properties).get("outcome", "the promise held"))
