"""Scoring again from stored embeddings: the backfill against a pandas loop over rows.

    .venv/bin/python benchmarks/rescore.py [--images 500000] [--rounds 5]

A catalogue is published without running a model: each image has 512 floats near those of three of
120 labels, drawn with a long tail. Then ``backfill_catalog`` brings it to a taxonomy in which the
20 rarest labels have other texts, from start to exit, through spark-submit on ``local[2]``; each
round begins with a copy of the same tables. ``stage_images_per_s`` is of the stage that scores
(reading, scoring, keeping), from Spark's event log. The loops read the same embeddings from
Parquet, make each row's tags with numpy and write Parquet, in one process: ``rows`` takes one
product of a row and all labels, ``labels`` one of a row and each label. The ratios' medians are the
result, the last line as JSON. Bundles have random weights; their label vectors are drawn, since an
untrained text tower gives nearly the same one for all.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from data_plane import DAY, make_session, write_manifest
from pyspark.sql import Column
from pyspark.sql import functions as F  # noqa: N812
from tag_throughput import Submitted, read_events, submit
from tqdm import tqdm

from pipeline.config import (
    AuditConfig,
    DecodeConfig,
    FetchConfig,
    ManifestConfig,
    ModelConfig,
    StageConfig,
    TablesConfig,
    TowersConfig,
)
from pipeline.models.bundle import Bundle, read_bundle, write_bundle, write_with_taxonomy
from pipeline.models.mumic import MuMIC
from pipeline.models.scoring import score
from pipeline.models.towers import load_towers
from pipeline.tables.schemas import OUTCOME
from pipeline.tagging.facts import Tagger
from pipeline.tagging.request import RunRequest
from pipeline.tagging.run import run_tagging
from pipeline.taxonomy import Taxonomy, parse_taxonomy
from udfs.settings import read_settings

LABELS, CHANGED = 120, 20
TRUE_LABELS = 3  # of an image
LEANING = 0.34  # towards each of them; their cosines come out near 0.3, of other labels near 0
TAU, CUT = 0.03, 0.2  # a score is at the threshold where the cosine is at the cut
THRESHOLD = 0.5
FLOOR = StageConfig().score_floor
SENT = "data sent to Python workers"
LOOP_ROWS = 20_000  # read at a time: what pandas holds of all would not fit everywhere


def taxonomy(*, revised: bool) -> Taxonomy:
    """The catalogue's taxonomy, or the one it is to be scored with."""
    labels = [
        {
            "id": f"label-{number}",
            "texts": [f"{'new ' * (revised and number >= LABELS - CHANGED)}{number}"],
        }
        for number in range(LABELS)
    ]
    task = {"id": "scene", "kind": "multi_label", "threshold": THRESHOLD, "labels": labels}
    return parse_taxonomy({"tasks": [task]})


def draw_label_embeddings(mumic: MuMIC, tokenizer: Any, wanted: Taxonomy) -> torch.Tensor:
    """Random vectors of length 1, [L, D]; the same for the same text."""
    del tokenizer
    size = mumic.clip.visual.output_dim
    seeds = [zlib.crc32(label.texts[0].encode()) for _, label in wanted.labels]
    drawn = [np.random.default_rng(seed).normal(size=size) for seed in seeds]
    return torch.from_numpy(
        np.stack([vector / np.linalg.norm(vector) for vector in drawn]).astype(np.float32)
    )


def write_models(folder: Path, architecture: str) -> tuple[Path, Path]:
    """Two bundles of one model, with a taxonomy each."""
    torch.manual_seed(0)
    towers = load_towers(TowersConfig(architecture=architecture))
    mumic = MuMIC(towers.model, tau=TAU, bias=-CUT / TAU)
    first, second = folder / "first", folder / "second"
    with patch("pipeline.models.bundle.embed_labels", draw_label_embeddings):
        bundle = write_bundle(
            first,
            mumic=mumic,
            towers=towers,
            taxonomy=taxonomy(revised=False),
            licence="Apache-2.0",
        )
        write_with_taxonomy(second, bundle=bundle, taxonomy=taxonomy(revised=True))
    return first, second


