"""The columns of every table, and of what the tagging UDF returns. All times are UTC.

Statistics are kept of the columns that queries and MERGE find files by, and of no others: those of
every column make a third of the cost of writing tags.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DataType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

SCHEMA_VERSION = 2

_STRING, _LONG, _INT, _FLOAT = StringType(), LongType(), IntegerType(), FloatType()
_BOOL, _TIME = BooleanType(), TimestampType()

TAGS = ArrayType(
    StructType(
        [
            StructField("task", _STRING),
            StructField("label", _STRING),
            StructField("score", _FLOAT),
            StructField("source", _STRING),
        ]
    )
)
EMBEDDING = ArrayType(_FLOAT)
MODALITY_WEIGHTS = MapType(_STRING, MapType(_STRING, _FLOAT))

OUTCOME = StructType(
    [
        StructField("reason", _STRING),
        StructField("detail", _STRING),
        StructField("retriable", _BOOL),
        StructField("content_sha256", _STRING),
        StructField("width", _INT),
        StructField("height", _INT),
        StructField("tags", TAGS),
        StructField("modality_weights", MODALITY_WEIGHTS),
        StructField("text_cut", _BOOL),
        StructField("embedding", EMBEDDING),
    ]
)
"""What the tagging UDF says of one image. ``reason`` is null where the image was tagged."""


KNOWN = StructType(
    [
        StructField("content_sha256", _STRING),
        StructField("width", _INT),
        StructField("height", _INT),
        StructField("embedding", EMBEDDING),
    ]
)
"""What the tagging UDF may be told of an image: what its model made of which bytes."""


def _column(name: str, kind: DataType, comment: str, *, required: bool = False) -> StructField:
    return StructField(name, kind, nullable=not required, metadata={"comment": comment})


@dataclass(frozen=True, kw_only=True)
class TableDefinition:
    """One table: its columns and how it is created.

    Attributes:
        name: Also the name of its folder.
        comment: What one row is.
        columns: With a comment each.
        key: Columns that identify a row; empty for append-only tables.
        partitioned_by: Partition columns.
        checks: CHECK constraints by name.
        found_by: Columns whose statistics let readers skip files; empty: as Delta sees fit.
        change_data_feed: Whether consumers can read what changed.
    """

    name: str
    comment: str
    columns: StructType
    key: tuple[str, ...] = ()
    partitioned_by: tuple[str, ...] = ()
    checks: dict[str, str] = field(default_factory=dict)
    found_by: tuple[str, ...] = ()
    change_data_feed: bool = False


_RUN_ID = _column("run_id", _STRING, "run that wrote the result", required=True)
_MODEL = _column("model_version", _STRING, "digest of weights, preprocessing and precision")
_TAXONOMY = _column("taxonomy_version", _STRING, "digest of labels, texts and thresholds")
_SHA = _column("content_sha256", _STRING, "of the fetched bytes, hex")
_WIDTH = _column("width", _INT, "pixels, as displayed")
_HEIGHT = _column("height", _INT, "pixels, as displayed")
_URI = _column("uri", _STRING, "without user info, query and fragment")
_REASON = _column("reason", _STRING, "why the last try failed; null: it did not")
_DETAIL = _column("detail", _STRING, "the reason in words")
_RETRIABLE = _column("retriable", _BOOL, "whether another try can help")
_REFETCHABLE = _column(
    "refetchable", _BOOL, "whether the uri alone finds the image: nothing was cut"
)
_EMBEDDING_SEQ = _column("embedding_seq", _LONG, "order of the run that published the embedding")

IMAGES = TableDefinition(
    name="images",
    comment="The current state of an image",
    columns=StructType(
        [
            _column("image_id", _STRING, "the catalogue's key", required=True),
            _column("source", _STRING, "feed that named the image last", required=True),
            _column("status", _STRING, "tagged, failed, deleted or erased", required=True),
            _column("image_version", _STRING, "null where the image is gone"),
            _column("as_of", _TIME, "latest moment this version was asserted", required=True),
            _column("as_of_seq", _LONG, "run_seq of the run that asserted it", required=True),
            _MODEL,
            _TAXONOMY,
            _column("run_id", _STRING, "run that made the result; null without one"),
            _column("run_seq", _LONG, "order of that run; null without a result"),
            _column("tagged_at", _TIME, "when the model looked at the image"),
            _SHA,
            _WIDTH,
            _HEIGHT,
            _URI,
            _REASON,
            _DETAIL,
            _RETRIABLE,
            _column("attempts", _INT, "runs in a row that failed at this version", required=True),
            _column("failed_model_version", _STRING, "model of the run that failed last"),
            _column("failed_run_seq", _LONG, "order of the run that failed last"),
            _column("first_failed_as_of", _TIME, "as_of of the first failure in the row"),
            _column("last_failed_as_of", _TIME, "as_of of the last failure"),
            _REFETCHABLE,
            _EMBEDDING_SEQ,
        ]
    ),
    key=("image_id",),
    checks={
        "known_status": "status IN ('tagged', 'failed', 'deleted', 'erased')",
        "failed_has_reason": "status <> 'failed' OR reason IS NOT NULL",
        "tagged_has_run": "status <> 'tagged' OR run_seq IS NOT NULL",
        "tagged_has_model": "status <> 'tagged' OR model_version IS NOT NULL",
    },
    found_by=("image_id", "status", "as_of", "run_id", "tagged_at"),
    change_data_feed=True,
)

IMAGE_TAGS = TableDefinition(
    name="image_tags",
    comment="A published tag of an image",
    columns=StructType(
        [
            _column("image_id", _STRING, "the catalogue's key", required=True),
            _column("task", _STRING, "task of the taxonomy", required=True),
            _column("label", _STRING, "label id", required=True),
            _column("score", _FLOAT, "probability, 0 to 1", required=True),
            _column("source", _STRING, "image, text or both", required=True),
            _column("image_version", _STRING, "version the tag speaks of", required=True),
            _MODEL,
            _TAXONOMY,
            _RUN_ID,
        ]
    ),
    key=("image_id", "task", "label"),
    checks={"score_range": "score >= 0 AND score <= 1"},
    found_by=("image_id", "label", "run_id"),
    change_data_feed=True,
)

IMAGE_EMBEDDINGS = TableDefinition(
    name="image_embeddings",
    comment="The embedding of an image: L2-normalised, joint space of the model",
    columns=StructType(
        [
            _column("image_id", _STRING, "the catalogue's key", required=True),
            _column("image_version", _STRING, "version the vector speaks of", required=True),
            _column("model_version", _STRING, "compare equal ones only", required=True),
            _RUN_ID,
            _column("embedding", EMBEDDING, "float32, unit length", required=True),
        ]
    ),
    key=("image_id",),
    found_by=("image_id",),
)

TAGGING_RESULTS = TableDefinition(
    name="tagging_results",
    comment="A staged fact: what one model and taxonomy make of one version of one image",
    columns=StructType(
        [
            _RUN_ID,
            _column("image_id", _STRING, "the catalogue's key", required=True),
            _column("source", _STRING, "feed that named the image", required=True),
            _column("status", _STRING, "tagged, failed or deleted", required=True),
            _column(
                "origin", _STRING, "model, reused, embedding, scores or manifest", required=True
            ),
            _column("image_version", _STRING, "null for a deletion"),
            _column("as_of", _TIME, "moment this version was asserted", required=True),
            _column("as_of_seq", _LONG, "run_seq of the run that asserted it; null: this run"),
            _column("run_as_of", _TIME, "moment the run speaks for; null: as_of"),
            _column("run_seq", _LONG, "order of the run", required=True),
            _EMBEDDING_SEQ,
            _MODEL,
            _TAXONOMY,
            _column("tagged_at", _TIME, "when the model looked at the image"),
            _SHA,
            _WIDTH,
            _HEIGHT,
            _URI,
            _REFETCHABLE,
            _REASON,
            _DETAIL,
            _RETRIABLE,
            _column("tags", TAGS, "every score down to the floor, best first"),
            _column("modality_weights", MODALITY_WEIGHTS, "task to modality to weight"),
            _column("text_cut", _BOOL, "whether the text was longer than the model reads"),
            _column("embedding", EMBEDDING, "float32, unit length"),
        ]
    ),
    partitioned_by=("run_id",),
    checks={
        "known_status": "status IN ('tagged', 'failed', 'deleted')",
        "failed_has_reason": "status <> 'failed' OR reason IS NOT NULL",
        "tagged_has_embedding": "status <> 'tagged' OR embedding IS NOT NULL",
    },
    found_by=("image_id", "status", "model_version", "taxonomy_version"),
)

TAGGING_RUNS = TableDefinition(
    name="tagging_runs",
    comment="A change of state of a run; append-only",
    columns=StructType(
        [
            _column("run_id", _STRING, "name of the run", required=True),
            _column("run_seq", _LONG, "order of the run: version of its first commit here"),
            _column("change", _INT, "1 for the run's first row, then counted", required=True),
            _column("job", _STRING, "job that made the run", required=True),
            _column("state", _STRING, "started, staged, held, publishing, ...", required=True),
            _column("as_of", _TIME, "moment of the catalogue", required=True),
            _column("manifest_digest", _STRING, "of the manifest's rows, in any order"),
            _column("config", _STRING, "resolved configuration without secrets, JSON"),
            _column("counts", MapType(_STRING, _LONG), "images by outcome"),
            _MODEL,
            _TAXONOMY,
            _column(
                "table_versions",
                MapType(_STRING, _LONG),
                "tables after publishing; while publishing: before it",
            ),
            _column("timings", MapType(_STRING, DoubleType()), "seconds by step"),
            _column("product_version", _STRING, "version of this software", required=True),
            _column("detail", _STRING, "why a run failed"),
            _column("backfill_id", _STRING, "the backfill the run is part of; null: none"),
            _column("audit", _STRING, "what the audit saw, JSON"),
            _column("at", _TIME, "when the row was written", required=True),
        ]
    ),
    checks={
        "known_state": (
            "state IN ('started', 'staged', 'held', 'publishing', 'published',"
            " 'failed', 'discarded')"
        )
    },
)

LABELS = TableDefinition(
    name="labels",
    comment="A label of a taxonomy that was used",
    columns=StructType(
        [
            _column("taxonomy_version", _STRING, "digest of the taxonomy", required=True),
            _column("task", _STRING, "task of the taxonomy", required=True),
            _column("kind", _STRING, "multi_label or single_label", required=True),
            _column("label", _STRING, "label id", required=True),
            _column("name", _STRING, "name for people", required=True),
            _column("texts", ArrayType(_STRING), "what the text tower reads", required=True),
            _column("threshold", _FLOAT, "least score of a published tag", required=True),
        ]
    ),
    key=("taxonomy_version", "task", "label"),
)

TABLES = (IMAGES, IMAGE_TAGS, IMAGE_EMBEDDINGS, TAGGING_RESULTS, TAGGING_RUNS, LABELS)
