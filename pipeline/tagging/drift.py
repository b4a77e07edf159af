"""What a person sees of a run that was audited: findings, figures, and labels that drift.

Knows neither Spark nor pixels: :mod:`pipeline.tagging.review` reads it, :mod:`pipeline.audit_text`
and :mod:`pipeline.audit_sheet` show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pipeline.tagging.audit import AuditFigures, Finding, LabelFigures

MOST_DRIFTS = 12

Change = Literal["lost", "gained", "rescored"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image whose label changed.

    Attributes:
        image_id: Its id.
        uri: Where it is, without what was cut from it; None: it came as bytes.
        score_before: Score of the label before; None: it had not the label, or was not there.
        score_now: Score now, below the threshold too where that was staged; None: none, or it is
            not there.
    """

    image_id: str
    uri: str | None
    score_before: float | None
    score_now: float | None


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A label that passes a limit of the audit.

    Attributes:
        figures: Images that have it, and scores, before and now.
        rate_before: Share of the images that had it.
        rate_now: Share that would have it.
        change: ``lost`` or ``gained`` where the rate drifts, else ``rescored``.
        falls: Whether the rate, or else the score, falls.
        passed: Limits it passes: ``rate``, ``score`` or both.
        samples: Images to look at.
    """

    figures: LabelFigures
    rate_before: float
    rate_now: float
    change: Change
    falls: bool
    passed: frozenset[str]
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Review:
    """A run that was audited, or was not.

    Attributes:
        run_id: Name of the run.
        job: The job that made it.
        state: Where it stands.
        as_of: The moment of the catalogue it speaks for.
        model_version: The model it tags with.
        taxonomy_version: The taxonomy it tags with.
        figures: What the audit counted; None: nothing was kept of an audit.
        findings: The limits it passed.
        reasons: Images that failed, by reason, where too many did.
        drifts: Labels that pass a limit, those of most images first.
    """

    run_id: str
    job: str
    state: str
    as_of: datetime
    model_version: str
    taxonomy_version: str
    figures: AuditFigures | None = None
    findings: tuple[Finding, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    drifts: tuple[Drift, ...] = ()

    @property
    def uris(self) -> list[str]:
        """Of all samples, each once."""
        found = [sample.uri for drift in self.drifts for sample in drift.samples]
        return list(dict.fromkeys(uri for uri in found if uri is not None))

    @property
    def reference(self) -> str:
        """What labels are compared with, in words."""
        if self.figures is None or self.figures.reference is None:
            return "nothing to compare labels with"
        images = f"{self.figures.images_before:,}"
        if self.figures.reference == "standing":
            return f"compared with the standing tags of the same {images} images"
        return f"compared with {images} images of run {self.figures.reference}"


def find_drifts(
    figures: AuditFigures, findings: Sequence[Finding], *, most: int = MOST_DRIFTS
) -> tuple[Drift, ...]:
    """The labels among the findings, each once, in their order."""
    by_label = {(label.task, label.label): label for label in figures.labels}
    passed: dict[tuple[str, str], dict[str, Finding]] = {}
    for finding in findings:
        if finding.task is not None and finding.label is not None:
            passed.setdefault((finding.task, finding.label), {})[finding.what] = finding
    drifts = []
    for key, by_what in list(passed.items())[:most]:
        rate = by_what.get("rate")
        judged = rate or by_what["score"]
        falls = judged.now < (judged.before or 0.0)
        change: Change = "rescored"
        if rate is not None:
            change = "lost" if falls else "gained"
        rate_before, rate_now = rates_of(by_label[key], figures)
        drift = Drift(
            figures=by_label[key],
            rate_before=rate_before,
            rate_now=rate_now,
            change=change,
            falls=falls,
            passed=frozenset(by_what),
        )
        drifts.append(drift)
    return tuple(drifts)


def rates_of(label: LabelFigures, figures: AuditFigures) -> tuple[float, float]:
    """Shares of the images that had the label, and would have it."""
    return (
        label.before / max(1, figures.images_before),
        label.now / max(1, figures.images_now),
    )