def make_vectors(bundle: Bundle) -> Callable[[pa.Array], pa.Array]:
    """From ids to embeddings, [B, D] float32 of length 1."""
    labels = bundle.label_embeddings
    frequency = 1.0 / np.arange(1, LABELS + 1)
    frequency /= frequency.sum()

    def vectors(ids: pa.Array) -> pa.Array:
        random = np.random.default_rng(zlib.crc32(str(ids[0]).encode()))
        count, size = len(ids), labels.shape[1]
        noise = random.normal(size=(count, size)) / math.sqrt(size)
        chosen = random.choice(LABELS, (count, TRUE_LABELS), p=frequency)
        drawn = noise + LEANING * labels[chosen].sum(axis=1)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        ends = np.arange(count + 1, dtype=np.int32) * size
        flat = pa.array(drawn.astype(np.float32).ravel())
        return pa.ListArray.from_arrays(pa.array(ends), flat)

    return vectors


def make_tagger(model: Path) -> Tagger:
    """The bundle's versions without its tower: vectors are drawn, tags are the first few labels'.

    Tags of the first taxonomy only have to be as many as an image has: the backfill makes new ones
    from the vectors.
    """
    settings, info = read_settings(ModelConfig(uri=str(model)), FetchConfig(), DecodeConfig())
    embed = F.arrow_udf(make_vectors(read_bundle(model)), "array<float>")

    def tag(image_id: Column, uri: Column, content: Column, text: Column) -> Column:
        del content, text
        first = F.pmod(F.xxhash64(image_id), F.lit(LABELS - TRUE_LABELS))
        tags = F.array(
            *(
                F.struct(
                    F.lit("scene").alias("task"),
                    F.concat(F.lit("label-"), (first + place).cast("string")).alias("label"),
                    F.lit(0.9 - place / 10).cast("float").alias("score"),
                    F.lit("image").alias("source"),
                )
                for place in range(TRUE_LABELS)
            )
        )
        said = {
            "content_sha256": F.sha2(uri, 256),
            "width": F.lit(1024),
            "height": F.lit(768),
            "tags": tags,
            "embedding": embed(image_id),
        }
        return F.struct(
            *(
                said.get(field.name, F.lit(None)).cast(field.dataType).alias(field.name)
                for field in OUTCOME.fields
            )
        )

    return Tagger(tag=tag, model_version=settings.model_version, taxonomy=info.taxonomy)


def publish_catalogue(folder: Path, model: Path, images: int, memory: str) -> None:
    """Tables of images with stored embeddings, and the embeddings alone for the loops."""
    spark = make_session(folder / "session", memory)
    request = RunRequest(
        job="tag_nightly",
        run_id="first",
        tables=TablesConfig(location=str(folder / "tables")),
        manifest=ManifestConfig(path=write_manifest(spark, folder / "manifest", images, version=1)),
        stage=StageConfig(chunk_rows=images),
        audit=AuditConfig(),
        as_of=DAY,
        slots=2,
    )
    summary = run_tagging(spark, request, make_tagger(model))
    assert (summary["state"], summary["tagged"]) == ("published", images), summary
    stored = spark.read.format("delta").load(str(folder / "tables" / "image_embeddings"))
    stored.select("image_id", "embedding").write.parquet(str(folder / "embeddings"))
    spark.stop()


