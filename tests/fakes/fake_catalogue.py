"""A table set with manifests and a fake model, read back without Spark."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from fake_model import TAXONOMY, make_tagger

from pipeline.config import LeaseConfig, ManifestConfig, TablesConfig
from pipeline.errors import LeaseError
from pipeline.tables.lease import hold_lease
from pipeline.tables.schemas import TABLES
from pipeline.tables.store import TableSet
from pipeline.tagging.request import RunRequest
from pipeline.tagging.run import run_tagging

PUBLISHED = ("images", "image_tags", "image_embeddings")
DAY_1 = datetime(2026, 3, 1, tzinfo=UTC)


class HeldLease:
    """A lease that is lost after so many commits."""

    def __init__(self, commits: int = 99) -> None:
        self.commits = commits

    def check(self) -> None:
        if self.commits == 0:
            raise LeaseError("lost on purpose")
        self.commits -= 1


class Catalogue:
    """A table set, its manifests and the fake that tags it."""

    def __init__(self, spark, folder: Path) -> None:
        self.spark, self.folder = spark, folder
        self.calls = folder / "calls"
        self.calls.mkdir()
        self.location = str(folder / "tables")

    def manifest(self, name: str, rows: list[dict]) -> str:
        path = self.folder / f"{name}.parquet"
        schema = pa.schema(
            [
                ("image_id", pa.string()),
                ("uri", pa.string()),
                ("version", pa.string()),
                ("deleted", pa.bool_()),
            ]
        )
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
        return str(path)

    def request(self, manifest: str | None, run_id: str, as_of: datetime | None, **options):
        feed = options.pop("feed", {})
        asked = manifest and ManifestConfig(path=manifest, source="hotels", **feed)
        return RunRequest(
            job=options.pop("job", "tag_nightly"),
            run_id=run_id,
            tables=TablesConfig(location=self.location),
            manifest=asked,
            as_of=as_of,
            slots=2,
            **options,
        )

    def tagger(self, model="fake-1", taxonomy=TAXONOMY):
        return make_tagger(self.calls, model=model, taxonomy=taxonomy)

    def run(self, manifest: str, run_id: str, as_of: datetime, *, model="fake-1", **options):
        request = self.request(manifest, run_id, as_of, **options)
        return run_tagging(self.spark, request, self.tagger(model))

    def stage(self, manifest: str, run_id: str, as_of: datetime) -> None:
        """Stage a run and publish nothing: somebody else holds the lease."""
        at_once = LeaseConfig(wait_s=0)
        somebody = hold_lease(TableSet(self.spark, self.location), "somebody", at_once)
        with somebody, suppress(LeaseError):
            self.run(manifest, run_id, as_of, lease=at_once)

    def rows(self, table: str) -> list[dict]:
        """A second reader: delta-rs, not Spark."""
        return DeltaTable(f"{self.location}/{table}").to_pyarrow_table().to_pylist()

    def images(self) -> dict[str, dict]:
        rows = self.rows("images")
        by_id = {row["image_id"]: row for row in rows}
        assert len(by_id) == len(rows), "an image has two rows"
        return by_id

    def versions(self) -> dict[str, int]:
        return {t.name: DeltaTable(f"{self.location}/{t.name}").version() for t in TABLES}

    def assert_consistent(self) -> None:
        """Tags and embeddings belong to tagged images, and speak of the version that stands."""
        images = self.images()
        tagged = {key for key, row in images.items() if row["status"] == "tagged"}
        embeddings = self.rows("image_embeddings")
        assert len(embeddings) == len(tagged)
        assert {row["image_id"] for row in embeddings} == tagged
        for row in [*embeddings, *self.rows("image_tags")]:
            image = images[row["image_id"]]
            assert image["status"] == "tagged"
            assert row["image_version"] == image["image_version"]
            assert row["model_version"] == image["model_version"]
        for row in images.values():
            assert (row["status"] == "failed") <= (row["reason"] is not None)


def row(image_id: str, place: str | None = None, version: str = "1", **more) -> dict:
    return {"image_id": image_id, "uri": place or f"/ok/{image_id}.jpg", "version": version, **more}
