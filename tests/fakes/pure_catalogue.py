"""A catalogue in memory: nights, backfills, verdicts, erasures and kills on the pure rules alone.

It knows what is beside ``images``: which embeddings stand, which facts may be reused, and which run
was left in which state. :mod:`real_catalogue` does the same things to real tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pure_runs import Run, moment, publish

from pipeline.tables.ledger import State
from pipeline.tagging.decision import Standing, decide
from pipeline.tagging.selection import Action, Target

Kill = Literal["tagging", "audit", "image_embeddings", "image_tags", "images", "ledger"]
"""Where a run is killed: before it does that."""

CHANGING = ("replace", "result", "failure", "assert")


@dataclass(frozen=True)
class Picture:
    """What a manifest says of an image: its version, or that it is gone, and why it will fail."""

    version: str | None
    reason: str | None = None

    def place(self, image: str) -> str:
        folder = f"/bad/{self.reason}" if self.reason else "/ok"
        return f"{folder}/{image}-{self.version}.jpg"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked of a run.

    Attributes:
        run_id: Its name.
        day: The moment of the catalogue it speaks for.
        target: Its model and taxonomy.
        is_backfill: Whether it brings images to them.
        pictures: Its manifest; None: what the tables know.
        retires: Whether images of which the manifest says nothing are gone.
    """

    run_id: str
    day: int
    target: Target
    is_backfill: bool
    pictures: Mapping[str, Picture] | None
    retires: bool = False


class AskedRun(Run):
    """A run with what was asked of it, and its state."""

    def __init__(self, seq: int, ask: Ask) -> None:
        super().__init__(seq, ask.day, ask.target, ask.is_backfill, {})
        self.ask = ask
        self.state: State = "started"


