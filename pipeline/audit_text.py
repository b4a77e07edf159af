"""What the audit saw of a run, as tables of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from pipeline.query import Answer, write_answer
from pipeline.tagging.audit import AuditFigures, Finding
from pipeline.tagging.drift import Review, rates_of

_MOST_CHANGED = 10
_NOT_COUNTED = "not counted"


def write_audit(review: Review, stream: TextIO) -> None:
    """Write findings, figures, reasons of failures and the labels that changed most."""
    about = f"run {review.run_id} ({review.job}, as of {review.as_of.isoformat()}): {review.state}"
    stream.write(f"{about}\n")
    if review.figures is None:
        stream.write("no audit: none has looked at this run yet\n")
        return
    stream.write(f"{review.reference}\n")
    if not review.findings:
        stream.write("\nno limit was passed\n")
    _write(
        stream,
        ["what", "label", "before", "now", "change", "limit", "images"],
        [_finding(finding) for finding in review.findings],
    )
    _write(stream, ["reason", "images"], review.reasons.items())
    _write(stream, *_figures(review.figures))
    _write(
        stream,
        ["label", "rate before", "now", "images before", "now", "score before", "now"],
        _most_changed(review.figures),
    )


def _write(stream: TextIO, columns: list[str], rows: Iterable[Sequence[Any]]) -> None:
    """One table after an empty line; none where there are no rows."""
    answer = Answer(columns, [list(row) for row in rows], is_cut=False)
    if answer.rows:
        stream.write("\n")
        write_answer(answer, stream, format="table")


def _finding(finding: Finding) -> list[Any]:
    label = "" if finding.label is None else f"{finding.task}/{finding.label}"
    before = "" if finding.before is None else _number(finding.before)
    now, change, limit = (_number(one) for one in (finding.now, finding.got, finding.limit))
    return [finding.what, label, before, now, change, limit, finding.images]


def _figures(figures: AuditFigures) -> tuple[list[str], list[list[Any]]]:
    told = {
        "tagged": figures.tagged,
        "failed": figures.failed,
        "untagged": figures.untagged,
        "removed": figures.removed,
        "standing": figures.standing,
        "reference": figures.reference or "none",
        "images before": figures.images_before,
        "images now": figures.images_now,
    }
    return list(told), [[_NOT_COUNTED if one is None else one for one in told.values()]]


def _most_changed(figures: AuditFigures) -> list[list[Any]]:
    """The labels whose share of images moved furthest."""
    rated = [(label, *rates_of(label, figures)) for label in figures.labels]
    rated.sort(key=lambda one: (-abs(one[2] - one[1]), one[0].task, one[0].label))
    return [
        [
            f"{label.task}/{label.label}",
            _number(before),
            _number(now),
            label.before,
            label.now,
            "" if label.score_before is None else _number(label.score_before),
            "" if label.score_now is None else _number(label.score_now),
        ]
        for label, before, now in rated[:_MOST_CHANGED]
        if before != now
    ]


def _number(value: float) -> str:
    """Shares and scores to three places, so that columns align."""
    return f"{value:.3f}"
