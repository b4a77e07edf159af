"""Runs on the pure rules alone: what a run asks for, what it stages, what publishing makes of it.

``choose`` and ``decide`` are the product's; everything around them is said here once more, without
Spark, for tests that compare.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pipeline.config import RetryConfig
from pipeline.tagging.decision import Staged, Standing, decide
from pipeline.tagging.selection import ACTIVE, Action, Target, Wanted, choose

RETRY = RetryConfig(distance_h=20.0, factor=2.0, max_attempts=3)
DAY_0 = datetime(2026, 3, 1, tzinfo=UTC)
RETRIABLE = "not_found"


def moment(day: int) -> datetime:
    return DAY_0 + timedelta(days=day)


@dataclass
class Run:
    """A run: what it asks for, and what it staged.

    Attributes:
        seq: Its order.
        day: The moment of the catalogue it speaks for.
        target: The model and taxonomy it tags with.
        is_backfill: Whether it brings images to its target.
        named: Version by image; None: the image is gone. Of others it asserts nothing: it asks for
            what stands.
        facts: What it staged.
    """

    seq: int
    day: int
    target: Target
    is_backfill: bool
    named: dict[str, str | None]
    facts: dict[str, Staged] = field(default_factory=dict)

    def wanted(self, image: str, standing: Standing | None, *, seq: int | None = None) -> Wanted:
        version = self._version(image, standing)
        return Wanted(
            image_version=version,
            as_of=moment(self.day),
            run_seq=self.seq if seq is None else seq,
            deleted=version is None,
        )

    def choose(self, standing: Standing | None, image: str, *, seq: int | None = None) -> Action:
        target = self.target if self.is_backfill else None
        wanted = self.wanted(image, standing, seq=seq)
        return choose(standing, wanted, retry=RETRY, target=target)

    def stage(
        self,
        standing: Standing | None,
        image: str,
        *,
        reason: str | None,
        action: Action | None = None,
    ) -> None:
        """What the run makes of an image, unless it has a fact or nothing is to do.

        Args:
            standing: Its row.
            image: Its id.
            reason: Why the model cannot tag it; None: it can.
            action: Another than the rule says: no embedding stands to be scored again.
        """
        action = action or self.choose(standing, image)
        if image in self.facts or action not in ACTIVE:
            return
        status = "deleted" if action == "delete" else "failed" if reason else "tagged"
        asserted = (moment(self.day), self.seq)
        embedding_seq = self.seq
        if action == "rescore" or image not in self.named:
            assert standing is not None
            asserted = (standing.as_of, standing.as_of_seq)
        if action == "rescore":
            status = "tagged"
            assert standing is not None
            assert standing.embedding_seq is not None
            embedding_seq = standing.embedding_seq
        gone = status == "deleted"
        self.facts[image] = Staged(
            status=status,
            image_version=None if gone else self._version(image, standing),
            as_of=asserted[0],
            as_of_seq=asserted[1],
            run_as_of=moment(self.day),
            run_seq=self.seq,
            embedding_seq=embedding_seq,
            model_version=None if gone else self.target.model_version,
            taxonomy_version=None if gone else self.target.taxonomy_version,
            reason=reason if status == "failed" else None,
            retriable=status == "failed" and reason == RETRIABLE,
        )

    def _version(self, image: str, standing: Standing | None) -> str | None:
        if image in self.named:
            return self.named[image]
        assert standing is not None
        return standing.image_version


def publish(table: dict[str, Standing], run: Run) -> None:
    for image, fact in run.facts.items():
        row = decide(table.get(image), fact).row
        if row is not None:
            table[image] = row
