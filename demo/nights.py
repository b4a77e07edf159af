"""The nights of the demo: the command of each, and its summary in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from demo.layout import Layout, shown

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Night:
    """One nightly run.

    Attributes:
        run_id: Name of the run.
        as_of: The moment its manifest speaks for, ISO 8601.
        manifest: What it is given.
        about: What is special about it.
    """

    run_id: str
    as_of: str
    manifest: Path
    about: str


def make_nights(manifests: tuple[Path, Path, Path]) -> tuple[Night, Night, Night]:
    """The three nights, a day apart."""
    first, second, third = manifests
    return (
        Night("night-1", "2026-03-01T02:00:00Z", first, "a catalogue nobody has tagged before"),
        Night("night-2", "2026-03-02T02:00:00Z", second, "new, changed and deleted images"),
        Night("night-3", "2026-03-03T02:00:00Z", third, "the same delivery again, in disorder"),
    )


# A night of the demo has hundreds of rows: what counts is how soon code runs, not how fast. The JVM
# stops at its first compiler (whose 48 MB for code would be full within a minute, and it compiles
# no more then), no web server starts, plans are interpreted, and shuffles have two parts.
FEW_ROWS = (
    "spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
    " -XX:+UseSerialGC -Xmn600m",
    "spark.ui.enabled=false",
    "spark.sql.codegen.wholeStage=false",
    "spark.sql.codegen.factoryMode=NO_CODEGEN",
    "spark.sql.adaptive.enabled=false",
    "spark.sql.shuffle.partitions=2",
    "spark.databricks.delta.snapshotPartitions=1",
)


def submit() -> list[str]:
    """The beginning of every spark-submit: the one of this environment, on this machine."""
    program = Path(sys.executable).with_name("spark-submit")
    settings = [part for setting in FEW_ROWS for part in ("--conf", setting)]
    return [shown(program), "--properties-file", "conf/spark/laptop.conf", *settings]


def make_command(layout: Layout, night: Night, *, summary: Path) -> list[str]:
    """The spark-submit of a night, as one would type it in the repository."""
    command = [
        *submit(),
        "jobs/tag_nightly.py",
        *("--config", "conf/base.yaml"),
        *("--config", "conf/demo/tag_nightly.yaml"),
    ]
    if not layout.is_default:  # the files name the places of the default one
        command += ["--tables.location", shown(layout.tables)]
        command += ["--model.uri", shown(layout.bundle)]
        command += ["--fetch.allowed_roots", json.dumps([str(layout.catalogue)])]
    return [
        *command,
        *("--manifest.path", shown(night.manifest)),
        *("--as_of", night.as_of),
        *("--run_id", night.run_id),
        *("--summary", shown(summary)),
    ]


def read_summary(path: Path) -> dict[str, Any]:
    """The summary a job left."""
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


def describe_summary(summary: Summary) -> list[str]:
    """A summary in words, some lines."""
    as_of = datetime.fromisoformat(summary["as_of"])
    parts = [
        f"{summary[outcome]:,} {outcome}"
        for outcome in ("tagged", "failed", "deleted", "skipped", "reused", "superseded")
        if summary[outcome]
    ]
    return [
        f"run {summary['run_id']} of {as_of:%Y-%m-%d %H:%M} UTC: {summary['state']}",
        f"  {summary['manifest_rows']:,} images in the manifest: {', '.join(parts) or 'no work'}",
        f"  {summary['tags_published']:,} tags published",
        f"  {summary['seconds']:.1f} s of work, {summary['images_per_s']:.0f} images/s while"
        f" tagging, cost {summary['cost']:.4f}",
        f"  model {summary['model_version']}, taxonomy {summary['taxonomy_version']}",
    ]
