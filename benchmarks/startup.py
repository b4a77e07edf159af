"""Seconds from the start of the nightly job to the first tagged image, itemised.

    .venv/bin/python benchmarks/startup.py [--rounds 5] [--images 256] [--precision fp32]

``tag_nightly`` through spark-submit with ``conf/spark/laptop.conf`` on ``local[2]``, ViT-B/32 with
random weights, photos of 1 megapixel, into tables that an earlier run made: each round begins with
a copy of them. The moments, in the order in which they come:

    python     the job's first log line: Java and Python run, imports done, configuration read
    context    Spark's context starts (event log)
    session    the session is up: the job says so
    preflight  every slot has loaded the model and answered
    selected   manifest read, compared with the tables: the plan is counted
    tasks      the first tagging task starts (event log)
    first      the first batch of images has come out of the model in a worker, seen from outside
    tagged     the last tagging task is over (event log)
    exit       the job is over

``session_to_first_s`` is the result that counts; medians, the last line as JSON. Log lines count
when they arrive, so they are late by a hundredth of a second or so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from tag_throughput import (
    Submitted,
    read_events,
    submit_tagging,
    tagging_span,
    write_model,
    write_photos,
)
from tqdm import tqdm
from watched_results import WatchedResults

EARLIER = 32  # images in the tables that exist
# What the lines of the log say at each moment.
SAID = {
    "python": "mumic-tag-nightly ",
    "session": "the Spark session is up",
    "preflight": "preflight: ",
    "selected": "run measured: ",
}


def find_moments(done: Submitted, first: float) -> dict[str, float]:
    """Seconds after the start of the job, in order."""
    found = {"first": first}
    for name, words in SAID.items():
        found[name] = next(moment for moment, line in done.lines if words in line)
    for event in read_events(done.event_log):
        if event["Event"] == "SparkListenerApplicationStart":
            found["context"] = event["Timestamp"] / 1000
    found["tasks"], found["tagged"] = tagging_span(done.event_log, after=found["selected"])
    found["exit"] = done.ended
    return {
        name: round(moment - done.began, 3)
        for name, moment in sorted(found.items(), key=lambda item: item[1])
    }


def main() -> None:
    """Draws, runs, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=256, help="of the night that is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--precision", default="fp32")
    asked = parser.parse_args()
    precision = f"--model.precision={asked.precision}"
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        earlier = write_photos(folder / "earlier", EARLIER)
        manifest = write_photos(folder / "photos", EARLIER + asked.images)
        bundle = write_model(folder / "bundle", asked.architecture)
        submit_tagging(bundle, earlier, folder / "first-night", precision)
        for number in tqdm(range(asked.rounds), unit="round", file=sys.stderr):
            place = folder / f"round-{number}"
            shutil.copytree(folder / "first-night" / "tables", place / "tables")
            local = place / "local"
            with WatchedResults(local, interval_s=0.02) as results:
                done = submit_tagging(
                    bundle,
                    manifest,
                    place,
                    precision,
                    "--run_id=measured",
                    conf={"spark.local.dir": str(local)},
                )
            assert done.summary["tagged"] == asked.images, done.summary
            rounds.append(find_moments(done, results.seen[0][0]))
            print(rounds[-1], file=sys.stderr)
            shutil.rmtree(place)

    def median(name: str) -> float:
        return round(statistics.median(one[name] for one in rounds), 2)

    order = sorted(rounds[0], key=median)
    after_session = [one["first"] - one["session"] for one in rounds]
    result = {
        "benchmark": "startup",
        "architecture": asked.architecture,
        "precision": asked.precision,
        "images": asked.images,
        "rounds": asked.rounds,
        "session_to_first_s": round(statistics.median(after_session), 2),
        "start_to_first_s": median("first"),
        "moments_s": {name: median(name) for name in order},
        "steps_s": {
            f"{before} to {after}": round(
                statistics.median(one[after] - one[before] for one in rounds), 2
            )
            for before, after in pairwise(order)
        },
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
