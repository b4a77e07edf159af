"""The rules over columns say what the pure functions say, for every kind of meeting."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import functions as F  # noqa: N812
from signed_uris import SIGNED_URIS

from pipeline.config import RetryConfig
from pipeline.tables.schemas import IMAGES, TAGGING_RESULTS
from pipeline.tagging.decision import FailureState, Staged, Standing, decide
from pipeline.tagging.manifest import clean
from pipeline.tagging.selection import Target, Wanted, choose, plan_actions
from pipeline.tagging.winners import decide_winners

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RETRY = RetryConfig()
SEQS = (1, 2, 3, 4)


def hours(number: int) -> datetime:
    return NOON + timedelta(hours=number)


def standings() -> list[Standing | None]:
    rows: list[Standing | None] = [None]
    for at, asserted_by in itertools.product((10, 50), (2, 3)):
        moment = {"as_of": hours(at), "as_of_seq": asserted_by}
        rows.append(Standing(status="erased", image_version=None, **moment))
        rows.append(Standing(status="deleted", image_version=None, run_seq=asserted_by, **moment))
        results = [
            None,
            *(
                {"run_seq": s, "embedding_seq": e, "model_version": "m", "taxonomy_version": "t"}
                for s, e in ((1, 1), (3, 3), (3, 1))
            ),
        ]
        failures = [
            None,
            *(
                FailureState(
                    reason="not_found",
                    retriable=retriable,
                    attempts=attempts,
                    model_version="m",
                    run_seq=seq,
                    first_as_of=hours(9),
                    last_as_of=hours(10),
                )
                for seq, retriable, attempts in [
                    (2, True, 1),
                    (4, True, 2),
                    (2, False, 1),
                    (2, True, 8),
                ]
            ),
        ]
        for result, failure in itertools.product(results, failures):
            if result is None and failure is None:
                continue
            if result is None:  # it has tags from its text
                names = {"model_version": "m", "taxonomy_version": "t"}
                rows.append(
                    Standing(status="failed", image_version="a", failure=failure, **moment, **names)
                )
            rows.append(
                Standing(
                    status="tagged" if result else "failed",
                    image_version="a",
                    failure=failure,
                    **moment,
                    **(result or {}),
                )
            )
    return rows


def facts() -> list[Staged]:
    return [
        Staged(
            status=status,
            image_version=None if status == "deleted" else version,
            as_of=hours(at),
            as_of_seq=seq,
            run_as_of=hours(at),
            run_seq=seq,
            embedding_seq=seq,
            model_version=None if status == "deleted" else "n",
            taxonomy_version=None if status == "deleted" else "u",
            reason="corrupt" if status == "failed" else None,
            retriable=False,
            has_text_tags=text,
        )
        for (status, text), version, at, seq in itertools.product(
            (("tagged", False), ("failed", False), ("failed", True), ("deleted", False)),
            "ab",
            (5, 10, 60),
            SEQS,
        )
    ]


def facts_of_what_stands() -> list[Staged]:
    """Of runs that take what stands: scored again, or tried again without being named."""
    scored_again = [
        Staged(
            status="tagged",
            image_version=version,
            as_of=hours(10),
            as_of_seq=2,
            run_as_of=hours(60),
            run_seq=seq,
            embedding_seq=embedding_seq,
            model_version="m",
            taxonomy_version="u",
        )
        for version, seq, embedding_seq in itertools.product("ab", (2, 4, 5), (1, 3))
        if embedding_seq < seq
    ]
    tried_again = [
        Staged(
            status=status,
            image_version="a",
            as_of=hours(10),
            as_of_seq=2,
            run_as_of=hours(60),
            run_seq=5,
            embedding_seq=5,
            model_version="n",
            taxonomy_version="u",
            reason="corrupt" if status == "failed" else None,
        )
        for status in ("tagged", "failed")
    ]
    return [*scored_again, *tried_again]


def image_row(key: str, standing: Standing) -> tuple:
    failure = standing.failure
    values = {
        "image_id": key,
        "source": "old",
        "status": standing.status,
        "image_version": standing.image_version,
        "as_of": standing.as_of,
        "as_of_seq": standing.as_of_seq,
        "model_version": standing.model_version,
        "taxonomy_version": standing.taxonomy_version,
        "run_id": None if standing.run_seq is None else f"run{standing.run_seq}",
        "run_seq": standing.run_seq,
        "embedding_seq": standing.embedding_seq,
        "attempts": failure.attempts if failure else 0,
        "uri": "old-place",
    }
    if failure:
        values |= {
            "reason": failure.reason,
            "detail": "in words",
            "retriable": failure.retriable,
            "failed_model_version": failure.model_version,
            "failed_run_seq": failure.run_seq,
            "first_failed_as_of": failure.first_as_of,
            "last_failed_as_of": failure.last_as_of,
        }
    return tuple(values.get(name) for name in IMAGES.columns.names)


def fact_row(key: str, staged: Staged) -> tuple:
    values = {
        "run_id": f"run{staged.run_seq}",
        "image_id": key,
        "source": "new",
        "status": staged.status,
        "origin": "model",
        "image_version": staged.image_version,
        "as_of": staged.as_of,
        "as_of_seq": staged.as_of_seq,
        "run_as_of": staged.run_as_of,
        "run_seq": staged.run_seq,
        "embedding_seq": staged.embedding_seq,
        "model_version": staged.model_version,
        "taxonomy_version": staged.taxonomy_version,
        "reason": staged.reason,
        "retriable": staged.retriable if staged.reason else None,
        "uri": "new-place",
        "tags": [] if staged.has_text_tags or staged.status == "tagged" else None,
    }
    return tuple(values.get(name) for name in TAGGING_RESULTS.columns.names)


def standing_of(row) -> Standing:
    failure = None
    if row["reason"] is not None:
        failure = FailureState(
            reason=row["reason"],
            retriable=row["retriable"],
            attempts=row["attempts"],
            model_version=row["failed_model_version"],
            run_seq=row["failed_run_seq"],
            first_as_of=utc(row["first_us"]),
            last_as_of=utc(row["last_us"]),
        )
    return Standing(
        status=row["status"],
        image_version=row["image_version"],
        as_of=utc(row["as_of_us"]),
        as_of_seq=row["as_of_seq"],
        model_version=row["model_version"],
        taxonomy_version=row["taxonomy_version"],
        run_seq=row["run_seq"],
        embedding_seq=row["embedding_seq"],
        failure=failure,
    )


def utc(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, tz=UTC)


def table_of(spark, rows, columns):
    return spark.createDataFrame(rows, columns.__class__([replace_nullable(f) for f in columns]))


def replace_nullable(field):
    return type(field)(field.name, field.dataType, nullable=True)


def test_winners_over_columns_are_those_of_decide(spark):
    meetings = {
        f"{number:05}": meeting
        for number, meeting in enumerate(
            itertools.product(standings(), [*facts(), *facts_of_what_stands()])
        )
    }
    images = [image_row(key, s) for key, (s, _) in meetings.items() if s is not None]
    staged = [fact_row(key, f) for key, (_, f) in meetings.items()]
    decided = decide_winners(
        table_of(spark, staged, TAGGING_RESULTS.columns), table_of(spark, images, IMAGES.columns)
    ).select(
        "*",
        F.unix_micros("as_of").alias("as_of_us"),
        F.unix_micros("first_failed_as_of").alias("first_us"),
        F.unix_micros("last_failed_as_of").alias("last_us"),
    )
    found = {row["image_id"]: row for row in decided.collect()}
    assert found.keys() == meetings.keys()
    for key, (standing, staged_fact) in meetings.items():
        expected = decide(standing, staged_fact)
        row = found[key]
        if expected.row is None:  # scored again, and the row is gone
            assert (row["verdict"], row["tags_effect"]) == ("superseded", "keep")
            continue
        told = (row["verdict"], row["tags_effect"], standing_of(row))
        assert told == (expected.verdict, expected.tags, expected.row), (standing, staged_fact)
        assert row["known"] == (standing is not None)
        # The place and the feed are those of the moment that was asserted last.
        newest = (
            standing is None
            or expected.row.as_of != standing.as_of
            or (expected.row.as_of_seq != standing.as_of_seq)
        )
        assert (row["source"], row["uri"]) == (
            ("new", "new-place") if newest else ("old", "old-place")
        )
        assert (row["attempts"] == 0) == (row["reason"] is None)


TARGETS = {
    "nightly": {},
    "force": {"force": True},
    "same model": {"target": Target(model_version="m", taxonomy_version="u", can_rescore=True)},
    "all as it is": {"target": Target(model_version="m", taxonomy_version="t", can_rescore=True)},
    "another model": {"target": Target(model_version="n", taxonomy_version="t", can_rescore=True)},
    "no vector is enough": {
        "target": Target(model_version="m", taxonomy_version="u", can_rescore=False)
    },
    "thresholds alone": {
        "target": Target(
            model_version="m",
            taxonomy_version="u",
            can_rescore=True,
            rescorable=frozenset({"t", "v"}),
        )
    },
    "more than thresholds": {
        "target": Target(
            model_version="m",
            taxonomy_version="u",
            can_rescore=True,
            rescorable=frozenset({"v"}),
        )
    },
}


@pytest.mark.parametrize("kind", TARGETS)
def test_actions_over_columns_are_those_of_choose(spark, kind):
    options = TARGETS[kind]
    asked = {
        f"{number:05}": meeting
        for number, meeting in enumerate(
            itertools.product(
                [(5, 4), (10, 3), (29, 9), (30, 9), (51, 2), (5000, 9)],
                standings(),
                [("a", False), ("b", False), (None, True)],
                (False, True),
            )
        )
        if not (meeting[2][1] and meeting[3])
    }
    rows = [
        (key, version, deleted, contradicted, at, seq)
        for key, ((at, seq), _, (version, deleted), contradicted) in asked.items()
    ]
    manifest = spark.createDataFrame(
        [(*row[:4], hours(row[4]), row[5]) for row in rows],
        "image_id string, image_version string, deleted boolean, contradicted boolean,"
        " run_as_of timestamp, seq bigint",
    )
    standing = [image_row(key, meeting[1]) for key, meeting in asked.items() if meeting[1]]
    planned = plan_actions(
        manifest,
        table_of(spark, standing, IMAGES.columns),
        as_of=F.col("run_as_of"),
        run_seq=F.col("seq"),
        retry=RETRY,
        **options,
    )
    assert set(planned.columns) == {*manifest.columns, "action"}
    found = {row["image_id"]: row["action"] for row in planned.collect()}
    expected = {
        key: choose(
            row,
            Wanted(
                image_version=version,
                as_of=hours(at),
                run_seq=seq,
                deleted=deleted,
                contradicted=contradicted,
            ),
            retry=RETRY,
            **options,
        )
        for key, ((at, seq), row, (version, deleted), contradicted) in asked.items()
    }
    assert found == expected
    assert len(set(expected.values())) > 4  # the cases meet the rule from all sides


def test_tables_keep_of_an_address_what_logs_show(spark):
    plain = ["/folder/what?.jpg", "file:///a@b/c.jpg", "https://host:8080/a@2x.jpg", None]
    uris = [*SIGNED_URIS, *((uri, uri) for uri in plain)]
    frame = spark.createDataFrame(uris, "uri string, kept string")

    rows = frame.select("uri", "kept", clean(F.col("uri")).alias("cleaned")).collect()

    assert {row["uri"]: row["cleaned"] for row in rows} == dict(uris)