def prepare(*arguments: Any) -> None:
    """:func:`publish_catalogue` in a process of its own, whose Java ends with it."""
    process = multiprocessing.get_context("spawn").Process(target=publish_catalogue, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit("the tables could not be prepared")


def backfill(folder: Path, tables: Path, model: Path) -> Submitted:
    """The job; its audit has nothing to compare drawn tags with."""
    lenient = ("rate_change=1", "score_change=1", "untagged_share=1")
    return submit(
        "backfill_catalog",
        folder,
        f"--tables.location={tables}",
        f"--model.uri={model}",
        *(f"--audit.max_{limit}" for limit in lenient),
    )


def scoring_seconds(event_log: Path) -> float:
    """Seconds from the start of the first to the end of the last task of stages that score."""
    sent: dict[int, int] = {}
    spans: dict[int, list[tuple[int, int]]] = {}
    for event in read_events(event_log):
        if event["Event"] != "SparkListenerTaskEnd":
            continue
        info, stage = event["Task Info"], event["Stage ID"]
        spans.setdefault(stage, []).append((info["Launch Time"], info["Finish Time"]))
        for told in info["Accumulables"]:
            if told.get("Name") == SENT:
                sent[stage] = sent.get(stage, 0) + int(told["Update"])
    most = max(sent.values())  # the preflight sends next to nothing
    scoring = [spans[stage] for stage, size in sent.items() if size > most / 100]
    return (
        sum(max(end for _, end in tasks) - min(begin for begin, _ in tasks) for tasks in scoring)
        / 1000
    )


def tags_of_row(scores: np.ndarray) -> list[dict[str, Any]]:
    """The tags of an image, as a loop makes them."""
    return [
        {"task": "scene", "label": f"label-{number}", "score": float(scores[number])}
        for number in np.flatnonzero(scores >= FLOOR)
    ]


def time_loop(bundle: Bundle, folder: Path, target: Path, rows: int, *, by_label: bool) -> float:
    """Images per second of a pandas loop over at most so many rows, from Parquet to Parquet."""
    labels, tau, bias = bundle.label_embeddings, bundle.info.tau, bundle.info.logit_bias
    done, writer = 0, None
    began = time.perf_counter()
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(LOOP_ROWS):
            frame = batch.to_pandas().head(rows - done)
            found = []
            for _, row in frame.iterrows():
                if by_label:
                    cosines = np.array([np.dot(row["embedding"], label) for label in labels])
                else:
                    cosines = labels @ row["embedding"]
                found.append(tags_of_row(1.0 / (1.0 + np.exp(-(cosines / tau + bias)))))
            table = pa.Table.from_pandas(pd.DataFrame({"image_id": frame.image_id, "tags": found}))
            writer = writer or pq.ParquetWriter(target, table.schema)
            writer.write_table(table)
            done += len(frame)
            if done >= rows:
                break
        if done >= rows:
            break
    if writer is not None:
        writer.close()
    return done / (time.perf_counter() - began)


def count_tags(bundle: Bundle, folder: Path) -> dict[str, float]:
    """Tags of an image that are staged (above the floor), and published (above the threshold)."""
    batch = next(pq.ParquetFile(next(folder.glob("*.parquet"))).iter_batches(LOOP_ROWS))
    vectors = np.stack(batch.column("embedding").to_numpy(zero_copy_only=False))
    scores = score(vectors, bundle.label_embeddings, bundle.info.tau, bundle.info.logit_bias)
    told = {"staged_tags": scores >= FLOOR, "published_tags": scores >= THRESHOLD}
    return {name: round(float(kept.sum(axis=1).mean()), 2) for name, kept in told.items()}


def main() -> None:
    """Prepares, runs job and loops in turns, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--loop_images", type=int, default=20_000, help="of a loop's turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--memory", default="8g", help="of Spark's driver while tables are made")
    asked = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in ("stage", "job", "rows", "labels")}
    with tempfile.TemporaryDirectory(prefix="rescore-") as name:
        folder = Path(name)
        first, second = write_models(folder, asked.architecture)
        bundle = read_bundle(second)
        prepare(folder, first, asked.images, asked.memory)
        for number in tqdm(range(asked.rounds), unit="round", file=sys.stderr):
            place = folder / f"round-{number}"
            shutil.copytree(folder / "tables", place / "tables")
            for kind in ("rows", "labels"):
                speed = time_loop(
                    bundle,
                    folder / "embeddings",
                    place / f"{kind}.parquet",
                    min(asked.images, asked.loop_images),
                    by_label=kind == "labels",
                )
                found[kind].append(speed)
            done = backfill(place, place / "tables", second)
            told = (done.summary["state"], done.summary["rescored"], done.summary["remaining"])
            assert told == ("published", asked.images, 0), done.summary
            found["stage"].append(asked.images / scoring_seconds(done.event_log))
            found["job"].append(asked.images / (done.ended - done.began))
            print({kind: round(one[-1]) for kind, one in found.items()}, file=sys.stderr)
            shutil.rmtree(place)
        tags = count_tags(bundle, folder / "embeddings")
    result = {
        "benchmark": "rescore",
        "images": asked.images,
        "rounds": asked.rounds,
        "labels": LABELS,
        "floats": int(bundle.info.embedding_size),
        **tags,
        "stage_images_per_s": round(statistics.median(found["stage"])),
        "job_images_per_s": round(statistics.median(found["job"])),
        "loop_images_per_s": {
            kind: round(statistics.median(found[kind])) for kind in ("rows", "labels")
        },
        "ratio": {
            kind: round(
                statistics.median(
                    mine / theirs for mine, theirs in zip(found["job"], found[kind], strict=True)
                ),
                3,
            )
            for kind in ("rows", "labels")
        },
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
