"""The erasure of images as a job asks for it: whose, under which lease, and what it answers.

The rows are :mod:`pipeline.tables.erase`'s. Here runs left in ``publishing`` are finished first,
since they decided who wins before there was a tombstone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.types import IntegralType, StringType

from pipeline.config import EraseImagesConfig
from pipeline.errors import ConfigurationError, TablesError
from pipeline.storage import local_path
from pipeline.tables.create import existing_tables
from pipeline.tables.erase import (
    count_tombstones,
    erase_images,
    foresee_erasure,
    make_ids,
    remove_tombstones,
)
from pipeline.tables.lease import hold_lease
from pipeline.tables.ledger import Ledger
from pipeline.tables.schemas import TABLES
from pipeline.tables.store import TableSet, open_tables
from pipeline.tagging.release import roll_forward
from pipeline.tagging.request import Summary, parse_as_of

JOB = "erase_images"
_KEY = "image_id"


def validate_ids(config: EraseImagesConfig) -> None:
    """Refuse a configuration that names no images, or names them in two places.

    Raises:
        ConfigurationError: With what to give.
    """
    if bool(config.ids) == (config.ids_file is not None):
        raise ConfigurationError(
            "name the images to erase",
            expected="one of --ids and --ids_file",
            got="both" if config.ids else "neither",
        )
    if "" in config.ids:
        raise ConfigurationError("an image id is empty", where="ids")


def run_erasure(
    spark: SparkSession, config: EraseImagesConfig, *, now: Callable[[], datetime]
) -> Summary:
    """Erase images from every table, or let them come back; again: nothing more.

    Args:
        spark: Session with Delta configured.
        config: Whose images, and what is asked.
        now: The clock.

    Returns:
        The summary.

    Raises:
        ConfigurationError: No ids, or no moment.
        SchemaVersionError: The tables are of another version.
        TablesError: There are no tables, or the storage refuses.
        LeaseError: Another job publishes and does not end in time.
    """
    validate_ids(config)
    since = time.monotonic()
    as_of = parse_as_of(config.as_of) or now()
    asked = config.ids or read_ids(spark, str(config.ids_file))
    tables = open_tables(spark, config.tables)
    validate_complete(tables)
    ids = make_ids(tables, asked)
    summary: Summary = {"job": JOB, "as_of": as_of.isoformat(), "ids": len(set(asked))}
    if config.dry_run:
        summary["state"] = "dry_run"
        if config.allow_again:
            summary["allowed_again"] = count_tombstones(tables, ids)
        else:
            summary |= asdict(foresee_erasure(tables, ids))
        return {**summary, "seconds": round(time.monotonic() - since, 1)}
    with hold_lease(tables, JOB, config.lease) as lease:
        if config.allow_again:
            summary["state"] = "allowed_again"
            summary["allowed_again"] = remove_tombstones(tables, ids, lease=lease)
        else:
            roll_forward(tables, Ledger(tables), lease, now=now)
            summary["state"] = "erased"
            summary |= asdict(erase_images(tables, ids, as_of=as_of, lease=lease))
            # What was deleted just now is old enough to be vacuumed then, and not before.
            gone = now() + timedelta(hours=config.retention_h)
            summary["history_gone_after"] = gone.isoformat()
            summary["todo"] = "run maintain_tables then: its vacuum removes what history holds"
    return {**summary, "seconds": round(time.monotonic() - since, 1)}


def validate_complete(tables: TableSet) -> None:
    """Refuse a place without the tables: an erasure that erased nothing must not look like one.

    Raises:
        TablesError: A table is missing.
    """
    missing = {table.name for table in TABLES} - existing_tables(tables)
    if missing:
        raise TablesError(
            "tables are missing",
            where=tables.home,
            got=f"no {', '.join(sorted(missing))}",
            todo="check where the tables are, or run maintain_tables, which creates them",
        )


def read_ids(spark: SparkSession, place: str) -> tuple[str, ...]:
    """The ids a file names: Parquet where its name ends in .parquet or it is a folder, else text.

    Raises:
        ConfigurationError: It cannot be read, has no ids, or rows without one.
    """
    path = local_path(place)
    is_parquet = place.rstrip("/").endswith(".parquet") or (path is not None and path.is_dir())
    try:
        rows = _parquet_ids(spark, place) if is_parquet else _text_ids(spark, place)
        ids = [row[_KEY] for row in rows.collect()]
    except (PySparkException, Py4JJavaError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigurationError(
            "the file of image ids cannot be read", where=place, got=lines[0][:200]
        ) from error
    if not is_parquet and any(line.startswith("PAR1") for line in ids[:1]):
        raise ConfigurationError(
            "the file of image ids is Parquet",
            where=place,
            todo="give it a name that ends in .parquet",
        )
    if not ids or not all(ids):
        raise ConfigurationError(
            "the file names no image in some rows" if ids else "the file names no images",
            where=place,
            expected="one image id a line, or Parquet with a column image_id",
        )
    return tuple(ids)


def _parquet_ids(spark: SparkSession, place: str) -> DataFrame:
    rows = spark.read.parquet(place)
    if _KEY not in rows.columns or not isinstance(
        rows.schema[_KEY].dataType, StringType | IntegralType
    ):
        raise ConfigurationError(
            "the file of image ids has no column image_id of strings or integers",
            where=place,
            got=rows.schema.simpleString()[:200],
        )
    return rows.select(F.col(_KEY).cast("string"))


def _text_ids(spark: SparkSession, place: str) -> DataFrame:
    """Lines of a file; empty ones are none."""
    line = F.regexp_replace("value", "^\ufeff", "")
    return spark.read.text(place).select(line.alias(_KEY)).where(F.length(_KEY) > 0)
