"""Images that crash, hang and fill their decoder, between good ones, under a Spark of this process.

Workers import this module: ``tests/fakes`` is on their path.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import poisoned_warden
from PIL import Image
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.images.loader import ImageRequest
from pipeline.images.reasons import Reason
from pipeline.synthetic import write_mutated
from udfs.settings import TaggerSettings, read_settings
from udfs.tag_image import make_tag_image
from udfs.worker import get_engine, load_engine

EXPECTED = {
    "crash": Reason.DECODER_CRASHED,
    "leave": Reason.DECODER_CRASHED,
    "babble": Reason.DECODER_CRASHED,
    "hang": Reason.DECODE_TIMEOUT,
    "hang_in_c": Reason.DECODE_TIMEOUT,
    "allocate": Reason.DECODE_MEMORY,
    "kill": Reason.OUT_OF_MEMORY,
}
COLUMNS = ("image_id", "uri", "content", "text")


def make_photo(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((90, 70)).save(buffer, "JPEG")
    return buffer.getvalue()


def on_cpu(device: str, addresses: Sequence[str]) -> str:
    return "cpu"


def load_poisoned(settings: TaggerSettings, device: str, *, folder: str) -> Any:
    """The engine, with decoders that do what files tell them; notes which process loaded it."""
    from pipeline.images import cage, warden

    warden._MODULE = "poisoned_warden"
    cage._close_warden()
    cage._warden = None
    with Path(folder, str(os.getpid())).open("a") as stream:
        stream.write("loaded\n")
    return load_engine(settings, device)


def assert_hostile_images_cost_themselves_alone(
    spark: SparkSession,
    bundle: Path,
    folder: Path,
    *,
    one_in: int = 1,
    timeout_s: float = 30.0,
    times: int = 1,
) -> None:
    """Tag them: every one fails for its reason, good ones are as without them, no model is lost.

    Args:
        spark: A session that retries no task.
        bundle: The model.
        folder: For files.
        one_in: So many of the mutated files are there, every other of them left out.
        timeout_s: After which a decoder hangs.
        times: How often; after the first time decoders were ended by every one before.
    """
    assert spark.conf.get("spark.master") == "local[2]"
    settings, _ = read_settings(
        ModelConfig(uri=str(bundle), batch_size=8),
        FetchConfig(),
        DecodeConfig(timeout_s=timeout_s, memory_mb=256),
    )
    photo = make_photo(0)
    rows: list[tuple[str, str | None, bytes | None, None]] = []
    for number, path in enumerate(write_mutated(folder / "mutated", every=one_in)):
        rows.append((f"mutant {path.name}", str(path), None, None))
        if number % 3 == 0:
            rows.append((f"good {number}", None, make_photo(number), None))
    spread = max(1, len(rows) // len(EXPECTED))
    for number, deed in enumerate(EXPECTED):
        rows.insert(spread * number, (deed, None, poisoned_warden.poison(photo, deed), None))
    loads = folder / "loads"
    loads.mkdir()
    engine_of = partial(get_engine, choose=on_cpu, load=partial(load_poisoned, folder=str(loads)))
    tag_image = make_tag_image(settings, engine_of=engine_of)
    schema = "image_id string, uri string, content binary, text string"
    images = spark.createDataFrame(rows, schema).repartition(4)

    for _ in range(times):
        outcome = tag_image(*(F.col(name) for name in COLUMNS))
        found = images.select("image_id", outcome.alias("outcome")).collect()

        assert sorted(row.image_id for row in found) == sorted(row[0] for row in rows)
        by_id = {row.image_id: row.outcome for row in found}
        assert {deed: by_id[deed].reason for deed in EXPECTED} == EXPECTED
        assert all((one.reason is None) == (one.embedding is not None) for one in by_id.values())

    # Each worker loaded its model once, and lost it to nothing.
    assert all(path.read_text() == "loaded\n" for path in loads.iterdir())
    assert 1 <= len(list(loads.iterdir())) <= 2
    engine = load_engine(settings, "cpu")
    good = [ImageRequest(*row) for row in rows if row[0].startswith("good")]
    for alone in engine.run(good):
        assert alone.embedding is not None
        np.testing.assert_allclose(by_id[alone.key].embedding, alone.embedding, atol=1e-5)
