"""Reading a manifest: its columns checked, its rows brought into one form, one row for each id.

Canonical columns: image_id, uri, content, text, image_version, clean_uri, deleted, contradicted.
``uri`` is what is fetched; ``clean_uri`` is what may be kept: no user info, query or fragment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.types import (
    BinaryType,
    BooleanType,
    DataType,
    DateType,
    IntegralType,
    StringType,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from pipeline.config import ColumnsConfig, ManifestConfig
from pipeline.errors import ManifestError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS: tuple[type[DataType], ...] = (StringType, IntegralType)
_TYPES: dict[str, tuple[type[DataType], ...]] = {
    "image_id": _KEYS,
    "uri": (StringType,),
    "content": (BinaryType,),
    "text": (StringType,),
    "version": (StringType, IntegralType, TimestampType, TimestampNTZType, DateType),
    "deleted": (BooleanType,),
}
# Also what only nearly is a URI: its query may hold a signature all the same.
_URI = r"^\s*(?:[A-Za-z][A-Za-z0-9+.\-]*:/|//)"
# A password may hold slashes; after the colon of a port they begin the path.
_USER_INFO = (
    r"^(\s*(?:(?!file:)[A-Za-z][A-Za-z0-9+.\-]*:/*)?/{1,2})"
    r"(?:[^/?#]*@|[^/?#:\[]*:(?!\d{2,5}(?:[/?#]|$))[\s\S]*@)"
)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that was read and checked.

    Attributes:
        rows: Canonical rows, one for each image_id.
        as_of: The moment it speaks for unless the scheduler says otherwise, UTC.
        digest: Tells it from other manifests, whatever the order of rows and files.
        n_rows: How many rows there are.
    """

    rows: DataFrame
    as_of: datetime
    digest: str
    n_rows: int


def read_manifest(spark: SparkSession, config: ManifestConfig) -> Manifest:
    """Read, check and normalise a manifest.

    Raises:
        ManifestError: It does not exist, lacks a column, has one of a wrong type, or has rows
            without an id.
    """
    with manifest_errors(config):
        raw, as_of = _read(spark, config)
        columns = resolve_columns(raw.schema, config)
        rows = canonical_rows(raw, columns)
        seen = look_over(rows)
        if seen.without_id:
            _refuse_missing_ids(raw, columns["image_id"], seen.without_id, where=config.path)
        if seen.repeats:
            rows = unique_rows(rows)
            seen = look_over(rows)
        else:
            rows = rows.withColumn("contradicted", F.lit(False))
        return Manifest(rows=rows, as_of=as_of, digest=seen.digest, n_rows=seen.rows)


def resolve_columns(schema: StructType, config: ManifestConfig) -> dict[str, str]:
    """The manifest's column for each of our names, where it has one.

    Raises:
        ManifestError: A column is missing or has a wrong type.
    """
    found: dict[str, str] = {}
    wanted: ColumnsConfig = config.columns
    for ours in _TYPES:
        named: str | None = getattr(wanted, ours)
        if named is None and ours == "text":
            continue  # A changed text would be a changed image: only where it is asked for.
        theirs = named or ours
        if theirs in schema.names:
            found[ours] = theirs
        elif named is not None:
            raise ManifestError(
                f"the manifest has no column {theirs!r}",
                where=config.path,
                expected=f"a column for {ours}",
                got=", ".join(schema.names) or "no columns",
                todo=f"name the column with --manifest.columns.{ours}",
            )
    if "uri" not in found and "content" not in found:
        raise ManifestError(
            "the manifest says nowhere where its images are",
            where=config.path,
            expected="a column uri (string) or content (binary)",
            got=", ".join(schema.names),
            todo="name one with --manifest.columns.uri or --manifest.columns.content",
        )
    for ours, theirs in found.items():
        kind = schema[theirs].dataType
        if not isinstance(kind, _TYPES[ours]):
            names = " or ".join(allowed.__name__.removesuffix("Type") for allowed in _TYPES[ours])
            raise ManifestError(
                f"column {theirs!r} has a wrong type",
                where=config.path,
                expected=names.lower(),
                got=kind.simpleString(),
                todo=f"convert it, or name another with --manifest.columns.{ours}",
            )
    return found


