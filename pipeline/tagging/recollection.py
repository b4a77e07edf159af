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

from pipeline.tables.ledger import Ledger, Run
from pipeline.tables.schemas import IMAGE_EMBEDDINGS, KNOWN, TAGGING_RUNS
from pipeline.tables.store import TableSet
from pipeline.tagging.facts import staged_facts

log = logging.getLogger(__name__)

# Vectors are read by scanning their table: beyond so much of it for each image that may be the
# same, decoding and encoding the image is cheaper (a tenth of a second of a core).
MOST_BYTES_PER_IMAGE = 16 * 1024 * 1024
# Of a feed whose versions followed the bytes: looked at again where it costs so little.
LEAST_SHARE = 1 / 64
_LAST_RUNS = 10  # a run of a few images says little


def pays_off(tables: TableSet, ledger: Ledger, known: int, *, model_version: str) -> bool:
    """Whether reading the stored embeddings costs less than looking at so many images again.

    Args:
        tables: The table set.
        ledger: Its runs: as many images are expected to be the same as were in the last ones.
        known: Images of which a result of the model stands.
        model_version: The model.
    """
    if known == 0:
        return False
    size = tables.size_bytes(IMAGE_EMBEDDINGS.name)
    same = known * max(_share_of_last_runs(ledger, model_version), LEAST_SHARE)
    if size <= same * MOST_BYTES_PER_IMAGE:
        return True
    log.info("%d images known before are too few to read %d bytes of embeddings for", known, size)
    return False


def _share_of_last_runs(ledger: Ledger, model_version: str) -> float:
    """Of the images known before, the share that had the same bytes; 1 before any was looked at."""
    runs = [run for run in ledger.in_state("published") if run.model_version == model_version]
    told = [run.counts for run in runs if run.counts.get("known", 0)][-_LAST_RUNS:]
    known = sum(counts["known"] for counts in told)
    return sum(counts.get("recalled", 0) for counts in told) / known if known else 1.0


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
    """How many images of the plan were known and looked at, and had the same bytes still.

    Those of the latter whose vector was found stored needed no model.
    """
    told = plan.where(F.col("known").isNotNull()).select(
        "image_id", F.col("known.content_sha256").alias("known_sha256")
    )
    looked = staged_facts(tables, run).where(F.col("origin") == "model")
    same = F.when(F.col("content_sha256") == F.col("known_sha256"), F.col("image_id"))
    known, recalled = (
        looked.join(told, "image_id").agg(F.count_distinct("image_id"), F.count_distinct(same))
    ).collect()[0]
    log.info("run %s: %d of %d images had the bytes known before", run.run_id, recalled, known)
    return {"known": known, "recalled": recalled}
