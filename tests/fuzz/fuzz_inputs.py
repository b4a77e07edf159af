"""Inputs of strangers under a fuzzer: whatever stands in them, only expected errors are raised.

    make fuzz                                             ten minutes over all targets
    tests/fuzz/fuzz_inputs.py TARGET -max_total_time=60   one, with libFuzzer's options

``taxonomy`` and ``bundle`` are fed as files, ``uris`` to all that reads addresses, ``rows`` as a
labelled manifest whose images are then loaded, ``manifest`` as a night's manifest to Spark, its
bytes damaged at times. A crash leaves its input in a file that the same
command replays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import atheris
import pyarrow as pa
import pyarrow.parquet as pq
from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

from demo.nights import FEW_ROWS

with atheris.instrument_imports(include=["pipeline", "yaml"]):
    from pipeline.config import (
        ColumnsConfig,
        DecodeConfig,
        FetchConfig,
        LabelledManifestConfig,
        ManifestConfig,
    )
    from pipeline.errors import PipelineError
    from pipeline.images.fetch import Fetcher
    from pipeline.images.loader import ImageLoader, ImageRequest
    from pipeline.images.places import parse_place, parse_web_place
    from pipeline.images.preprocess import Preprocessing
    from pipeline.images.reasons import Failure, UnusableImageError
    from pipeline.images.web import _follow
    from pipeline.models.bundle_info import (
        INFO_NAME,
        LABEL_EMBEDDINGS_NAME,
        TAXONOMY_NAME,
        WEIGHTS_NAME,
        model_version,
        read_bundle_info,
        serialise_info,
    )
    from pipeline.redaction import redact
    from pipeline.tagging.manifest import manifest_errors, read_manifest
    from pipeline.taxonomy import parse_taxonomy, read_taxonomy
    from pipeline.training.data import read_labelled

FOLDER = Path(
    tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
)
FETCH = FetchConfig(attempts=1, allowed_roots=("/nowhere",))
TAXONOMY = parse_taxonomy(
    {"tasks": [{"id": "t", "kind": "multi_label", "labels": [{"id": "a"}, {"id": "b"}]}]}
)
GOOD_INFO: dict[str, Any] = {
    "format": 1,
    "kind": "mumic",
    "architecture": {"embed_dim": 4},
    "preprocessing": {"size": 32, "mean": [0.5, 0.5, 0.5], "resize_mode": "shortest"},
    "tokenizer": {"kind": "simple", "context_length": 77},
    "logit_scale": 14.3,
    "logit_bias": 0.0,
    "embedding_size": 4,
    "licence": "MIT",
    "training": None,
    "product_version": "0.1.0",
    "libraries": {},
}


def fuzz_taxonomy(data: bytes) -> None:
    """A file of any bytes."""
    path = FOLDER / TAXONOMY_NAME
    path.write_bytes(data)
    try:
        taxonomy = read_taxonomy(path)
    except PipelineError:
        return
    # What was taken can be used: its digest made, its file written and read again.
    assert parse_taxonomy(taxonomy.to_dict()).version == taxonomy.version


def make_value(source: atheris.FuzzedDataProvider, depth: int = 0) -> Any:
    """Anything JSON can hold."""
    kind = source.ConsumeIntInRange(0, 7 if depth < 4 else 5)
    if kind == 0:
        return None
    if kind == 1:
        return source.ConsumeBool()
    if kind == 2:
        return source.ConsumeInt(8)
    if kind == 3:
        return source.ConsumeFloat()
    if kind == 4:
        return source.ConsumeUnicode(20)
    if kind == 5:
        return 10 ** source.ConsumeIntInRange(0, 400)
    count = source.ConsumeIntInRange(0, 4)
    if kind == 6:
        return [make_value(source, depth + 1) for _ in range(count)]
    return {source.ConsumeUnicode(8): make_value(source, depth + 1) for _ in range(count)}


def fuzz_bundle(data: bytes) -> None:
    """Any bytes as ``bundle.json``, or a bundle whose hashes are right and whose values are not."""
    source = atheris.FuzzedDataProvider(data)
    if source.ConsumeBool():
        content = source.ConsumeBytes(len(data))
    else:
        fields = dict(GOOD_INFO)
        files = {
            WEIGHTS_NAME: b"w",
            LABEL_EMBEDDINGS_NAME: b"l",
            TAXONOMY_NAME: json.dumps(TAXONOMY.to_dict()).encode(),
        }
        for _ in range(source.ConsumeIntInRange(0, 3)):
            name = source.PickValueInList([*GOOD_INFO, "files"])
            fields[name] = make_value(source)
            if name == "preprocessing" and source.ConsumeBool():
                key = source.PickValueInList(["size", "mean", "std", "mode", "fill_color"])
                fields[name] = {**GOOD_INFO[name], key: make_value(source)}
        for name, content in files.items():
            (FOLDER / name).write_bytes(content)
        listed = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        }
        try:
            content = serialise_info({"files": listed, **fields})
        except (ValueError, RecursionError):  # no product writes NaN
            return
    (FOLDER / INFO_NAME).write_bytes(content)
    try:
        info = read_bundle_info(FOLDER)
    except PipelineError:
        return
    model_version(info, precision="fp32", scaled_decoding=True)


HERE = parse_web_place("https://host/folder/a.jpg")
PREFIXES = ["", "http://", "https://u:p@h", "file:", "file://", "s3://b/", "hdfs://", "gs://", "//"]


def no_store(*_: object) -> Any:
    """Instead of the clients of object stores: the fuzzer asks nobody."""
    raise FileNotFoundError("no such store")


FETCHERS = (
    Fetcher(FETCH, no_store),
    Fetcher(FetchConfig(attempts=1, allowed_roots=("/nowhere", "s3://b", "gs://b")), no_store),
)


def fuzz_uris(data: bytes) -> None:
    """Addresses of images. No host is allowed, and no file is there."""
    source = atheris.FuzzedDataProvider(data)
    uri = source.PickValueInList(PREFIXES) + source.ConsumeUnicode(200)
    try:
        repr(parse_place(uri))
    except UnusableImageError as error:
        error.failure.detail.encode()
    for fetcher in FETCHERS:
        outcome = fetcher.fetch(uri)
        assert isinstance(outcome, Failure), uri
        outcome.detail.encode()
    with contextlib.suppress(UnusableImageError):
        repr(_follow(HERE, uri))
    check_redaction(source, uri)


def check_redaction(source: atheris.FuzzedDataProvider, uri: str) -> None:
    """A secret in the user info, query or fragment of whatever address is not shown.

    An address ends at a quote or a space, and the password begins after its first colon.
    """
    text = re.sub(r"[\s\"]", "", source.ConsumeUnicode(40))
    name, path = re.sub(r"[/?#:@\[]", "", text), re.sub(r"[?#]", "", text)
    secrets = [
        f"https://name:hunter2@host/{uri}",
        f"s3://{name}:hunter2{path}@bucket/x",
        f"//{name}:hunter2@cdn/{path}",
        f"https:/host/{path}?{text}=hunter2&{text}",
        f"https://host/{path}#hunter2{text}",
        f"https://host/{path} {path}.jpg?sig=hunter2{text}",
    ]
    for secret in secrets:
        assert "hunter2" not in redact(f"at {secret}, twice: {secret}"), secret


ROWS = LabelledManifestConfig(path=str(FOLDER / "rows.parquet"))
ROLES = ("image_id", "uri", "content", "labels", "unknown", "split")
KINDS = [
    pa.string(),
    pa.int64(),
    pa.binary(),
    pa.list_(pa.string()),
    pa.list_(pa.int32()),
    pa.float64(),
]


def make_cell(source: atheris.FuzzedDataProvider, kind: pa.DataType) -> Any:
    """A value of an Arrow type, or null."""
    if source.ConsumeIntInRange(0, 9) == 0:
        return None
    if pa.types.is_list(kind):
        count = source.ConsumeIntInRange(0, 3)
        return [make_cell(source, kind.value_type) for _ in range(count)]
    if pa.types.is_string(kind):
        told = source.PickValueInList(["train", "test", "validation", "a", "b", ""])
        return told if source.ConsumeBool() else source.ConsumeUnicodeNoSurrogates(12)
    if pa.types.is_binary(kind):
        return source.ConsumeBytes(source.ConsumeIntInRange(0, 60))
    if pa.types.is_struct(kind):
        return {field.name: make_cell(source, field.type) for field in kind}
    if pa.types.is_boolean(kind):
        return source.ConsumeBool()
    if pa.types.is_temporal(kind):
        return source.ConsumeInt(3)
    return source.ConsumeInt(4) if pa.types.is_integer(kind) else source.ConsumeFloat()


def fuzz_rows(data: bytes) -> None:
    """A manifest of any columns, types and values; then its images, loaded."""
    source = atheris.FuzzedDataProvider(data)
    usual = dict(
        zip(ROLES, (KINDS[0], KINDS[0], KINDS[2], KINDS[3], KINDS[3], KINDS[0]), strict=True)
    )
    rows = source.ConsumeIntInRange(0, 6)
    columns = {}
    for role in ROLES:
        if source.ConsumeIntInRange(0, 7) == 0:
            continue
        kind = usual[role] if source.ConsumeIntInRange(0, 5) else source.PickValueInList(KINDS)
        columns[role] = pa.array([make_cell(source, kind) for _ in range(rows)], kind)
    pq.write_table(pa.table(columns), ROWS.path)
    try:
        images = read_labelled(ROWS, TAXONOMY)
        requests = list(images.requests(range(len(images.ids))))
    except PipelineError:
        return
    assert [request.key for request in requests] == list(images.ids)
    config = DecodeConfig(threads=1, cage=False, max_pixels=10_000)
    requests.append(ImageRequest("no image", source.ConsumeUnicode(40), None))
    with ImageLoader(FETCH, config, Preprocessing(size=8), scaled_decoding=True) as loader:
        assert [request for request, _ in loader.load(requests)] == requests


NIGHT = ManifestConfig(
    path=str(FOLDER / "night.parquet"), columns=ColumnsConfig(text="text", version="version")
)
COLUMNS = ("image_id", "uri", "content", "text", "version", "deleted")
OTHERS = [pa.bool_(), pa.timestamp("us", "UTC"), pa.date32(), pa.struct({"a": KINDS[0]})]
USUAL = (KINDS[0], KINDS[0], KINDS[2], KINDS[0], KINDS[0], pa.bool_())


@cache
def open_spark() -> Any:
    """A session in which a query over a few rows takes a moment."""
    builder = SparkSession.builder.appName("fuzz").master("local[1]")
    quiet = ("spark.ui.showConsoleProgress=false", "spark.sql.session.timeZone=UTC")
    for setting in (*FEW_ROWS, *quiet):
        builder = builder.config(*setting.split("=", 1))
    session = configure_spark_with_delta_pip(builder).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return session


def damage(source: atheris.FuzzedDataProvider, content: bytes) -> bytes:
    """A byte flipped here and there, or the end cut off."""
    damaged = bytearray(content)
    for _ in range(source.ConsumeIntInRange(1, 4)):
        damaged[source.ConsumeIntInRange(0, len(damaged) - 1)] ^= source.ConsumeIntInRange(1, 255)
    if source.ConsumeBool():
        del damaged[source.ConsumeIntInRange(0, len(damaged) - 1) :]
    return bytes(damaged)


def fuzz_manifest(data: bytes) -> None:
    """A night's manifest of any columns, types and values, as Spark reads it."""
    source = atheris.FuzzedDataProvider(data)
    rows = source.ConsumeIntInRange(0, 5)
    columns = {}
    for role, usual in zip(COLUMNS, USUAL, strict=True):
        if source.ConsumeIntInRange(0, 7) == 0:
            continue
        kind = usual if source.ConsumeIntInRange(0, 5) else source.PickValueInList(KINDS + OTHERS)
        columns[role] = pa.array([make_cell(source, kind) for _ in range(rows)], kind)
    pq.write_table(pa.table(columns), NIGHT.path)
    damaged = source.ConsumeIntInRange(0, 3) == 0
    if damaged:
        Path(NIGHT.path).write_bytes(damage(source, Path(NIGHT.path).read_bytes()))
    try:
        with manifest_errors(NIGHT):
            found = read_manifest(open_spark(), NIGHT).rows.collect()
    except PipelineError as error:
        str(error).encode()
        return
    ids = [row["image_id"] for row in found]
    assert len(set(ids)) == len(ids)
    if not damaged:
        assert set(ids) == {str(one) for one in columns["image_id"].to_pylist()}


TARGETS: dict[str, Callable[[bytes], None]] = {
    "taxonomy": fuzz_taxonomy,
    "bundle": fuzz_bundle,
    "uris": fuzz_uris,
    "rows": fuzz_rows,
    "manifest": fuzz_manifest,
}

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
