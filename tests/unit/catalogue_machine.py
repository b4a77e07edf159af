"""A catalogue and its runs on the pure rules alone: what hypothesis drives, and what must hold.

The catalogue has a truth: what each image was at each moment. Versions never come back, which is
the design's known limit. Runs are staged, killed, held, published in any order, or discarded;
images change, vanish, come back, and are erased.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pure_runs import DAY_0, RETRIABLE, Run, moment, publish

from pipeline.tagging.decision import Standing
from pipeline.tagging.selection import ACTIVE, LAST_SEQ, Target

IMAGES = ("x", "y")
targets = st.builds(
    Target,
    model_version=st.sampled_from(["m1", "m2"]),
    taxonomy_version=st.sampled_from(["t1", "t2"]),
    can_rescore=st.sampled_from([True, True, False]),
)
NIGHTLY = Target(model_version="m1", taxonomy_version="t1", can_rescore=True)


def reason(image: str, fails: set[str]) -> str | None:
    return RETRIABLE if image in fails else None


def comparable(row: Standing) -> Standing:
    """But for run_seq of a deletion and the counters of failures: either order may be noted."""
    failure = row.failure and replace(row.failure, attempts=0, first_as_of=DAY_0, last_as_of=DAY_0)
    run_seq = None if row.status == "deleted" else row.run_seq
    return replace(row, failure=failure, run_seq=run_seq)


class CatalogueMachine(RuleBasedStateMachine):
    """Nightly runs, backfills and erasures over one table, in any interleaving."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Standing] = {}
        self.day, self.seq, self.versions = 0, 0, 0
        # What each image was on each day: None: it was not in the catalogue.
        self.truth: dict[tuple[str, int], str | None] = {(image, 0): "v0" for image in IMAGES}
        self.waiting: list[Run] = []
        self.erased: set[str] = set()
        # What stood of an image when a run staged its fact of it.
        self.stood: dict[tuple[int, str], Standing | None] = {}

    @rule(changes=st.dictionaries(st.sampled_from(IMAGES), st.booleans(), max_size=1))
    def a_day_passes(self, changes: dict[str, bool]) -> None:
        self.day += 1
        for image in IMAGES:
            version = self.truth[image, self.day - 1]
            if image in changes:
                self.versions += 1
                gone = changes[image] and version is not None
                version = None if gone else f"v{self.versions}"
            self.truth[image, self.day] = version

    @rule(
        days_late=st.integers(0, 3),
        named=st.sets(st.sampled_from(IMAGES), min_size=1),
        fails=st.sets(st.sampled_from(IMAGES)),
    )
    def a_night_is_staged(self, days_late: int, named: set[str], fails: set[str]) -> None:
        self._start(NIGHTLY, days_late, named, fails, is_backfill=False)

    @rule(
        to=targets,
        days_late=st.integers(0, 3),
        fails=st.sets(st.sampled_from(IMAGES)),
    )
    def a_backfill_is_staged(self, to: Target, days_late: int, fails: set[str]) -> None:
        self._start(to, days_late, set(IMAGES), fails, is_backfill=True)

    def _start(
        self, to: Target, days_late: int, named: set[str], fails: set[str], *, is_backfill: bool
    ) -> None:
        self.seq += 1
        day = max(0, self.day - days_late)
        asked = {image: self.truth[image, day] for image in sorted(named)}
        run = Run(self.seq, day, to, is_backfill, asked)
        for image in run.named:
            self._stage(run, image, fails)
        self.waiting.append(run)

    def _stage(self, run: Run, image: str, fails: set[str]) -> None:
        if image not in run.facts:
            self.stood[run.seq, image] = self.table.get(image)
        run.stage(self.table.get(image), image, reason=reason(image, fails))

    @precondition(lambda self: self.waiting)
    @rule(
        place=st.integers(0, 9),
        lost=st.sets(st.sampled_from(IMAGES)),
        fails=st.sets(st.sampled_from(IMAGES)),
    )
    def a_run_was_killed_and_is_started_again(
        self, place: int, lost: set[str], fails: set[str]
    ) -> None:
        run = self.waiting[place % len(self.waiting)]
        for image in lost:
            run.facts.pop(image, None)
        for image in run.named:
            self._stage(run, image, fails)

    @precondition(lambda self: self.waiting)
    @rule(place=st.integers(0, 9), twice=st.booleans())
    def a_run_is_published(self, place: int, twice: bool) -> None:
        run = self.waiting.pop(place % len(self.waiting))
        before = dict(self.table)
        publish(self.table, run)
        if twice:
            once = dict(self.table)
            publish(self.table, run)
            assert self.table == once, "publishing twice changes something"
        for image, row in before.items():
            after = self.table[image]
            assert (after.as_of, after.as_of_seq) >= (row.as_of, row.as_of_seq)
        if run.seq == self.seq:
            for image in run.facts:
                again = run.choose(self.table.get(image), image, seq=LAST_SEQ)
                # What others published since it was staged may be a reason to score again.
                if before.get(image) == self.stood[run.seq, image]:
                    assert again not in ACTIVE, "a repeated selection is not empty"

    @precondition(lambda self: len(self.waiting) > 3)
    @rule()
    def a_held_run_is_discarded(self) -> None:
        self.waiting.pop(0)

    @precondition(lambda self: self.day > 3)
    @rule(image=st.sampled_from(IMAGES))
    def an_image_is_erased(self, image: str) -> None:
        self.erased.add(image)
        day, seq = moment(self.day), self.seq
        self.table[image] = Standing(status="erased", image_version=None, as_of=day, as_of_seq=seq)

    @precondition(lambda self: self.erased)
    @rule()
    def erased_images_are_allowed_again(self) -> None:
        for image in self.erased:
            del self.table[image]
            for run in self.waiting:  # erasing dropped what was staged
                run.facts.pop(image, None)
        self.erased.clear()

    @invariant()
    def what_is_staged_may_be_published_in_any_order(self) -> None:
        ends = []
        for order in (self.waiting, self.waiting[::-1]):
            table = dict(self.table)
            for run in order:
                publish(table, run)
            ends.append({image: comparable(row) for image, row in table.items()})
        assert ends[0] == ends[1]

    @rule(to=targets)
    def a_backfill_ends(self, to: Target) -> None:
        table = dict(self.table)
        for seq in range(self.seq + 1, self.seq + 4):
            named = {image: self.truth[image, self.day] for image in IMAGES}
            run = Run(seq, self.day, to, True, named)
            for image in IMAGES:
                run.stage(table.get(image), image, reason=RETRIABLE if seq % 2 == 0 else None)
            if not run.facts:
                return
            publish(table, run)
        raise AssertionError(f"three runs to {to} left something to do")

    @invariant()
    def what_stands_was_true_at_its_moment(self) -> None:
        """Neither a stale picture nor a deleted image comes back."""
        for image, row in self.table.items():
            if row.status == "erased":
                continue
            assert row.image_version == self.truth[image, (row.as_of - DAY_0).days]
            assert (row.status == "deleted") == (row.image_version is None)

    @invariant()
    def erased_is_final(self) -> None:
        for image in self.erased:
            assert self.table[image].status == "erased"

    @invariant()
    def a_result_is_whole(self) -> None:
        for row in self.table.values():
            is_tagged = row.status == "tagged"
            assert is_tagged == (row.model_version is not None)
            assert is_tagged == (row.embedding_seq is not None)
            assert (row.status == "failed") <= (row.failure is not None)
