"""The oracle of the faults: what is true of the tables at the end, whatever happened on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from submitted import AS_OF, nightly, write_manifest
from undisturbed import Undisturbed, assert_as_undisturbed
from whole_tags import assert_tags_whole

from demo.verify import Row, read_rows, verify_run

CHANGED, NEW = "photo-0", "photo-of-the-next-night"
LATER = AS_OF.replace("T00:00", "T00:01")  # no failure is due again


def assert_run_kept_its_promise(tables: Path, manifest: Path, undisturbed: Undisturbed) -> None:
    """Every row has its outcome, as undisturbed; tags were always whole; one run was published."""
    assert verify_run(tables, manifest, "night-1").broken == ()
    assert_as_undisturbed(tables, undisturbed)
    assert_tags_whole(tables)
    states = Counter(change["state"] for change in read_rows(tables, "tagging_runs"))
    assert (states["published"], states["held"], states["discarded"]) == (1, 0, 0)


def assert_next_night_works(
    tables: Path, manifest: Path, bundle: Path, *, folder: Path, main: Callable[[list[str]], int]
) -> None:
    """A night with one changed and one new photo: those two are another's, the rest stays."""
    before = {row["image_id"]: row for row in read_rows(tables, "images")}
    rows: list[Row] = pq.read_table(manifest).to_pylist()
    by_id = {row["image_id"]: row for row in rows}
    by_id[CHANGED]["version"] = "2"
    rows.append({**by_id["photo-1"], "image_id": NEW})
    night = folder / "next-night.parquet"
    write_manifest(night, rows)
    asked = nightly(tables, night, bundle)
    anew = {"--run_id": "night-2", "--as_of": LATER}
    options = dict(argument.split("=", 1) for argument in asked) | anew
    assert main([f"{key}={value}" for key, value in options.items()]) == 0
    assert verify_run(tables, night, "night-2").broken == ()
    after = {row["image_id"]: row for row in read_rows(tables, "images")}
    assert after.keys() - before.keys() == {NEW}
    assert {key for key in before if after[key] != before[key]} == {CHANGED}