class PureCatalogue:
    """The table ``images`` as the pure rules make it, and what else there is to know."""

    def __init__(self) -> None:
        self.table: dict[str, Standing] = {}
        self.vectors: dict[str, tuple[str | None, str | None]] = {}  # version and model
        self.runs: dict[str, AskedRun] = {}
        self.seen: Counter[str] = Counter()

    def run(self, ask: Ask, *, hold: bool = False, kill: Kill | None = None) -> None:
        """A run to its end, or as far as it comes; again: from where it was."""
        run = self.runs.setdefault(ask.run_id, AskedRun(len(self.runs) + 1, ask))
        if run.state == "started":
            if self._stage(run, dies=kill == "tagging"):
                return
            run.state = "staged"
        if run.state == "staged":
            if kill == "audit":
                self.seen["killed before audit"] += 1
                return
            if hold and self._is_judged(run):
                run.state = "held"
        if run.state == "held":
            self.seen["held"] += 1
            return
        if self._roll_forward(run.ask.run_id, kill) and run.state != "published":
            self._publish(run, kill)

    def resolve(self, run_id: str, verdict: Literal["publish", "discard"]) -> None:
        """A person decides about a held run."""
        run = self.runs[run_id]
        self.seen[verdict] += 1
        if verdict == "discard":
            run.state = "discarded"
        elif self._roll_forward() and run.state != "published":
            self._publish(run)

    def erase(self, image: str, day: int) -> None:
        self.seen["erased"] += 1
        self._roll_forward()
        if image not in self.erased:
            self.table[image] = Standing(
                status="erased", image_version=None, as_of=moment(day), as_of_seq=0
            )
        self.vectors.pop(image, None)
        for run in self.runs.values():
            run.facts.pop(image, None)

    def allow_again(self, image: str) -> None:
        self.seen["allowed again"] += 1
        if image in self.erased:
            del self.table[image]

    @property
    def erased(self) -> set[str]:
        return {image for image, row in self.table.items() if row.status == "erased"}

    def in_state(self, *states: State) -> list[AskedRun]:
        """By run_seq."""
        found = (run for run in self.runs.values() if run.state in states)
        return sorted(found, key=lambda run: run.seq)

    def _stage(self, run: AskedRun, *, dies: bool) -> bool:
        """Stage what the run lacks; whether it was killed before the model looked at an image."""
        asked, images = run.ask, sorted(self._standing())
        if asked.pictures is None:
            rows = images
        else:
            rows = sorted(asked.pictures)
            run.named = {image: asked.pictures[image].version for image in rows}
            unnamed = [image for image in images if image not in asked.pictures]
            if asked.is_backfill:
                unnamed = []
            elif asked.retires:
                run.named |= dict.fromkeys(unnamed)
            else:
                unnamed = [image for image in unnamed if self._is_retriable(image)]
            rows += unnamed
        to_tag = []
        for image in rows:
            action = self._action(run, image)
            if image in run.facts:
                continue
            self.seen[f"{'named' if image in run.named else 'unnamed'} {action}"] += 1
            if action == "tag" and not self._is_reusable(run, image):
                to_tag.append(image)
            else:
                run.stage(self.table.get(image), image, reason=None, action=action)
        if dies and to_tag:
            self.seen["killed before tagging"] += 1
            return True
        for image in to_tag:
            reason = self._picture(run, image).reason
            run.stage(self.table.get(image), image, reason=reason, action="tag")
        return False

    def _action(self, run: AskedRun, image: str) -> Action:
        standing = self.table.get(image)
        action = run.choose(standing, image)
        if action == "rescore":
            version = run.wanted(image, standing).image_version
            if self.vectors.get(image) != (version, run.target.model_version):
                self.seen["no vector"] += 1
                return "tag"
        return action

    def _standing(self) -> list[str]:
        return [image for image, row in self.table.items() if row.status in ("tagged", "failed")]

    def _is_retriable(self, image: str) -> bool:
        row = self.table[image]
        return row.status == "failed" and row.failure is not None and row.failure.retriable

    def _picture(self, run: AskedRun, image: str) -> Picture:
        """As the manifest says, or that of the run that asserted what stands."""
        pictures = run.ask.pictures
        if pictures is not None and image in pictures:
            return pictures[image]
        seq = self.table[image].as_of_seq
        (asserted,) = (one for one in self.runs.values() if one.seq == seq)
        assert asserted.ask.pictures is not None
        return asserted.ask.pictures[image]

    def _is_reusable(self, run: AskedRun, image: str) -> bool:
        """Whether another run staged what this one would ask the model for."""
        version = run.wanted(image, self.table.get(image)).image_version
        wanted = ("tagged", version, run.target.model_version, run.target.taxonomy_version)
        for other in self.runs.values():
            fact = other.facts.get(image)
            if other is run or other.state == "discarded" or fact is None:
                continue
            if wanted == (
                fact.status,
                fact.image_version,
                fact.model_version,
                fact.taxonomy_version,
            ):
                self.seen["reused"] += 1
                return True
        return False

    def _is_judged(self, run: AskedRun) -> bool:
        """Whether an audit without mercy finds anything to judge."""
        statuses = {fact.status for fact in run.facts.values()}
        return bool(statuses - {"deleted"}) or ("deleted" in statuses and bool(self._standing()))

    def _roll_forward(self, run_id: str | None = None, kill: Kill | None = None) -> bool:
        """Finish what was cut off, unless the run among it is killed once more."""
        for run in self.in_state("publishing"):
            self.seen["rolled forward"] += 1
            if not self._publish(run, kill if run.ask.run_id == run_id else None):
                return False
        return True

    def _publish(self, run: AskedRun, kill: Kill | None = None) -> bool:
        """Whether it came to its end."""
        run.state = "publishing"
        made = {image: decide(self.table.get(image), fact) for image, fact in run.facts.items()}
        has_new_tags = {image: made[image].tags != "keep" for image in made}
        embedded = [
            image for image in made if has_new_tags[image] and not run.facts[image].is_rescored
        ]
        reached = {
            "image_embeddings": bool(embedded),
            "image_tags": any(has_new_tags.values()),
            "images": any(decision.verdict in CHANGING for decision in made.values()),
            "ledger": True,
        }
        dies = kill is not None and reached.get(kill, False)
        self.seen.update(decision.verdict for decision in made.values())
        if dies:
            self.seen[f"killed before {kill}"] += 1
        if dies and kill == "image_embeddings":
            return False
        for image in embedded:
            fact = run.facts[image]
            if fact.status == "tagged":
                self.vectors[image] = (fact.image_version, fact.model_version)
            else:
                self.vectors.pop(image, None)
        if dies and kill in ("image_tags", "images"):
            return False
        publish(self.table, run)
        if dies:
            return False
        run.state = "published"
        return True
