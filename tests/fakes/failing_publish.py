"""Publishes a staged run again and again while one call that changes files fails; tells each try.

    LD_PRELOAD=failing_calls.so FAILING_UNDER=FOLDER FAILING_CONTROL=FILE FAILING_LOG=FILE
        python failing_publish.py FOLDER made|lost kinds|every

``made``: the n-th call is not made; ``lost``: it is made, and its answer is lost. Tried is every
call, or the first and the last of every kind: the same call to a file of the same name, but for
numbers. After each the same run is started again, and the tables end as those that nothing
disturbed. First a line with the number of calls and of kinds, and the commits that an undisturbed
publish adds to each table, then one for each try: n, and the error of the disturbed run, nothing
where it ended well.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import struct
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from fake_catalogue import DAY_1, Catalogue, row
from pyspark.sql import SparkSession
from whole_tags import assert_tags_whole

from demo.verify import read_state
from pipeline.errors import PipelineError
from pipeline.spark import open_session

LAYOUT = "=3i"  # seen, failing, answer
SIZE = struct.calcsize(LAYOUT)
BEFORE = [row("a"), row("b"), row("c"), row("d", "/bad/corrupt/d.jpg")]
AFTER = [row("a", version="2"), row("b", deleted=True), row("e"), row("d", version="2")]
NUMBERS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+")


class Control:
    """What ``failing_calls.c`` is told, and what it counted."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), SIZE)

    @property
    def seen(self) -> int:
        return struct.unpack_from("=i", self._shared, 0)[0]

    def fail(self, number: int, *, lost: bool = False) -> None:
        """Count anew, and let one call fail; 0: none."""
        struct.pack_into(LAYOUT, self._shared, 0, 0, number, int(lost))


def choose_calls(calls: Sequence[str]) -> dict[int, str]:
    """The first and the last call of every kind, counted from 1, and the kind."""
    kinds = [NUMBERS.sub("#", call) for call in calls]
    first = {kind: number for number, kind in reversed(list(enumerate(kinds, 1)))}
    last = {kind: number for number, kind in enumerate(kinds, 1)}
    return {number: kind for ends in (first, last) for kind, number in ends.items()}


def stage(catalogue: Catalogue) -> str:
    """A night that was published, and one that is staged; the second's manifest."""
    catalogue.run(catalogue.manifest("first", BEFORE), "night-1", DAY_1)
    second = catalogue.manifest("second", AFTER)
    catalogue.stage(second, "night-2", DAY_1 + timedelta(days=1))
    return second


def publish(catalogue: Catalogue, manifest: str) -> None:
    catalogue.run(manifest, "night-2", DAY_1 + timedelta(days=1))


def forget(spark: SparkSession) -> None:
    """What the JVM remembers of tables: the next run sees what another process would see."""
    jvm = spark._jvm
    assert jvm is not None
    jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)).strip() + "\n")
    sys.stdout.flush()


def main(folder: Path, control: Control, log: Path, *, lost: bool, every: bool) -> None:
    spark: SparkSession = open_session("failing publish")
    spark.sparkContext.setLogLevel("OFF")
    source = folder / "source"
    source.mkdir()
    catalogue = Catalogue(spark, source)
    manifest = stage(catalogue)
    staged = folder / "staged"
    shutil.copytree(source / "tables", staged)
    before = catalogue.versions()
    since = before["image_tags"]
    log.write_text("")
    control.fail(0)
    publish(catalogue, manifest)
    noted = [call.replace(str(source), "") for call in log.read_text().splitlines()]
    calls, expected = control.seen, read_state(Path(catalogue.location))
    kinds = choose_calls(noted)
    assert_tags_whole(Path(catalogue.location), since=since)
    added = {table: version - before[table] for table, version in catalogue.versions().items()}
    told = {"calls": calls, "kinds": len({*kinds.values()}), "commits": added}
    tell(json.dumps(told))
    for number in range(1, calls + 1) if every else sorted(kinds):
        catalogue.location = str(folder / f"try-{number}")
        shutil.copytree(staged, catalogue.location)
        error = ""
        control.fail(number, lost=lost)
        try:
            publish(catalogue, manifest)
        except PipelineError as expected_error:
            error = str(expected_error)
        assert control.seen >= number, f"only {control.seen} calls, not {number}"
        control.fail(0)
        forget(spark)
        publish(catalogue, manifest)
        assert read_state(Path(catalogue.location)) == expected, number
        catalogue.assert_consistent()
        assert_tags_whole(Path(catalogue.location), since=since)
        states = [
            change["state"]
            for change in catalogue.rows("tagging_runs")
            if change["run_id"] == "night-2"
        ]
        assert states.count("published") == 1, states
        tell(number, error)
        shutil.rmtree(catalogue.location)
    spark.stop()


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Control(Path(os.environ["FAILING_CONTROL"])),
        Path(os.environ["FAILING_LOG"]),
        lost=sys.argv[2] == "lost",
        every=sys.argv[3] == "every",
    )
