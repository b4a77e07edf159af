"""Nights whose feed names other versions and means the same bytes, tagged by a real model.

What the model sees is counted; workers remember nothing by themselves.
"""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_catalogue import DAY_1, Catalogue, row
from pyspark import cloudpickle
from pyspark.sql import functions as F  # noqa: N812
from undisturbed import assert_as_undisturbed, undisturbed_outcomes

import pipeline.tagging.stage as staging
from pipeline.config import DecodeConfig, FetchConfig, ModelConfig, StageConfig
from pipeline.synthetic import draw_photo
from pipeline.tables.ledger import Ledger
from pipeline.tables.store import TableSet
from pipeline.tagging import recollection
from pipeline.tagging.facts import Tagger
from pipeline.tagging.recollection import _share_of_last_runs, pays_off, with_known
from pipeline.tagging.run import run_tagging
from udfs.settings import TaggerSettings
from udfs.tag_image import make_tag_image
from udfs.tagger import read_tagger

# Workers cannot import this file: what it defines travels as code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SAME, OTHER_BYTES, NEW_ID = "abcdef", "g", "same-bytes-as-a"
DAY = timedelta(days=1)


def counting_engine(settings: TaggerSettings, *, folder: str) -> Any:
    """An engine without a memory that writes down how many images its model sees."""
    from pipeline.models.bundle import read_bundle
    from pipeline.models.serving import make_engine

    bundle = read_bundle(Path(settings.model.uri))
    engine, _ = make_engine(bundle, settings.model, settings.fetch, settings.decode, device="cpu")
    submit = engine.predictor.submit

    def noting(pixels: Any, texts: Any = None) -> Any:
        Path(folder, f"{len(pixels)} {uuid.uuid4().hex}").touch()
        return submit(pixels, texts)

    engine.predictor.submit = noting
    return engine


class Nights(Catalogue):
    """A catalogue of photos, and how many of them went through the model."""

    def __init__(self, spark, folder: Path, bundle: Path) -> None:
        super().__init__(spark, folder)
        self.photos = folder / "photos"
        self.photos.mkdir()
        for number, key in enumerate(SAME + OTHER_BYTES):
            self.draw(key, number)
        # One by one: within a batch the same bytes are encoded once, whoever knows them.
        model = ModelConfig(uri=str(bundle), batch_size=1)
        settings, tagger = read_tagger(
            model, FetchConfig(), DecodeConfig(cage=False), score_floor=0.01
        )
        engine_of = partial(counting_engine, folder=str(self.calls))
        self.real: Tagger = replace(tagger, tag=make_tag_image(settings, engine_of=engine_of))

    def draw(self, key: str, seed: int) -> None:
        (self.photos / f"{key}.jpg").write_bytes(draw_photo(64, 48, seed))

    def night(self, number: int, tagger: Tagger | None = None, **options) -> int:
        """A night whose feed names another version of every image; how many the model saw."""
        keys = [*SAME, *OTHER_BYTES]
        rows = [row(key, str(self.photos / f"{key}.jpg"), f"v{number}") for key in keys]
        if number > 1:
            rows.append(row(NEW_ID, str(self.photos / "a.jpg")))
        self.named = self.manifest(f"n{number}", rows)
        before = self.seen()
        request = self.request(
            self.named,
            f"night-{number}",
            DAY_1 + number * DAY,
            stage=StageConfig(chunk_rows=5),
            **options,
        )
        summary = run_tagging(self.spark, request, tagger or self.real)
        assert summary["state"] == "published"
        return self.seen() - before

    def seen(self) -> int:
        return sum(int(note.name.split()[0]) for note in self.calls.iterdir())

    def recalled(self, run_id: str) -> int | None:
        """What the ledger says of it."""
        changes = [row for row in self.rows("tagging_runs") if row["run_id"] == run_id]
        return dict(max(changes, key=lambda change: change["change"])["counts"]).get("recalled")


class Killed(BaseException):
    """As kill -9: nobody catches it."""


@pytest.fixture(scope="module")
def nights(spark, tiny_bundle, tmp_path_factory) -> Nights:
    """Two nights; the second names other versions, and one photo is another.

    It is killed at its second chunk, and goes on.
    """
    nights = Nights(spark, tmp_path_factory.mktemp("known"), tiny_bundle)
    assert nights.night(1) == len(SAME + OTHER_BYTES)
    assert nights.recalled("night-1") is None
    for key in OTHER_BYTES:
        nights.draw(key, 50)
    tag_facts, chunks = staging.tagged_facts, Counter()

    def die_at_the_second(*args: Any) -> Any:
        chunks["all"] += 1
        if chunks["all"] == 2:
            raise Killed
        return tag_facts(*args)

    before = nights.seen()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(staging, "tagged_facts", die_at_the_second)
        with pytest.raises(Killed):
            nights.night(2)
    nights.night(2)
    nights.second = nights.seen() - before
    return nights


