"""What must hold of who wins, whatever happened before."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import RetryConfig
from pipeline.tagging.decision import Decision, Staged, Standing, decide
from pipeline.tagging.selection import ACTIVE, Target, Wanted, choose

DAY_0 = datetime(2026, 3, 1, tzinfo=UTC)
RETRY = RetryConfig()


def day(number: int) -> datetime:
    return DAY_0 + timedelta(days=number)


def fact(
    status: str = "tagged", version: str = "a", at: int = 1, seq: int = 1, *, text: bool = False
) -> Staged:
    gone = status == "deleted"
    return Staged(
        status=status,  # type: ignore[arg-type]
        image_version=None if gone else version,
        as_of=day(at),
        as_of_seq=seq,
        run_as_of=day(at),
        run_seq=seq,
        embedding_seq=seq,
        model_version=None if gone else f"m{seq}",
        taxonomy_version=None if gone else "t",
        reason="not_found" if status == "failed" else None,
        retriable=status == "failed",
        has_text_tags=text and status == "failed",
    )


def publish(*facts: Staged, before: Standing | None = None) -> Standing | None:
    row = before
    for staged in facts:
        row = decide(row, staged).row
    return row


@st.composite
def runs_over_one_image(draw: st.DrawFn) -> list[Staged]:
    """Facts of runs whose image_version never comes back (design's known limit)."""
    count = draw(st.integers(1, 5))
    moments = sorted(
        (draw(st.integers(0, 4)), seq) for seq in draw(st.permutations(range(1, count + 1)))
    )
    version, facts = 0, []
    for at, seq in moments:
        version += draw(st.integers(0, 1))
        status = draw(st.sampled_from(["tagged", "failed"]))
        # Every third version is the image being gone.
        status, text = ("deleted" if version % 3 == 2 else status), draw(st.booleans())
        facts.append(fact(status, f"v{version}", at, seq, text=text))
    return facts


def comparable(row: Standing | None) -> Standing | None:
    """The row without the counters that may depend on the order of publishing."""
    if row is None or row.failure is None:
        return row
    same = replace(row.failure, attempts=0, first_as_of=DAY_0, last_as_of=DAY_0)
    return replace(row, failure=same)


def without_deletion_run(row: Standing | None) -> Standing | None:
    """Design: equal but for run_id and run_seq; of two deletions either may be the one noted."""
    return replace(row, run_seq=None) if row is not None and row.status == "deleted" else row


@settings(max_examples=400, deadline=None)
@given(runs_over_one_image(), st.randoms(use_true_random=False))
def test_any_order_of_publishing_ends_equal(facts, random):
    shuffled = list(facts)
    random.shuffle(shuffled)
    in_order, in_disorder = publish(*facts), publish(*shuffled)
    assert without_deletion_run(comparable(in_order)) == without_deletion_run(
        comparable(in_disorder)
    )


@settings(max_examples=300, deadline=None)
@given(runs_over_one_image())
def test_publishing_a_fact_twice_changes_nothing(facts):
    row = None
    for staged in facts:
        first = decide(row, staged)
        row = first.row
        again = decide(row, staged)
        assert again.row == row
        assert again.tags == "keep"
        if first.verdict in ("replace", "result", "failure"):
            assert again.verdict == "own"  # and not superseded by itself


@settings(max_examples=300, deadline=None)
@given(runs_over_one_image(), runs_over_one_image())
def test_the_asserted_moment_never_goes_back(facts, others):
    row = None
    for staged in [*facts, *others]:
        after = decide(row, staged).row
        if row is not None:
            assert (after.as_of, after.as_of_seq) >= (row.as_of, row.as_of_seq)
        row = after


@settings(max_examples=300, deadline=None)
@given(runs_over_one_image(), runs_over_one_image())
def test_erased_is_final(facts, later):
    erased = Standing(status="erased", image_version=None, as_of=day(0), as_of_seq=0)
    assert publish(*facts, *later, before=erased) == erased
    for staged in facts:
        wanted = Wanted(image_version=staged.image_version, as_of=staged.as_of + timedelta(days=9))
        assert choose(erased, wanted, retry=RETRY, force=True) == "erased"


@settings(max_examples=300, deadline=None)
@given(runs_over_one_image(), st.integers(0, 6), st.booleans(), st.sampled_from("ab"))
def test_a_repeated_selection_is_empty(facts, at, deleted, version):
    standing = publish(*facts)
    wanted = Wanted(
        image_version=None if deleted else version, as_of=day(at), run_seq=99, deleted=deleted
    )
    action = choose(standing, wanted, retry=RETRY)
    if action not in ACTIVE:
        return
    statuses = ["deleted"] if action == "delete" else ["tagged", "failed"]
    for status in statuses:
        after = decide(standing, fact(status, version, at, 99)).row
        again = replace(wanted, run_seq=100)
        assert choose(after, again, retry=RETRY) not in ACTIVE


@settings(max_examples=400, deadline=None)
@given(runs_over_one_image(), st.integers(0, 6), st.integers(1, 9), st.booleans(), st.booleans())
def test_nothing_is_selected_that_would_be_superseded(facts, at, seq, deleted, force):
    standing = publish(*facts)
    version = facts[-1].image_version or "v0"
    wanted = Wanted(
        image_version=None if deleted else version, as_of=day(at), run_seq=seq, deleted=deleted
    )
    action = choose(standing, wanted, retry=RETRY, force=force)
    if action not in ACTIVE:
        return
    for status in ["deleted"] if action == "delete" else ["tagged", "failed"]:
        verdict = decide(standing, fact(status, version, at, seq)).verdict
        assert verdict in ("replace", "result", "failure")


def test_a_stale_manifest_published_late_replaces_nothing_newer():
    newer = publish(fact(version="b", at=5, seq=1))
    late = decide(newer, fact(version="a", at=4, seq=2))
    assert late == Decision(verdict="superseded", row=newer)


def test_at_one_moment_the_later_run_wins():
    row = publish(fact(version="b", at=5, seq=1), fact(version="c", at=5, seq=2))
    assert row is not None
    assert row.image_version == "c"


def test_a_failure_keeps_the_result_of_the_same_picture():
    result = fact("tagged", "a", 1, 1)
    after = decide(publish(result), fact("failed", "a", 2, 2))
    assert (after.verdict, after.tags) == ("failure", "keep")
    assert (after.row.status, after.row.run_seq, after.row.model_version) == ("tagged", 1, "m1")
    assert after.row.failure is not None
    assert after.row.failure.model_version == "m2"


def test_a_failure_of_a_new_picture_takes_the_old_tags_away():
    after = decide(publish(fact("tagged", "a", 1, 1)), fact("failed", "b", 2, 2))
    assert (after.verdict, after.tags) == ("replace", "remove")
    assert (after.row.status, after.row.run_seq, after.row.model_version) == ("failed", None, None)


def tags_of(*facts: Staged) -> int | None:
    """run_seq of the fact whose tags stand in the end; None: none do."""
    row, seq = None, None
    for staged in facts:
        decision = decide(row, staged)
        row = decision.row
        if decision.tags != "keep":
            seq = staged.run_seq if decision.tags == "replace" else None
    return seq


@settings(max_examples=400, deadline=None)
@given(runs_over_one_image(), st.randoms(use_true_random=False))
def test_tags_from_texts_end_the_same_in_any_order_of_publishing(facts, random):
    shuffled = list(facts)
    random.shuffle(shuffled)
    row, seq = publish(*facts), tags_of(*facts)
    assert tags_of(*shuffled) == seq
    has_tags = row.status == "tagged" or (row.status == "failed" and row.model_version)
    assert bool(has_tags) == (seq is not None)


def test_a_failure_brings_the_tags_of_its_text_and_stays_a_failure():
    failed = fact("failed", "a", 1, 1, text=True)
    after = decide(None, failed)
    assert (after.verdict, after.tags) == ("replace", "replace")
    assert (after.row.status, after.row.run_seq, after.row.embedding_seq) == ("failed", None, None)
    assert (after.row.model_version, after.row.taxonomy_version) == ("m1", "t")
    assert after.row.failure.reason == "not_found"
    wanted = Wanted(image_version="a", as_of=day(9))
    assert choose(after.row, wanted, retry=RETRY) == "tag"  # tried again when it is due


def test_tags_of_a_text_never_take_the_place_of_a_result_of_the_same_picture():
    result, failed = fact("tagged", "a", 1, 1), fact("failed", "a", 2, 2, text=True)
    for order in itertools.permutations([result, failed]):
        assert tags_of(*order) == 1
        assert publish(*order).status == "tagged"


def test_a_later_failure_without_a_text_takes_the_tags_of_an_earlier_one():
    with_text, without = fact("failed", "a", 1, 1, text=True), fact("failed", "a", 2, 2)
    for order in itertools.permutations([with_text, without]):
        assert tags_of(*order) is None
        assert publish(*order).model_version is None


def test_a_backfill_looks_once_more_at_a_text_whose_tags_are_of_another_taxonomy():
    failed = publish(replace(fact("failed", "a", 1, 1, text=True), retriable=False))
    wanted = Wanted(image_version="a", as_of=day(1))
    assert choose(failed, wanted, retry=RETRY, target=TARGET) == "wait"
    other = replace(TARGET, taxonomy_version="u")
    assert choose(failed, wanted, retry=RETRY, target=other) == "tag"
    assert choose(failed, wanted, retry=RETRY) == "wait"


def test_a_backfill_scores_again_only_what_was_made_for_a_taxonomy_it_can_use():
    standing = publish(fact("tagged", "a", 1, 1))
    wanted = Wanted(image_version="a", as_of=day(1))
    target = replace(TARGET, taxonomy_version="u")
    for rescorable, expected in ((frozenset("t"), "rescore"), (frozenset("w"), "tag")):
        one = replace(target, rescorable=rescorable)
        assert choose(standing, wanted, retry=RETRY, target=one) == expected


def test_a_result_beats_a_failure_of_a_later_run():
    after = decide(publish(fact("failed", "a", 2, 2)), fact("tagged", "a", 1, 1))
    assert (after.verdict, after.tags, after.row.status) == ("result", "replace", "tagged")
    assert after.row.failure is not None  # what failed last is still said
    assert after.row.as_of == day(2)


def test_success_clears_the_reason_and_attempts_grow_once_a_run():
    failures = [fact("failed", "a", at, at) for at in (1, 2, 3)]
    row = publish(*itertools.chain.from_iterable((f, f) for f in failures))
    assert row is not None
    assert row.failure is not None
    assert (row.failure.attempts, row.failure.first_as_of, row.failure.last_as_of) == (
        3,
        day(1),
        day(3),
    )
    recovered = publish(fact("tagged", "a", 4, 4), before=row)
    assert recovered is not None
    assert recovered.failure is None


def test_an_older_result_of_the_same_picture_loses():
    newer = publish(fact("tagged", "a", 1, 5))
    assert decide(newer, fact("tagged", "a", 1, 4)).verdict == "superseded"


def test_an_older_result_that_was_asserted_later_moves_only_the_moment():
    newer = publish(fact("tagged", "a", 1, 5))
    after = decide(newer, fact("tagged", "a", 3, 4))
    assert (after.verdict, after.tags) == ("assert", "keep")
    assert (after.row.as_of, after.row.as_of_seq, after.row.run_seq) == (day(3), 4, 5)


def test_a_deleted_image_comes_back_with_a_newer_manifest_only():
    gone = publish(fact("tagged", "a", 1, 1), fact("deleted", at=3, seq=3))
    assert decide(gone, fact("tagged", "b", 2, 4)).verdict == "superseded"
    back = decide(gone, fact("tagged", "b", 4, 5))
    assert (back.verdict, back.row.status) == ("replace", "tagged")


@pytest.mark.parametrize(
    ("attempts", "hours", "expected"),
    [(1, 19, "wait"), (1, 20, "tag"), (2, 39, "wait"), (2, 40, "tag"), (8, 20 * 2**7, "wait")],
)
def test_a_failure_is_due_after_a_growing_distance(attempts, hours, expected):
    facts = [fact("failed", "a", 1, seq) for seq in range(1, attempts + 1)]
    wanted = Wanted(image_version="a", as_of=day(1) + timedelta(hours=hours))
    assert choose(publish(*facts), wanted, retry=RETRY) == expected


def test_a_failure_that_no_retry_can_help_waits_until_forced():
    broken = replace(fact("failed", "a", 1, 1), retriable=False)
    wanted = Wanted(image_version="a", as_of=day(300))
    assert choose(publish(broken), wanted, retry=RETRY) == "wait"
    assert choose(publish(broken), wanted, retry=RETRY, force=True) == "tag"


def test_a_result_with_a_failure_noted_beside_it_is_left_to_backfills():
    noted = publish(fact("tagged", "a", 1, 1), fact("failed", "a", 1, 2))
    wanted = Wanted(image_version="a", as_of=day(300))
    assert choose(noted, wanted, retry=RETRY) == "skip"


def test_an_image_never_seen_is_tagged_deleted_or_contradicted():
    unseen = Wanted(image_version="a", as_of=day(1))
    assert choose(None, unseen, retry=RETRY) == "tag"
    assert choose(None, replace(unseen, deleted=True), retry=RETRY) == "delete"
    assert choose(None, replace(unseen, contradicted=True), retry=RETRY) == "contradict"


def rescored(standing: Standing, seq: int, *, taxonomy: str = "u") -> Staged:
    """A score made from the embedding that stands."""
    return Staged(
        status="tagged",
        image_version=standing.image_version,
        as_of=standing.as_of,
        as_of_seq=standing.as_of_seq,
        run_as_of=day(9),
        run_seq=seq,
        embedding_seq=standing.embedding_seq,
        model_version=standing.model_version,
        taxonomy_version=taxonomy,
    )


def test_a_score_made_again_never_beats_a_later_look_in_whatever_order():
    standing = publish(fact("tagged", "a", 1, 1))
    looked, again = fact("tagged", "a", 1, 2), rescored(standing, 3)
    for order in itertools.permutations([looked, again, fact("failed", "a", 1, 4)]):
        row = publish(*order, before=standing)
        assert (row.model_version, row.taxonomy_version, row.embedding_seq) == ("m2", "t", 2)
        assert row.failure.run_seq == 4


def test_a_score_made_again_wins_while_its_embedding_stands():
    standing = publish(fact("tagged", "a", 1, 1))
    first, second = rescored(standing, 2), rescored(standing, 3, taxonomy="w")
    for order in itertools.permutations([first, second]):
        row = publish(*order, before=standing)
        assert (row.taxonomy_version, row.run_seq, row.embedding_seq) == ("w", 3, 1)
        assert (row.as_of, row.as_of_seq) == (standing.as_of, standing.as_of_seq)
    for other in (
        publish(fact("tagged", "b", 2, 2), before=standing),
        publish(fact("deleted", at=2, seq=2), before=standing),
        publish(fact("failed", "b", 2, 2), before=standing),
        publish(fact("failed", "a", 1, 2)),
        Standing(status="erased", image_version=None, as_of=day(0), as_of_seq=0),
        None,
    ):
        decision = decide(other, rescored(standing, 3))
        assert (decision.verdict, decision.row, decision.tags) == ("superseded", other, "keep")


def test_a_failure_before_the_image_was_scored_again_stays_noted():
    standing = publish(fact("tagged", "a", 1, 1), fact("failed", "a", 1, 2))
    row = publish(rescored(standing, 3), before=standing)
    assert (row.status, row.taxonomy_version, row.failure) == ("tagged", "u", standing.failure)


def test_a_failure_nobody_named_counts_by_the_moment_of_its_run():
    standing = publish(fact("failed", "a", 1, 1))
    retried = replace(fact("failed", "a", 1, 2), as_of_seq=1, run_as_of=day(4))
    row = publish(retried, before=standing)
    assert (row.as_of, row.as_of_seq) == (day(1), 1)
    assert (row.failure.first_as_of, row.failure.last_as_of) == (day(1), day(4))
    assert (row.failure.attempts, row.failure.run_seq) == (2, 2)


TARGET = Target(model_version="m1", taxonomy_version="t", can_rescore=True)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (TARGET, "skip"),
        (replace(TARGET, taxonomy_version="u"), "rescore"),
        (replace(TARGET, taxonomy_version="u", can_rescore=False), "tag"),
        (replace(TARGET, model_version="m2"), "tag"),
    ],
)
def test_a_backfill_does_the_least_that_brings_an_image_to_its_target(target, expected):
    standing = publish(fact("tagged", "a", 1, 1))
    wanted = Wanted(image_version="a", as_of=day(1))
    assert choose(standing, wanted, retry=RETRY, target=target) == expected
    assert choose(standing, wanted, retry=RETRY) == "skip"


def test_a_backfill_tries_once_what_failed_for_another_model():
    failed = publish(fact("failed", "a", 1, 1))
    wanted = Wanted(image_version="a", as_of=day(1))
    assert choose(failed, wanted, retry=RETRY, target=TARGET) == "wait"
    assert choose(failed, wanted, retry=RETRY, target=replace(TARGET, model_version="n")) == "tag"
    noted = publish(fact("tagged", "a", 1, 1), fact("failed", "a", 1, 2))
    other = replace(TARGET, model_version="m2")
    assert choose(noted, wanted, retry=RETRY, target=other) == "wait"
