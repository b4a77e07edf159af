"""What :mod:`pure_catalogue` does in memory, done to real tables by the product itself."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pytest
from deltalake import DeltaTable
from fake_backfill import OTHER
from fake_catalogue import Catalogue
from fake_model import KNOWN, TAXONOMY
from pure_catalogue import Ask, Kill, Picture
from pure_runs import RETRY, moment

import pipeline.tagging.publish as publishing
import pipeline.tagging.run as running
import pipeline.tagging.stage as staging
from pipeline.config import AuditConfig, EraseImagesConfig, LeaseConfig, TablesConfig
from pipeline.errors import HeldByAudit
from pipeline.tables.ledger import Ledger
from pipeline.tables.store import TableSet
from pipeline.tagging.decision import FailureState, Standing
from pipeline.tagging.erase import run_erasure
from pipeline.tagging.resolution import find_run, resolve_run
from pipeline.tagging.run import run_tagging
from pipeline.taxonomy import Taxonomy

TAXONOMIES = {taxonomy.version: taxonomy for taxonomy in (TAXONOMY, OTHER)}
MERCILESS = AuditConfig(
    min_images=1, max_failed_share=-1, max_removed_share=-1, min_label_images=10**6
)


class Killed(BaseException):
    """As kill -9: nobody catches it, and nobody tells the ledger."""


class RealCatalogue:
    """Real tables, and what is done to them."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.real = catalogue

    def copy(self, folder: Path) -> RealCatalogue:
        shutil.copytree(self.real.location, folder / "tables")
        return RealCatalogue(Catalogue(self.real.spark, folder))

    def run(self, ask: Ask, *, hold: bool = False, kill: Kill | None = None) -> None:
        manifest = None
        if ask.pictures is not None:
            rows = [
                {
                    "image_id": image,
                    "uri": picture.place(image),
                    "version": picture.version,
                    "deleted": picture.version is None,
                }
                for image, picture in ask.pictures.items()
            ]
            manifest = self.real.manifest(ask.run_id, rows)
        request = self.real.request(
            manifest,
            ask.run_id,
            moment(ask.day),
            selection="backfill" if ask.is_backfill else "nightly",
            feed={"retire_missing": ask.retires},
            retry=RETRY,
            audit=MERCILESS if hold else AuditConfig(),
        )
        target = ask.target
        tagger = self.real.tagger(target.model_version, TAXONOMIES[target.taxonomy_version])
        if not target.can_rescore:
            tagger = replace(tagger, rescore=None)
        with pytest.MonkeyPatch.context() as patched, suppress(Killed, HeldByAudit):
            if kill:
                die_at(kill, ask.run_id, patched)
            run_tagging(self.real.spark, request, tagger)

    def resolve(self, run_id: str, verdict: Literal["publish", "discard"]) -> None:
        tables = TableSet(self.real.spark, self.real.location)
        run = find_run(tables, run_id)
        resolve_run(tables, run, verdict, lease=LeaseConfig(), now=lambda: run.as_of)

    def erase(self, image: str, day: int) -> None:
        self._erase(image, moment(day), allow_again=False)

    def allow_again(self, image: str) -> None:
        self._erase(image, moment(0), allow_again=True)

    def _erase(self, image: str, as_of: datetime, *, allow_again: bool) -> None:
        place = TablesConfig(location=self.real.location)
        config = EraseImagesConfig(tables=place, ids=(image,), allow_again=allow_again)
        run_erasure(self.real.spark, config, now=lambda: as_of)

    def states(self) -> dict[str, str]:
        """The latest state of each run."""
        changes = sorted(self.real.rows("tagging_runs"), key=lambda row: row["change"])
        return {row["run_id"]: row["state"] for row in changes}

    def order(self) -> dict[int, int]:
        """Real run_seqs to those of the pure rules: the first run is 1."""
        history = DeltaTable(f"{self.real.location}/tagging_runs").history()
        started = sorted(
            commit["version"]
            for commit in history
            if commit.get("userMetadata", "").endswith(" started")
        )
        return {0: 0} | {version: place + 1 for place, version in enumerate(started)}

    def table(self) -> dict[str, Standing]:
        order = self.order()
        return {image: standing_of(row, order) for image, row in self.real.images().items()}

    def tags(self) -> set[tuple[Any, ...]]:
        return {
            (
                *(row["image_id"], row["image_version"], row["model_version"]),
                *(row["taxonomy_version"], row["task"], row["label"], round(row["score"], 5)),
            )
            for row in self.real.rows("image_tags")
        }

    def embeddings(self) -> dict[str, tuple[str, str, list[float]]]:
        return {
            row["image_id"]: (
                row["image_version"],
                row["model_version"],
                [round(value, 5) for value in row["embedding"]],
            )
            for row in self.real.rows("image_embeddings")
        }