def test_other_versions_of_the_same_bytes_call_no_model(nights):
    # An image under another id is not known before it is fetched, and nobody knows its bytes then.
    assert nights.second == len(OTHER_BYTES) + len([NEW_ID])
    assert nights.recalled("night-2") == len(SAME)
    assert {fact["origin"] for fact in nights.rows("tagging_results")} == {"model"}


def test_tables_end_as_those_of_tagging_afresh(nights, tiny_bundle):
    nights.assert_consistent()
    afresh = undisturbed_outcomes(Path(nights.named), tiny_bundle)
    assert_as_undisturbed(Path(nights.location), afresh)
    images = nights.images()
    for key, outcome in afresh[0].items():
        image = images[key]
        assert (image["width"], image["height"]) == (outcome.width, outcome.height) == (64, 48)
        assert (image["run_id"], image["embedding_seq"]) == ("night-2", image["run_seq"])
        assert image["image_version"] == ("1" if key == NEW_ID else "v2")
    assert {row["run_id"] for row in nights.rows("image_embeddings")} == {"night-2"}


def test_a_vector_of_a_run_that_images_does_not_tell_of_yet_is_not_used(nights):
    tables = TableSet(nights.spark, nights.location)
    images = nights.images()
    seq = images["a"]["embedding_seq"]
    known = F.struct("image_version", "embedding_seq", "content_sha256", "width", "height")
    rows = tables.read("images").where("image_id in ('a', 'b')")
    before = F.when(F.col("image_id") == "a", seq - 1).otherwise(F.col("embedding_seq"))
    rows = rows.withColumn("embedding_seq", before).select("image_id", known.alias("known"))
    told = with_known(rows, tables, model_version=images["a"]["model_version"]).collect()
    found = {row["image_id"]: row["known"] for row in told}
    vectors = {row["image_id"]: row["embedding"] for row in nights.rows("image_embeddings")}
    assert found["a"] is None
    assert found["b"]["embedding"] == vectors["b"]
    assert found["b"]["content_sha256"] == images["b"]["content_sha256"]


def test_few_images_are_looked_at_again_rather_than_all_vectors_read(nights, monkeypatch):
    tables = TableSet(nights.spark, nights.location)
    model = nights.images()["a"]["model_version"]
    pays = partial(pays_off, tables, Ledger(tables), model_version=model)
    assert pays(1)
    assert not pays(0)
    size = tables.size_bytes("image_embeddings")
    monkeypatch.setattr(recollection, "MOST_BYTES_PER_IMAGE", size)
    # Five of six of the night before: so much for each that is expected to be the same.
    assert not pays(1)
    assert pays(2)
    monkeypatch.setattr(recollection, "MOST_BYTES_PER_IMAGE", 1)
    assert not pays(1)


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        ([], 1.0),
        ([{"known": 4, "recalled": 1}], 0.25),
        ([{"known": 4, "recalled": 1}, {"scored": 9}], 0.25),
        ([{"known": 4, "recalled": 1}, {"known": 6}], 0.1),
        ([{"known": 1, "recalled": 1}, *[{"known": 2}] * 10], 0.0),
    ],
)
def test_as_many_are_expected_to_be_the_same_as_in_the_last_runs(counts, share):
    runs = [SimpleNamespace(counts=one, model_version="m") for one in counts]
    ledger = SimpleNamespace(in_state=lambda _: runs)
    assert _share_of_last_runs(ledger, "m") == share
    assert _share_of_last_runs(ledger, "another") == 1.0


def test_force_and_another_model_call_the_model(nights):
    everything = len(SAME + OTHER_BYTES)
    assert nights.night(3, replace(nights.real, model_version="another")) == everything
    assert nights.recalled("night-3") is None
    known_by_now = replace(nights.real, model_version="another")
    assert nights.night(4, known_by_now, force=True) == everything + len([NEW_ID])
    assert nights.recalled("night-4") is None


def test_models_recall_where_their_scores_follow_from_vectors_and_memory_is_on(
    tiny_bundle, tiny_cma_bundle
):
    def recalls(bundle: Path, **options: Any) -> bool:
        model = ModelConfig(uri=str(bundle), **options)
        return read_tagger(model, FetchConfig(), DecodeConfig(), score_floor=0.01)[1].recalls

    assert recalls(tiny_bundle)
    assert not recalls(tiny_bundle, remember_images=0)
    assert not recalls(tiny_cma_bundle)
