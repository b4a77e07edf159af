"""Publishes a staged run again and again while one call that changes files fails; tells each try.

    LD_PRELOAD=failing_calls.so FAILING_UNDER=FOLDER FAILING_CONTROL=FILE
        python failing_publish.py FOLDER made|lost FIRST STEP

``made``: the n-th call is not made; ``lost``: it is made, and its answer is lost. Tried are n =
FIRST, FIRST + STEP, and so on to the last call. After each the same run is started again, and the
tables end as those that nothing disturbed. First a line with the number of calls, then one for each
try: n, and the error of the disturbed run, nothing where it ended well.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import sys
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from deltalake import DeltaTable
from fake_catalogue import DAY_1, PUBLISHED, Catalogue, row
from pyspark.sql import SparkSession

from pipeline.config import LeaseConfig
from pipeline.errors import LeaseError, PipelineError
from pipeline.spark import open_session
from pipeline.tables.lease import hold_lease
from pipeline.tables.store import TableSet

BEFORE = [row("a"), row("b"), row("c"), row("d", "/bad/corrupt/d.jpg")]
AFTER = [row("a", version="2"), row("b", deleted=True), row("e"), row("d", version="2")]


class Control:
    """What ``failing_calls.c`` is told, and what it counted."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 16)

    @property
    def seen(self) -> int:
        return struct.unpack_from("=i", self._shared, 0)[0]

    def fail(self, first: int, last: int, *, lost: bool) -> None:
        struct.pack_into("=4i", self._shared, 0, 0, first, last, int(lost))


def stage(catalogue: Catalogue) -> str:
    """A night that was published, and one that is staged; the second's manifest."""
    catalogue.run(catalogue.manifest("first", BEFORE), "night-1", DAY_1)
    second = catalogue.manifest("second", AFTER)
    # Somebody else publishes: what is staged waits.
    somebody = hold_lease(
        TableSet(catalogue.spark, catalogue.location), "somebody", LeaseConfig(wait_s=0)
    )
    with somebody, suppress(LeaseError):
        catalogue.run(second, "night-2", DAY_1 + timedelta(days=1), lease=LeaseConfig(wait_s=0))
    return second


def publish(catalogue: Catalogue, manifest: str) -> None:
    catalogue.run(manifest, "night-2", DAY_1 + timedelta(days=1))


def state_of(catalogue: Catalogue) -> dict[str, list[str]]:
    return {
        name: sorted(
            str({k: v for k, v in sorted(one.items()) if k != "tagged_at"})
            for one in catalogue.rows(name)
        )
        for name in PUBLISHED
    }


def tags_by_image(location: str, version: int) -> dict[str, frozenset[tuple]]:
    found = defaultdict(set)
    table = DeltaTable(f"{location}/image_tags", version=version).to_pyarrow_table()
    for tag in table.to_pylist():
        found[tag["image_id"]].add((tag["label"], tag["image_version"], tag["run_id"]))
    return {image: frozenset(tags) for image, tags in found.items()}


def assert_whole(location: str, since: int) -> None:
    """In every version of image_tags an image has its tags of before, or those of after."""
    latest = DeltaTable(f"{location}/image_tags").version()
    versions = [tags_by_image(location, version) for version in range(since, latest + 1)]
    for version in versions:
        for image in {image for tags in versions for image in tags}:
            assert version.get(image) in (versions[0].get(image), versions[-1].get(image)), image


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)).strip() + "\n")
    sys.stdout.flush()


def main(folder: Path, control: Control, *, lost: bool, first: int, step: int) -> None:
    spark: SparkSession = open_session("failing publish")
    spark.sparkContext.setLogLevel("OFF")
    source = folder / "source"
    source.mkdir()
    catalogue = Catalogue(spark, source)
    manifest = stage(catalogue)
    staged = folder / "staged"
    shutil.copytree(source / "tables", staged)
    since = catalogue.versions()["image_tags"]
    control.fail(0, 0, lost=False)
    publish(catalogue, manifest)
    calls, expected = control.seen, state_of(catalogue)
    assert_whole(catalogue.location, since)
    tell(calls)
    for number in range(first, calls + 1, step):
        catalogue.location = str(folder / f"try-{number}")
        shutil.copytree(staged, catalogue.location)
        error = ""
        control.fail(number, number, lost=lost)
        try:
            publish(catalogue, manifest)
        except PipelineError as expected_error:
            error = str(expected_error)
        control.fail(0, 0, lost=False)
        publish(catalogue, manifest)
        assert state_of(catalogue) == expected, number
        catalogue.assert_consistent()
        assert_whole(catalogue.location, since)
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
        lost=sys.argv[2] == "lost",
        first=int(sys.argv[3]),
        step=int(sys.argv[4]),
    )
