"""What deciding the winners came to: how many staged facts met which fate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from pyspark.sql import DataFrame

from pipeline.tagging.winners import CHANGING, WINNING

COUNTS = ("tagged", "failed", "deleted", "reused", "rescored", "superseded", "tags_published")
"""What a publish counts."""

RESCORED = ("embedding", "scores")
"""Origins of facts that keep the embedding that stands."""

_COUNTED_BY_ORIGIN = {"reused": "reused", **dict.fromkeys(RESCORED, "rescored")}


@dataclass(frozen=True, kw_only=True)
class Fate:
    """Columns of :func:`pipeline.tagging.winners.decide_winners` that say what a fact comes to.

    Attributes:
        status: Of the image afterwards.
        verdict: Of ``decide``.
        tags_effect: What happens to the image's tags and embedding.
        known: The image had a row before.
        staged_status: Of the fact.
        staged_origin: Of the fact.
        has_text_tags: The fact failed, and has tags from its text.
    """

    status: str | None
    verdict: str
    tags_effect: str
    known: bool
    staged_status: str
    staged_origin: str
    has_text_tags: bool

    @property
    def gives_tags(self) -> bool:
        """The fact has tags."""
        return self.staged_status == "tagged" or self.has_text_tags

    @property
    def replaces_tags(self) -> bool:
        """The fact's tags and embedding become the image's."""
        return self.tags_effect == "replace"

    @property
    def changes_tags(self) -> bool:
        """The image's tags and embedding are replaced or removed."""
        return self.tags_effect != "keep"

    @property
    def changes_embedding(self) -> bool:
        """As ``changes_tags``; what is scored again keeps the embedding it was made from."""
        return self.changes_tags and self.staged_origin not in RESCORED

    @property
    def changes_image(self) -> bool:
        """The row of ``images`` changes."""
        return self.verdict in CHANGING

    @property
    def is_published(self) -> bool:
        """The fact's tags were published before."""
        hidden = self.has_text_tags and self.status != "failed"  # behind a result
        return self.verdict == "own" and self.gives_tags and not hidden

    @property
    def counted_as(self) -> str:
        """Its place among ``COUNTS``."""
        if self.verdict not in WINNING:
            return "superseded"
        return _COUNTED_BY_ORIGIN.get(self.staged_origin, self.staged_status)


def count_fates(winners: DataFrame) -> dict[Fate, int]:
    """How many facts met which fate."""
    names = [field.name for field in fields(Fate)]
    counted = winners.groupBy(*names).count().collect()
    return {Fate(**{name: row[name] for name in names}): int(row["count"]) for row in counted}


def count_published(fates: Mapping[Fate, int], *, tags_published: int) -> dict[str, int]:
    """What the ledger keeps of them."""
    counts = dict.fromkeys(COUNTS, 0)
    for fate, met in fates.items():
        counts[fate.counted_as] += met
    return {**counts, "tags_published": tags_published}