def _refuse_missing_ids(raw: DataFrame, image_id: str, without_id: int, *, where: str) -> None:
    """Say how many rows have no id, and show some of them."""
    broken = raw.where(_is_missing(_quoted(image_id)))
    others = [name for name in raw.columns if name != image_id][:3]
    example = F.to_json(
        F.struct(*(F.substring(clean(_quoted(o).cast("string")), 1, 60).alias(o) for o in others))
    )
    rows = broken.select((example if others else F.lit("{}")).alias("example")).limit(3).collect()
    raise ManifestError(
        f"{without_id} manifest rows have no {image_id}",
        where=where,
        expected="a non-empty id in every row",
        got="rows such as " + ", ".join(row["example"] for row in rows),
        todo="mend the feed: without an id a result has no place",
    )


def canonical_rows(raw: DataFrame, columns: dict[str, str]) -> DataFrame:
    """Bring rows into our columns; ``image_version`` says when an image is another picture."""

    def ours(name: str, kind: str) -> Column:
        if name not in columns:
            return F.lit(None).cast(kind)
        return _quoted(columns[name]).cast(kind)

    uri, content, text = ours("uri", "string"), ours("content", "binary"), ours("text", "string")
    deleted = F.coalesce(ours("deleted", "boolean"), F.lit(False))
    clean_uri = clean(uri)
    place = F.when(content.isNotNull(), F.sha2(content, 256)).otherwise(
        F.sha2(F.coalesce(clean_uri, F.lit("")), 256)
    )
    version = F.coalesce(ours("version", "string"), place)
    if "text" in columns:
        version = F.concat(version, F.lit("+"), F.sha2(F.coalesce(text, F.lit("")), 256))
    return raw.select(
        ours("image_id", "string").alias("image_id"),
        uri.alias("uri"),
        content.alias("content"),
        text.alias("text"),
        F.when(~deleted, version).alias("image_version"),
        clean_uri.alias("clean_uri"),
        deleted.alias("deleted"),
    )


def unique_rows(rows: DataFrame) -> DataFrame:
    """One row for each id. A repeated row counts once; contradicting rows become one failure.

    Rows contradict each other where the image_version, the place, the bytes or the deletion
    differs. The image_version of a contradiction is a digest of all that was said, in any order.
    """
    said = F.sha2(
        F.concat_ws(
            "\x1f",
            F.col("deleted").cast("string"),
            F.coalesce("image_version", F.lit("")),
            F.when(~F.col("deleted"), F.coalesce("clean_uri", F.lit(""))),
            F.when(~F.col("deleted"), F.coalesce(F.sha2("content", 256), F.lit(""))),
        ),
        256,
    )
    row = F.struct("uri", "content", "text", "image_version", "clean_uri", "deleted")
    one = (
        rows.withColumn("said", said)
        .groupBy("image_id")
        .agg(
            F.min_by(row, F.coalesce("uri", F.lit(""))).alias("row"),
            F.array_sort(F.collect_set("said")).alias("said"),
        )
    )
    contradicted = F.size("said") > 1
    digest = F.concat(F.lit("contradiction:"), F.sha2(F.concat_ws(",", "said"), 256))
    return one.select(
        "image_id",
        "row.uri",
        "row.content",
        "row.text",
        F.when(contradicted, digest).otherwise(F.col("row.image_version")).alias("image_version"),
        "row.clean_uri",
        (F.col("row.deleted") & ~contradicted).alias("deleted"),
        contradicted.alias("contradicted"),
    )


