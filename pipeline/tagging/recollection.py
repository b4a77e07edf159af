"""What earlier runs of the model made of images that are to be tagged: for bytes that are the same.

A feed that names another version may mean the same bytes: an update time was touched. Only who
fetches them can tell. So the rows to tag carry the result that stands, as long as it is of the same
model, and the tagging UDF answers from it where the hash is the same: it looked, and needed no
model. Known limit: an image that is known under another image_id alone is looked for by nobody.
"""

from __future__ import annotations

import logging

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812

from pipeline.tables.ledger import Run
from pipeline.tables.schemas import IMAGE_EMBEDDINGS, KNOWN, TAGGING_RUNS
from pipeline.tables.store import TableSet
from pipeline.tagging.facts import staged_facts

log = logging.getLogger(__name__)

# Vectors are read by scanning their table: beyond so much of it for each image that may be the
# same, decoding and encoding the image is cheaper (a tenth of a second of a core).
MOST_BYTES_PER_IMAGE = 16 * 1024 * 1024


def pays_off(tables: TableSet, known: int) -> bool:
    """Whether reading the stored embeddings costs less than looking at so many images again."""
    if known == 0:
        return False
    (detail,) = tables.delta(IMAGE_EMBEDDINGS.name).detail().select("sizeInBytes").collect()
    size: int = detail["sizeInBytes"]
    if size <= known * MOST_BYTES_PER_IMAGE:
        return True
    log.info("%d images known before are too few to read %d bytes of embeddings for", known, size)
    return False


def with_known(rows: DataFrame, tables: TableSet, *, model_version: str) -> DataFrame:
    """Rows to tag, with what the tagging UDF may be told of them.

    Args:
        rows: With the struct known of :func:`pipeline.tagging.selection.plan_actions`.
        tables: The table set.
        model_version: The model.

    Returns:
        The rows; known is ``KNOWN`` now, null where nothing is.
    """
    key = ["image_id", "image_version"]
    told = rows.where(F.col("known").isNotNull()).select("image_id", "known.*")
    vectors = tables.read(IMAGE_EMBEDDINGS.name).where(F.col("model_version") == model_version)
    # While another run is being published, its vectors stand already, and images tells of others.
    runs = tables.read(TAGGING_RUNS.name).where(F.col("run_seq").isNotNull())
    made = F.broadcast(runs.select("run_id", F.col("run_seq").alias("made_seq")).distinct())
    found = (
        vectors.select(*key, "run_id", "embedding")
        .join(told, key)
        .join(made, "run_id")
        .where(F.col("made_seq") <= F.col("embedding_seq"))
        .select("image_id", F.struct(*KNOWN.names).alias("known"))
    )
    return rows.drop("known").join(found, "image_id", "left")


def count_recalled(tables: TableSet, run: Run, plan: DataFrame) -> dict[str, int]:
    """How many images of the plan the run looked at and found the bytes of the result before."""
    told = plan.where(F.col("known").isNotNull()).select(
        "image_id", F.col("known.content_sha256").alias("known_sha256")
    )
    looked = staged_facts(tables, run).where(F.col("origin") == "model")
    same = looked.join(told, "image_id").where(F.col("content_sha256") == F.col("known_sha256"))
    recalled = same.select("image_id").distinct().count()
    log.info("run %s: %d images had the bytes known before: no model", run.run_id, recalled)
    return {"recalled": recalled}
