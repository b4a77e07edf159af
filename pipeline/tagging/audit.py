"""The audit: what a run staged, judged before anything of it is published. Pure functions.

Figures come from :mod:`pipeline.tagging.audit_figures`. A share or a label is judged only where
there are enough images for it to mean something.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline.config import AuditConfig

# Two rates of different images differ by chance: four standard errors are one false alarm in
# some ten thousand labels.
_STANDARD_ERRORS = 4.0


@dataclass(frozen=True, kw_only=True)
class LabelFigures:
    """How often a label was published, and with what score, before and now.

    Attributes:
        task: Task of the label.
        label: Its id.
        before: Images that had it.
        now: Images that would have it.
        score_before: Mean score where they had it; None: none had.
        score_now: Mean score where they would have it; None: none would.
    """

    task: str
    label: str
    before: int
    now: int
    score_before: float | None
    score_now: float | None


@dataclass(frozen=True, kw_only=True)
class AuditFigures:
    """What a run staged, and what there is to compare it with.

    Attributes:
        tagged: Images with a result.
        failed: Images that failed.
        untagged: Images with a result, but without a tag; None: not counted, they are too few.
        removed: Images that stand and are to be deleted.
        standing: Images of the feed that stand; None: not counted, none is removed.
        reference: What labels are compared with: ``standing`` tags of the same images, or the
            run_id of another run; None: nothing is there.
        images_before: Images of the reference.
        images_now: Images of this run that are compared with them.
        labels: Labels that both know.
    """

    tagged: int
    failed: int
    untagged: int | None = None
    removed: int = 0
    standing: int | None = None
    reference: str | None = None
    images_before: int = 0
    images_now: int = 0
    labels: tuple[LabelFigures, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A limit that was passed.

    Attributes:
        what: ``failed``, ``removed``, ``rate``, ``score`` or ``untagged``.
        images: Images it is about.
        got: The share, or the change.
        limit: The greatest that passes.
        task: Task of a label.
        label: Its id; None: it is no matter of one label.
        before: Share or mean score before; None: nothing to compare with.
        now: Share or mean score now.
    """

    what: str
    images: int
    got: float
    limit: float
    now: float
    before: float | None = None
    task: str | None = None
    label: str | None = None

    def __str__(self) -> str:
        """In words, for people."""
        if self.label is None:
            return f"{self.what} share {self.now:.1%} (limit {self.limit:.1%})"
        unit = ".1%" if self.what == "rate" else ".3f"
        return (
            f"{self.what} of {self.task}/{self.label} {self.before or 0.0:{unit}} ->"
            f" {self.now:{unit}} (limit of change {self.limit:{'.0%' if unit == '.1%' else '.3f'}})"
        )


def judge(figures: AuditFigures, limits: AuditConfig) -> tuple[Finding, ...]:
    """The limits a run passes, what explains the most first.

    Failures and removals explain what labels do, and labels explain images without any.
    """
    labels = [
        finding
        for label in figures.labels
        for finding in (_rate(label, figures, limits), _score(label, limits))
        if finding is not None
    ]
    labels.sort(key=lambda finding: (-finding.images, finding.task, finding.label))
    return (
        *_share(
            "failed",
            figures.failed,
            of=figures.tagged + figures.failed,
            limit=limits.max_failed_share,
            least=limits.min_images,
        ),
        *_share(
            "removed",
            figures.removed,
            of=figures.standing or 0,
            limit=limits.max_removed_share,
            least=limits.min_images,
        ),
        *labels,
        *_share(
            "untagged",
            figures.untagged or 0,
            of=figures.tagged,
            limit=limits.max_untagged_share,
            least=limits.min_images,
        ),
    )


def as_json(figures: AuditFigures, findings: Sequence[Finding]) -> str:
    """Figures and findings as the ledger keeps them."""
    return json.dumps({"figures": asdict(figures), "findings": [asdict(one) for one in findings]})


def from_json(text: str) -> tuple[AuditFigures, tuple[Finding, ...]]:
    """What :func:`as_json` wrote."""
    told = json.loads(text)
    labels = tuple(LabelFigures(**label) for label in told["figures"].pop("labels"))
    findings = tuple(Finding(**finding) for finding in told["findings"])
    return AuditFigures(**told["figures"], labels=labels), findings


def _share(what: str, images: int, *, of: int, limit: float, least: int) -> list[Finding]:
    if of < least or of == 0 or images / of <= limit:
        return []
    share = images / of
    return [Finding(what=what, images=images, got=share, limit=limit, now=share)]


def _rate(label: LabelFigures, figures: AuditFigures, limits: AuditConfig) -> Finding | None:
    """A label that far fewer, or far more, of the images have."""
    if not (figures.images_before and figures.images_now):
        return None
    before, now = label.before / figures.images_before, label.now / figures.images_now
    greater = max(before, now)
    least_images = min(figures.images_before, figures.images_now)
    if greater * least_images < limits.min_label_images or greater == 0:
        return None
    change = abs(now - before) / greater
    by_chance = figures.reference != "standing" and not _differ(label, figures)
    if change <= limits.max_rate_change or by_chance:
        return None
    return Finding(
        what="rate",
        images=round(abs(now - before) * figures.images_now),
        got=change,
        limit=limits.max_rate_change,
        before=before,
        now=now,
        task=label.task,
        label=label.label,
    )


def _differ(label: LabelFigures, figures: AuditFigures) -> bool:
    """Whether two rates of different images differ by more than chance (two-proportion z-test)."""
    n_before, n_now = figures.images_before, figures.images_now
    pooled = (label.before + label.now) / (n_before + n_now)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_before + 1 / n_now))
    return abs(label.now / n_now - label.before / n_before) > _STANDARD_ERRORS * error


def _score(label: LabelFigures, limits: AuditConfig) -> Finding | None:
    """A label whose images have it with a far lower, or far higher, score."""
    if label.score_before is None or label.score_now is None:
        return None
    change = abs(label.score_now - label.score_before)
    few = min(label.before, label.now) < limits.min_label_images
    if few or change <= limits.max_score_change:
        return None
    return Finding(
        what="score",
        images=label.now,
        got=change,
        limit=limits.max_score_change,
        before=label.score_before,
        now=label.score_now,
        task=label.task,
        label=label.label,
    )
