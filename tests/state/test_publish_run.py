"""Runs that the audit holds: looked at, published by hand, discarded, abandoned."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from fake_model import calls_of, make_tagger
from PIL import Image
from pyspark.sql import functions as F  # noqa: N812

import pipeline.tagging.publish as publishing
from jobs.publish_run import main
from pipeline.cli import run_job
from pipeline.config import (
    AuditConfig,
    LeaseConfig,
    ManifestConfig,
    TablesConfig,
    TagNightlyConfig,
)
from pipeline.errors import HeldByAudit, RunConflictError
from pipeline.tables.commit import commit_note
from pipeline.tables.ledger import Ledger
from pipeline.tables.schemas import IMAGE_TAGS, IMAGES
from pipeline.tables.store import TableSet
from pipeline.tagging import resolution
from pipeline.tagging.estimate import estimate_run
from pipeline.tagging.request import RunRequest
from pipeline.tagging.resolution import find_run, resolve_run
from pipeline.tagging.review import read_review
from pipeline.tagging.run import run_tagging

PUBLISHED = ("images", "image_tags", "image_embeddings")
DAY_1 = datetime(2026, 3, 1, tzinfo=UTC)
DAY_2 = DAY_1 + timedelta(days=1)
STRICT = AuditConfig(min_images=20, min_label_images=8)
OPEN = AuditConfig(min_images=10**6)
RUN = ("run_id", "run_seq", "as_of_seq", "embedding_seq")
FILES = ("09", "10", "11", "12")  # in all three first, which are there, the fake sees a pool
N_IMAGES = 40


class Catalogue:
    """A table set, what is asked of it, and the fake that tags it."""

    def __init__(self, spark, folder: Path, pictures: Path) -> None:
        self.spark, self.folder, self.location = spark, folder, str(folder / "tables")
        self.calls = folder / "calls"
        self.calls.mkdir(exist_ok=True)
        self.pictures = pictures

    def copy(self, folder: Path) -> Catalogue:
        shutil.copytree(self.location, folder / "tables")
        return Catalogue(self.spark, folder, self.pictures)

    def request(self, run_id, as_of, *, version="1", prefix="hotel", audit=STRICT) -> RunRequest:
        rows = [
            {
                "image_id": f"{prefix} {k:02d} ключ",
                "uri": f"{self.pictures}/ok/{FILES[k]}.jpg"
                if k < len(FILES)
                else f"/ok/{prefix}/{k}",
                "version": version,
            }
            for k in range(N_IMAGES)
        ]
        manifest = self.folder / f"{run_id}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), manifest)
        return RunRequest(
            job="tag_nightly",
            run_id=run_id,
            tables=TablesConfig(location=self.location),
            manifest=ManifestConfig(path=str(manifest)),
            audit=audit,
            as_of=as_of,
            slots=2,
            config='{"cost": {"device_hour": 3600.0}}',
        )

    def run(self, request: RunRequest, *, without: str | None = None):
        return run_tagging(self.spark, request, make_tagger(self.calls, without=without))

    def rows(self, table: str) -> list[dict]:
        """A second reader: delta-rs, not Spark."""
        return DeltaTable(f"{self.location}/{table}").to_pyarrow_table().to_pylist()

    def versions(self) -> dict[str, int]:
        return {name: DeltaTable(f"{self.location}/{name}").version() for name in PUBLISHED}

    def state(self, run_id: str) -> str:
        changes = [row for row in self.rows("tagging_runs") if row["run_id"] == run_id]
        return max(changes, key=lambda row: row["change"])["state"]

    def published(self, *without: str) -> dict[str, list[str]]:
        out = {"tagged_at", *without}
        return {
            name: sorted(
                str({key: value for key, value in row.items() if key not in out})
                for row in self.rows(name)
            )
            for name in PUBLISHED
        }

    def main(self, run_id: str, *argv: str) -> int:
        place = ["--tables.location", self.location, "--run_id", run_id]
        return main([*place, "--log.level", "ERROR", *argv])


class Killed(Exception):  # noqa: N818
    """What a test kills a job with."""


def dying_at(place, function):
    """The function, killed before it does anything to one table."""

    def dying(tables, table, *args, **kwargs):
        if table in (place, getattr(place, "name", None)):
            raise Killed
        return function(tables, table, *args, **kwargs)

    return dying


def publish_up_to(table, catalogue, patched) -> None:
    tables = TableSet(catalogue.spark, catalogue.location)
    run = find_run(tables, "night-2")
    patched.setattr(publishing, "merge_rows", dying_at(table, publishing.merge_rows))
    with pytest.raises(Killed):
        resolve_run(tables, run, "publish", lease=LeaseConfig(), now=lambda: DAY_2)
    assert catalogue.state("night-2") == "publishing"


@pytest.fixture(scope="module")
def catalogue(spark, tmp_path_factory) -> Catalogue:
    """One night published, and a second with a model that forgot ``pool``: held, twice."""
    pictures = tmp_path_factory.mktemp("pictures")
    made = Catalogue(spark, tmp_path_factory.mktemp("review"), pictures)
    (pictures / "ok").mkdir()
    for k, name in enumerate(FILES[:-1]):
        Image.new("RGB", (64, 48), (250, 20 * k, 0)).save(pictures / "ok" / f"{name}.jpg")
    made.run(made.request("night-1", DAY_1))
    made.first = made.published()
    made.versions_before = made.versions()
    made.second = made.request("night-2", DAY_2, version="2")
    made.codes, made.summaries = [], []
    for attempt in ("first", "again"):
        summary = made.folder / f"{attempt}.json"
        code = run_job(
            "tag_nightly",
            TagNightlyConfig,
            lambda _: made.run(made.second, without="pool"),
            [
                *("--tables.location", made.location, "--manifest.path", "m", "--model.uri", "m"),
                *("--summary", str(summary), "--log.level", "ERROR"),
            ],
        )
        made.codes.append(code)
        made.summaries.append(json.loads(summary.read_text()))
    return made


@pytest.fixture
def held(catalogue, tmp_path) -> Catalogue:
    """The same again, to do something to it."""
    return catalogue.copy(tmp_path)


def test_a_model_that_forgets_a_label_is_held_and_nothing_is_published(catalogue):
    assert catalogue.codes == [3, 3]
    for summary in catalogue.summaries:
        assert (summary["state"], summary["exit_code"]) == ("held", 3)
        assert summary["run_id"] == "night-2"
        assert "rate of scene/pool" in summary["error"]
    assert catalogue.versions() == catalogue.versions_before
    assert catalogue.published() == catalogue.first
    assert set(calls_of(catalogue.calls).values()) == {2}  # once for each night, not again

    run = Ledger(TableSet(catalogue.spark, catalogue.location)).find("night-2")
    review = read_review(TableSet(catalogue.spark, catalogue.location), run, samples=5)
    assert review.figures.reference == "standing"
    assert [(one.what, one.task, one.label) for one in review.findings] == [
        ("rate", "scene", "pool")
    ]
    (drift,) = review.drifts
    pools = {
        t["image_id"]: t["score"] for t in catalogue.rows("image_tags") if t["label"] == "pool"
    }
    assert (drift.change, drift.figures.before, drift.figures.now) == ("lost", len(pools), 0)
    assert [sample.score_before for sample in drift.samples] == sorted(pools.values())[:-6:-1]
    for sample in drift.samples:
        assert pools[sample.image_id] == sample.score_before
        assert sample.score_now == pytest.approx(sample.score_before / 10, abs=1e-6)


def test_what_the_audit_saw_is_shown_and_drawn(catalogue, tmp_path, capsys):
    report = tmp_path / "reports" / "new"
    assert catalogue.main("night-2", "--report", str(report), "--samples", "30") == 0
    *shown, summary = capsys.readouterr().out.splitlines()
    words = [line.split() for line in shown]
    before = sum(tag["label"] == "pool" for tag in catalogue.rows("image_tags"))
    rate = f"{before / N_IMAGES:.3f}"
    assert shown[0].startswith("run night-2 (tag_nightly, as of 2026-03-02")
    assert ["rate", "scene/pool", rate, "0.000", "1.000", "0.500", str(before)] in words
    assert shown[1] == f"compared with the standing tags of the same {N_IMAGES} images"
    assert any(line[:2] == [str(N_IMAGES), "0"] for line in words)
    told = json.loads(summary)
    assert (told["state"], told["run_id"]) == ("held", "night-2")
    # Two slots at a price of one a second.
    assert told["cost"] == pytest.approx(2 * told["seconds"], abs=0.2)
    with Image.open(report / "audit-night-2.png") as sheet:
        areas = sheet.getcolors(maxcolors=1 << 20)
    pictures = [red for count, (red, _, blue) in areas if count == 144 * 108 and blue < 20]
    assert len(pictures) == len(FILES) - 1
    assert min(pictures) > 240
    assert catalogue.state("night-2") == "held"
    assert catalogue.versions() == catalogue.versions_before


def test_a_published_run_shows_its_audit_and_a_run_without_one_says_so(held, capsys):
    assert held.main("night-1") == 0
    shown = capsys.readouterr().out
    assert "no limit was passed" in shown
    assert "nothing to compare labels with" in shown
    tables = TableSet(held.spark, held.location)
    versions = {"manifest_digest": "d", "model_version": "m", "taxonomy_version": "t"}
    Ledger(tables).start(
        run_id="new", job="tag_nightly", as_of=DAY_2, config="{}", at=datetime.now(UTC), **versions
    )
    assert held.main("new", "--report", str(held.folder)) == 0
    shown, summary = capsys.readouterr().out.splitlines()[-2:]
    assert shown == "no audit: none has looked at this run yet"
    assert json.loads(summary)["state"] == "started"
    assert (held.folder / "audit-new.png").exists()
    for action in ("publish", "discard", "abandon"):
        assert held.main("new", "--action", action) == 1
        assert "it goes on where it was" in capsys.readouterr().err


def test_an_unknown_run_and_tables_that_are_not_there_are_named(catalogue, tmp_path, capsys):
    assert catalogue.main("night-3", "--action", "discard") == 1
    assert "[--run_id night-3]; expected one such as night-2, night-1" in capsys.readouterr().err
    assert main(["--tables.location", str(tmp_path / "no"), "--run_id", "x"]) == 1
    assert "there are no tables of runs" in capsys.readouterr().err


@pytest.mark.chaos
def test_a_run_published_by_hand_equals_one_that_was_not_held(abandoned, held, capsys):
    assert held.main("night-2", "--action", "publish") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["state"], told["tagged"]) == ("published", N_IMAGES)
    assert "pool" not in {tag["label"] for tag in held.rows("image_tags")}
    assert held.published(*RUN) == abandoned.published(*RUN)
    versions = held.versions()
    assert held.main("night-2", "--action", "publish") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == told
    assert held.versions() == versions
    assert held.main("night-2", "--action", "discard") == 1
    assert "expected held; got published" in capsys.readouterr().err


def test_facts_of_a_discarded_run_are_never_used(held, capsys):
    assert held.main("night-2", "--action", "discard") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "discarded"
    assert held.main("night-2", "--action", "discard") == 0  # it is already
    assert held.state("night-2") == "discarded"
    with pytest.raises(RunConflictError, match="was discarded"):
        held.run(held.request("night-2", DAY_2, version="2"), without="pool")
    again = held.request("night-3", DAY_2, version="2")
    told = estimate_run(held.spark, again, make_tagger(held.calls, without="pool"))
    assert (told["to_tag"], told["to_reuse"]) == (N_IMAGES, 0)


@pytest.fixture(scope="module")
def abandoned(catalogue, tmp_path_factory) -> Catalogue:
    """Cut off between merges, with its facts gone; abandoned at the second try; then a new run."""
    torn = catalogue.copy(tmp_path_factory.mktemp("abandoned"))
    torn.told, torn.seen = {}, {}

    def decide(action: str, name: str) -> None:
        streams = io.StringIO(), io.StringIO()
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            code = torn.main("night-2", "--action", action)
        torn.told[name] = (code, *(stream.getvalue() for stream in streams))
        torn.seen[name] = (torn.state("night-2"), torn.versions())

    with pytest.MonkeyPatch.context() as patched:
        publish_up_to(IMAGES, torn, patched)
    torn.seen["torn"] = (torn.state("night-2"), torn.versions())
    tables = TableSet(torn.spark, torn.location)
    tables.delta("tagging_results").delete(F.col("run_id") == "night-2")
    decide("publish", "nothing to publish")
    decide("discard", "too late")
    with pytest.MonkeyPatch.context() as patched:
        dying = dying_at("image_embeddings", resolution.restore_table)
        patched.setattr(resolution, "restore_table", dying)
        decide("abandon", "killed")
    decide("abandon", "abandoned")
    torn.put_back = torn.published()
    decide("abandon", "again")
    decide("publish", "gone")
    request = torn.request("night-3", DAY_2, version="2", audit=OPEN)
    torn.summary = torn.run(request, without="pool")
    return torn


@pytest.mark.chaos
def test_an_abandoned_run_leaves_the_tables_as_before_it(catalogue, abandoned):
    told, seen = abandoned.told, abandoned.seen
    state, torn = seen["torn"]
    assert state == "publishing"
    assert torn["image_tags"] > catalogue.versions_before["image_tags"]

    code, _, error = told["nothing to publish"]
    assert code == 1
    assert "what the run staged is gone" in error
    assert "--action abandon" in error
    code, _, error = told["too late"]
    assert code == 1
    assert "expected held; got publishing" in error
    assert seen["nothing to publish"] == seen["too late"] == seen["torn"]

    assert (told["killed"][0], seen["killed"][0]) == (4, "publishing")
    code, summary, _ = told["abandoned"]
    assert (code, seen["abandoned"][0]) == (0, "discarded")
    assert json.loads(summary)["state"] == "discarded"
    assert abandoned.put_back == catalogue.first
    versions = seen["abandoned"][1]
    assert versions["images"] == torn["images"]  # it was not changed
    assert versions["image_tags"] == torn["image_tags"] + 1  # the second try left it alone
    assert told["again"][0] == 0
    assert seen["again"] == seen["gone"] == seen["abandoned"]
    assert told["gone"][0] == 1
    assert "under another --run_id" in told["gone"][2]


@pytest.mark.chaos
def test_the_run_after_an_abandoned_one_goes_on_and_takes_nothing_of_it(abandoned):
    summary = abandoned.summary
    assert (summary["state"], summary["tagged"], summary["reused"]) == ("published", N_IMAGES, 0)
    assert set(calls_of(abandoned.calls).values()) == {1}


@pytest.mark.chaos
def test_a_change_by_another_job_is_not_undone(held, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        publish_up_to(IMAGE_TAGS, held, patched)
    tables = TableSet(held.spark, held.location)
    with commit_note(held.spark, "erased an image"):
        tables.delta("image_tags").delete(
            F.col("image_id") == held.rows("image_tags")[0]["image_id"]
        )
    versions = held.versions()
    assert held.main("night-2", "--action", "abandon") == 1
    told = capsys.readouterr().err
    assert "changed by another job since" in told
    assert "got erased an image" in told
    assert held.versions() == versions
    assert held.main("night-2", "--action", "publish") == 0  # it can still be finished
    assert held.state("night-2") == "published"


@pytest.mark.long
def test_new_images_are_compared_with_the_last_run_of_the_job(held):
    request = held.request("night-3", DAY_2, prefix="new", audit=STRICT)
    with pytest.raises(HeldByAudit, match="rate of scene/pool"):
        held.run(request, without="pool")
    tables = TableSet(held.spark, held.location)
    review = read_review(tables, Ledger(tables).find("night-3"), samples=100)
    assert review.reference == f"compared with {N_IMAGES} images of run night-1"
    (drift,) = review.drifts
    pools = {tag["image_id"] for tag in held.rows("image_tags") if tag["label"] == "pool"}
    assert {sample.image_id for sample in drift.samples} == pools
    assert all(sample.uri and sample.score_now is None for sample in drift.samples)