def die_at(place: Kill, run_id: str, patched: pytest.MonkeyPatch) -> None:
    """Kill the run before it does that; what it finishes for others on its way goes on."""

    def die(*_: Any, **__: Any) -> NoReturn:
        raise Killed

    merge, advance = publishing.merge_rows, Ledger.advance

    def merge_or_die(tables: Any, table: Any, *args: Any, note: str, **kwargs: Any) -> int:
        if table.name == place and note == f"mumic run {run_id} published":
            raise Killed
        return merge(tables, table, *args, note=note, **kwargs)

    def advance_or_die(ledger: Ledger, run: Any, state: Any, **kwargs: Any) -> Any:
        if (run.run_id, state) == (run_id, "published"):
            raise Killed
        return advance(ledger, run, state, **kwargs)

    if place == "tagging":
        patched.setattr(staging, "tagged_facts", die)
    elif place == "audit":
        patched.setattr(running, "audit_run", die)
    elif place == "ledger":
        patched.setattr(Ledger, "advance", advance_or_die)
    else:
        patched.setattr(publishing, "merge_rows", merge_or_die)


def standing_of(row: Mapping[str, Any], order: Mapping[int, int]) -> Standing:
    """A row of ``images`` as the pure rules see it."""
    failure = None
    if row["failed_run_seq"] is not None:
        failure = FailureState(
            reason=row["reason"],
            retriable=row["retriable"],
            attempts=row["attempts"],
            model_version=row["failed_model_version"],
            run_seq=order[row["failed_run_seq"]],
            first_as_of=row["first_failed_as_of"],
            last_as_of=row["last_failed_as_of"],
        )
    else:
        assert (row["reason"], row["attempts"]) == (None, 0)
    return Standing(
        status=row["status"],
        image_version=row["image_version"],
        as_of=row["as_of"],
        as_of_seq=order[row["as_of_seq"]],
        model_version=row["model_version"],
        taxonomy_version=row["taxonomy_version"],
        run_seq=None if row["run_seq"] is None else order[row["run_seq"]],
        embedding_seq=None if row["embedding_seq"] is None else order[row["embedding_seq"]],
        failure=failure,
    )


def expected_embeddings(table: Mapping[str, Standing]) -> dict[str, Any]:
    """What stands beside these rows, worked out without the product."""
    return {
        image: (
            row.image_version,
            row.model_version,
            [round(score, 5) for score in _scores(image, row)],
        )
        for image, row in table.items()
        if row.status == "tagged"
    }


def expected_tags(table: Mapping[str, Standing]) -> set[tuple[Any, ...]]:
    """The same of the tags."""
    return {
        (image, row.image_version, row.model_version, row.taxonomy_version, *tag)
        for image, row in table.items()
        if row.status == "tagged"
        for tag in _tags(TAXONOMIES[row.taxonomy_version or ""], _scores(image, row))
    }


def _scores(image: str, row: Standing) -> list[float]:
    place = Picture(row.image_version).place(image)
    digest = hashlib.sha256(f"{row.model_version}{place}".encode()).digest()
    return [float(np.float32(byte / 255)) for byte in digest[: len(KNOWN)]]


def _tags(taxonomy: Taxonomy, scores: list[float]) -> set[tuple[str, str, float]]:
    tags = set()
    for task in taxonomy.tasks:
        scored = [(scores[KNOWN.index(label.id)], label.id, label) for label in task.labels]
        if task.kind == "single_label":
            scored = [max(scored, key=lambda one: one[:2])]
        tags |= {
            (task.id, label.id, round(score, 5))
            for score, _, label in scored
            if score >= label.threshold
        }
    return tags