def clean(uri: Column) -> Column:
    """A URI without user info, query and fragment. Plain paths stay as they are."""
    stripped = F.regexp_replace(F.regexp_replace(uri, _USER_INFO, "$1"), r"(?s)[?#].*", "")
    # Most have none of these characters, and looking for them is cheaper than the patterns.
    may_have = uri.contains("?") | uri.contains("#") | uri.contains("@")
    return F.when(may_have & uri.rlike(_URI), stripped).otherwise(uri)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look over canonical rows tells.

    Attributes:
        rows: Their number.
        without_id: Rows whose id is null or empty.
        repeats: Whether an id may be there more than once; where it is not, that is certain.
        digest: Hex digest over ids, versions and places, whatever their order.
    """

    rows: int
    without_id: int
    repeats: bool
    digest: str


def look_over(rows: DataFrame) -> Look:
    """Read canonical rows once. No rows move but a hash of each id and of what is said of it."""
    said = F.xxhash64("image_id", "image_version", "clean_uri", "deleted")
    by_id = rows.groupBy(F.xxhash64("image_id").alias("id_hash")).agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_if(_is_missing(F.col("image_id"))).alias("without_id"),
        # In two halves: their sums fit into integers, and decimals are slow.
        F.sum(F.shiftrightunsigned(said, 32)).alias("high"),
        F.sum(said.bitwiseAND(F.lit(2**32 - 1))).alias("low"),
        F.bit_xor(said).alias("parity"),
    )
    whole = by_id.agg(
        F.coalesce(F.sum("rows"), F.lit(0)).alias("rows"),
        F.coalesce(F.sum("without_id"), F.lit(0)).alias("without_id"),
        F.coalesce(F.max("rows"), F.lit(0)).alias("most"),
        F.sum("high").alias("high"),
        F.sum("low").alias("low"),
        F.bit_xor("parity").alias("parity"),
    ).collect()[0]
    total = (int(whole["high"] or 0) << 32) + int(whole["low"] or 0)
    parity = int(whole["parity"] or 0)
    return Look(
        rows=whole["rows"],
        without_id=whole["without_id"],
        repeats=whole["most"] > 1,
        digest=f"{total % 2**64:016x}{parity % 2**64:016x}",
    )


@contextmanager
def manifest_errors(config: ManifestConfig) -> Iterator[None]:
    """Tell what is wrong with a manifest's files in one line; also of those read later on."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:  # the latter: a file that is not Parquet
        missing = isinstance(error, AnalysisException) and "PATH_NOT_FOUND" in str(error)
        kind = "Delta" if config.format == "delta" else "Parquet"
        raise ManifestError(
            "the manifest does not exist" if missing else "the manifest cannot be read",
            where=config.path,
            expected="Parquet files or a Delta table" if missing else f"{kind} data",
            got=None if missing else _cause(error),
            todo="check --manifest.path",
        ) from error


def _read(spark: SparkSession, config: ManifestConfig) -> tuple[DataFrame, datetime]:
    kind = config.format
    if kind == "auto":
        kind = "delta" if _is_delta(spark, config.path) else "parquet"
    if kind == "delta":
        return _read_delta(spark, config.path)
    raw = spark.read.parquet(config.path)
    return raw, _newest_file(raw)


def _cause(error: BaseException) -> str:
    """What Spark's error says, without its stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[1] if lines[0].startswith("An error occurred while calling") else lines[0]
    return told.removeprefix(": ")[:200]


def _is_delta(spark: SparkSession, path: str) -> bool:
    from delta.tables import DeltaTable  # noqa: PLC0415  (only where a manifest may be Delta)

    return "*" not in path and bool(DeltaTable.isDeltaTable(spark, path))


def _read_delta(spark: SparkSession, path: str) -> tuple[DataFrame, datetime]:
    from delta.tables import DeltaTable  # noqa: PLC0415

    latest = (
        DeltaTable.forPath(spark, path)
        .history(1)
        .select("version", F.unix_micros("timestamp").alias("at_us"))
        .collect()[0]
    )
    raw = spark.read.format("delta").option("versionAsOf", latest["version"]).load(path)
    return raw, _EPOCH + timedelta(microseconds=latest["at_us"])


def _newest_file(raw: DataFrame) -> datetime:
    """Modification time of the newest data file; the epoch for a manifest without rows."""
    newest = raw.agg(
        F.unix_micros(F.max(F.col("_metadata.file_modification_time"))).alias("at_us")
    ).collect()[0]["at_us"]
    return _EPOCH + timedelta(microseconds=newest or 0)


def _is_missing(image_id: Column) -> Column:
    return image_id.isNull() | (F.trim(image_id.cast("string")) == "")


def _quoted(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")
