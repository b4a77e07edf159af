"""Tables that exist, and the manifest that asks something of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.errors import TablesError
from pipeline.tables.create import create_tables, existing_tables
from pipeline.tables.lease import Lease, hold_lease
from pipeline.tables.ledger import Ledger
from pipeline.tables.schemas import IMAGES, TABLES
from pipeline.tables.store import TableSet, open_tables
from pipeline.tagging.manifest import Manifest, read_manifest
from pipeline.tagging.request import RunRequest

WHOLE_CATALOGUE = "catalogue"
"""Manifest digest of a run that takes its rows from the tables."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Tables that exist, and what is asked about.

    Attributes:
        tables: The table set.
        ledger: Its runs.
        manifest: Read and checked; None: the whole catalogue of the tables.
    """

    tables: TableSet
    ledger: Ledger
    manifest: Manifest | None

    @property
    def digest(self) -> str:
        """Tells what is asked about from other manifests."""
        return self.manifest.digest if self.manifest else WHOLE_CATALOGUE

    def as_of(self) -> datetime:
        """The moment it speaks for unless the scheduler says otherwise."""
        if self.manifest:
            return self.manifest.as_of
        newest = self.tables.read(IMAGES.name).agg(F.unix_micros(F.max("as_of"))).collect()[0][0]
        return _EPOCH + timedelta(microseconds=newest or 0)


def open_catalogue(spark: SparkSession, request: RunRequest) -> Catalogue:
    """Read the manifest, if there is one, and create the tables that are missing.

    Raises:
        ManifestError: The manifest breaks its contract.
        SchemaVersionError: The tables are of another version.
        TablesError: The storage refuses, or there are no tables to take a catalogue from.
    """
    tables = open_tables(spark, request.tables)
    existing = existing_tables(tables)
    manifest = None
    if request.manifest is not None:
        manifest = read_manifest(spark, request.manifest)
    else:
        validate_has_images(tables, existing)
    if len(existing) < len(TABLES):
        with leased(tables, request):  # two first nights may begin at once
            create_tables(tables, existing=existing)
    return Catalogue(tables=tables, ledger=Ledger(tables), manifest=manifest)


def validate_has_images(tables: TableSet, existing: set[str]) -> None:
    """Refuse to take a catalogue from tables that are not there.

    Raises:
        TablesError: Names the place.
    """
    if IMAGES.name not in existing:
        raise TablesError(
            "there are no tables to take a catalogue from",
            where=tables.home,
            todo="name a manifest with --manifest.path",
        )


def leased(tables: TableSet, request: RunRequest) -> AbstractContextManager[Lease]:
    """The lease of the tables, held while a block runs."""
    return hold_lease(tables, f"run {request.run_id}", request.lease)
