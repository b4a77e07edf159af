"""A few interleavings of everything that happens to a catalogue, on real tables.

Each step is done twice: in memory by the pure rules (:mod:`pure_catalogue`), and to Delta tables by
the product (:mod:`real_catalogue`). After each step both say the same.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fake_catalogue import Catalogue
from pure_catalogue import Ask, Kill, Picture, PureCatalogue
from pure_runs import RETRIABLE
from real_catalogue import TAXONOMIES, RealCatalogue, expected_embeddings, expected_tags

from pipeline.tagging.selection import Target

IMAGES = "abcdefgh"
SEEDS = (823, 723, 68)  # drawn until together they see all of SEEN
STEPS = 9
KILLS: tuple[Kill, ...] = (
    "tagging",
    "audit",
    "image_embeddings",
    "image_tags",
    "images",
    "ledger",
)
OLD, NEW = TAXONOMIES
NIGHTLY = Target(model_version="fake-1", taxonomy_version=OLD, can_rescore=True)
TARGETS = (
    Target(model_version="fake-1", taxonomy_version=NEW, can_rescore=True),
    Target(model_version="fake-1", taxonomy_version=NEW, can_rescore=True),
    Target(model_version="fake-1", taxonomy_version=NEW, can_rescore=False),
    Target(model_version="fake-2", taxonomy_version=OLD, can_rescore=True),
)
FIRST = {
    **{image: Picture("v0") for image in IMAGES},
    "g": Picture("v0", RETRIABLE),
    "h": Picture("v0", "corrupt"),
}
FIRST_NIGHT = Ask(run_id="first", day=0, target=NIGHTLY, is_backfill=False, pictures=FIRST)
SEEN = {
    *("named tag", "named rescore", "named delete", "named skip", "named wait", "named erased"),
    *("named superseded", "unnamed tag", "unnamed rescore", "unnamed skip", "unnamed wait"),
    *("replace", "result", "failure", "assert", "own", "superseded", "reused", "no vector"),
    *("held", "publish", "discard", "erased", "allowed again", "rolled forward"),
    *(f"killed before {place}" for place in KILLS),
}
"""What an image or a run meets in one of them, as :class:`PureCatalogue` counts it."""

Do = Callable[[Any], None]


class Interleaving:
    """Draws steps, each from what has happened to the catalogue and its runs by then.

    Args:
        seed: Of the draws.
        pure: The catalogue after its first night.
    """

    def __init__(self, seed: int, pure: PureCatalogue) -> None:
        self.random, self.pure = Random(seed), pure
        self.days = [FIRST]

    def steps(self) -> list[str]:
        """Names of steps: each kind, in any order."""
        kinds = ["night", "night", "backfill", "backfill", "decide", "decide", "rerun", "erase"]
        kinds += self.random.choices(["night", "backfill", "allow again"], k=STEPS - len(kinds))
        self.random.shuffle(kinds)
        return kinds

    def draw(self, kind: str) -> Do:
        """What the step does, to either side."""
        random = self.random
        held = [run.ask.run_id for run in self.pure.in_state("held")]
        if kind == "decide" and held:
            run_id, verdict = random.choice(held), random.choice(["publish", "discard"])
            return lambda side: side.resolve(run_id, verdict)
        cut_off = self.pure.in_state("started", "staged", "publishing")
        if kind == "rerun" and cut_off:
            again = random.choice(cut_off).ask
            return lambda side: side.run(again)
        if kind == "erase":
            image, day = random.choice(IMAGES), len(self.days)
            return lambda side: side.erase(image, day)
        if kind == "allow again" and self.pure.erased:
            image = random.choice(sorted(self.pure.erased))
            return lambda side: side.allow_again(image)
        ask = self._backfill() if kind == "backfill" else self._night()
        # Most runs end later than they began, so that others come between.
        hold = random.random() < 0.5
        kill = None if hold or random.random() < 0.4 else random.choice(KILLS)
        return lambda side: side.run(ask, hold=hold, kill=kill)

    def ends(self) -> list[Do]:
        """What brings every run to its end, and then the whole catalogue to its last day."""
        last: list[Do] = []
        for run in self.pure.in_state("held"):
            last.append(_resolving(run.ask.run_id))
        for run in self.pure.in_state("started", "staged"):
            last.append(_running(run.ask))
        pictures = self._a_day_passes()
        return [*last, _running(self._ask(len(self.days) - 1, pictures, NIGHTLY))]

    def _night(self) -> Ask:
        """Of today, or late; of all images, or of some; the others are gone or are left alone."""
        random = self.random
        self._a_day_passes()
        day = max(0, len(self.days) - 1 - random.choice([0, 0, 0, 1, 2]))
        named = [image for image in self.days[day] if random.random() < 0.8]
        pictures = {image: self.days[day][image] for image in named}
        return self._ask(day, pictures, NIGHTLY, retires=random.random() < 0.3)

    def _backfill(self) -> Ask:
        day, target = len(self.days) - 1, self.random.choice(TARGETS)
        pictures = self.random.choice([None, None, self.days[day]])
        return self._ask(day, pictures, target, is_backfill=True)

    def _ask(
        self,
        day: int,
        pictures: dict[str, Picture] | None,
        target: Target,
        *,
        is_backfill: bool = False,
        retires: bool = False,
    ) -> Ask:
        return Ask(
            run_id=f"run-{len(self.pure.runs)}",
            day=day,
            target=target,
            is_backfill=is_backfill,
            pictures=pictures,
            retires=retires,
        )

    def _a_day_passes(self) -> dict[str, Picture]:
        """Some images change, fail, are mended, vanish or come back, always as another version."""
        random, day = self.random, len(self.days)
        pictures = dict(self.days[-1])
        for image, picture in pictures.items():
            lot = random.random()
            if lot < 0.15:
                pictures[image] = Picture(None)
            elif lot < 0.4:
                reason = random.choice([None, None, None, RETRIABLE, "corrupt"])
                pictures[image] = Picture(f"v{day}", reason)
            elif picture.reason == RETRIABLE and lot < 0.7:
                pictures[image] = Picture(picture.version)
        self.days.append(pictures)
        return pictures


def _resolving(run_id: str) -> Do:
    return lambda side: side.resolve(run_id, "publish")


def _running(ask: Ask) -> Do:
    return lambda side: side.run(ask)


def assert_same(pure: PureCatalogue, real: RealCatalogue, did: list[str]) -> None:
    assert real.states() == {run_id: run.state for run_id, run in pure.runs.items()}, did
    assert real.table() == pure.table, did
    if not pure.in_state("publishing"):
        assert real.embeddings() == expected_embeddings(pure.table), did
        assert real.tags() == expected_tags(pure.table), did


def interleave(seed: int, pure: PureCatalogue, real: RealCatalogue | None) -> Counter[str]:
    """Draw steps and do them; what happened on the way."""
    drawn = Interleaving(seed, pure)
    did: list[str] = []

    def both(name: str, do: Do) -> None:
        did.append(name)
        do(pure)
        if real is not None:
            do(real)
            assert_same(pure, real, did)

    for kind in drawn.steps():
        both(kind, drawn.draw(kind))
    for do in drawn.ends():
        both("end", do)
    return pure.seen


def test_the_interleavings_see_all_that_can_happen() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        pure = PureCatalogue()
        pure.run(FIRST_NIGHT)
        pure.seen.clear()
        seen += interleave(seed, pure, None)
    assert seen.keys() >= SEEN


@pytest.fixture(scope="module")
def first_night(spark, tmp_path_factory) -> tuple[PureCatalogue, RealCatalogue]:
    pure = PureCatalogue()
    real = RealCatalogue(Catalogue(spark, tmp_path_factory.mktemp("first")))
    for side in (pure, real):
        side.run(FIRST_NIGHT)
    assert_same(pure, real, ["first"])
    return pure, real


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_real_tables_end_as_the_pure_rules_do(first_night, tmp_path: Path, seed: int) -> None:
    pure, real = first_night
    interleave(seed, copy.deepcopy(pure), real.copy(tmp_path))
