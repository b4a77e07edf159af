"""Who wins: what the table ``images`` says after a staged fact meets the row that stands there.

One pure function, without Spark; :mod:`pipeline.tagging.publish` translates it into columns, and
a test holds the two together.

Two clocks. ``(as_of, as_of_seq)`` says when an image_version was asserted and lets a newer picture
win whatever order runs are published in. ``(embedding_seq, run_seq)`` orders results of one and the
same picture: a run that looks at it makes an embedding of its own, a run that scores again builds
on the one that stands, and never beats a run that looked later.

Known limit: a version that comes back (A, then B, then A) against a stale manifest or a failure in
between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

Status = Literal["tagged", "failed", "deleted", "erased"]
Verdict = Literal["replace", "result", "failure", "assert", "own", "superseded"]
TagsEffect = Literal["replace", "remove", "keep"]


@dataclass(frozen=True, kw_only=True)
class FailureState:
    """What failed last at the row's image_version.

    Attributes:
        reason: From the closed list.
        retriable: Whether another try can help.
        attempts: Runs in a row that failed.
        model_version: Model of the run that failed last.
        run_seq: Order of the run that failed last.
        first_as_of: as_of of the first failure in the row.
        last_as_of: as_of of the last failure.
    """

    reason: str
    retriable: bool
    attempts: int
    model_version: str | None
    run_seq: int
    first_as_of: datetime
    last_as_of: datetime


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A row of ``images``.

    Attributes:
        status: What the image is.
        image_version: None where the image is gone.
        as_of: Latest moment the version was asserted.
        as_of_seq: run_seq of the run that asserted it then.
        model_version: Of the result, or of a failed image's tags from its text; None without any.
        taxonomy_version: As ``model_version``.
        run_seq: Of the result; None without one.
        embedding_seq: run_seq of the run that published the embedding; None without a result.
        failure: What failed last, if anything did since the result.
    """

    status: Status
    image_version: str | None
    as_of: datetime
    as_of_seq: int
    model_version: str | None = None
    taxonomy_version: str | None = None
    run_seq: int | None = None
    embedding_seq: int | None = None
    failure: FailureState | None = None


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A staged fact: what one run makes of one version of one image.

    Attributes:
        status: tagged, failed or deleted.
        image_version: None for a deletion.
        as_of: The moment the version was asserted: the run's own where its manifest names the
            image, else what stood when it was selected.
        as_of_seq: run_seq of the run that asserted it then.
        run_as_of: The moment of the catalogue the run speaks for; failures are counted by it.
        run_seq: Order of the run.
        embedding_seq: run_seq of the run that published the embedding the score was made from;
            the fact's own run_seq where the model looked at the image.
        model_version: The model; None for a deletion.
        taxonomy_version: The taxonomy; None for a deletion.
        reason: Why it failed; None unless it did.
        retriable: Whether another try can help.
        has_text_tags: It failed, and has tags that were made from the text alone.
    """

    status: Literal["tagged", "failed", "deleted"]
    image_version: str | None
    as_of: datetime
    as_of_seq: int
    run_as_of: datetime
    run_seq: int
    embedding_seq: int
    model_version: str | None = None
    taxonomy_version: str | None = None
    reason: str | None = None
    retriable: bool = False
    has_text_tags: bool = False

    @property
    def is_rescored(self) -> bool:
        """Whether it was scored from a stored embedding."""
        return self.embedding_seq != self.run_seq


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What publishing does.

    Attributes:
        verdict: ``replace``: the fact becomes the row. ``result``: a newer result of the same
            picture. ``failure``: the failure is noted beside what stands. ``assert``: the fact
            loses, but names the standing version at a later moment. ``own``: it was published
            before. ``superseded``: it loses.
        row: The row of ``images`` afterwards; None: there is none.
        tags: What happens to the image's published tags and embedding.
    """

    verdict: Verdict
    row: Standing | None
    tags: TagsEffect = "keep"


def decide(standing: Standing | None, staged: Staged) -> Decision:
    """What ``images`` says after ``staged`` meets ``standing``."""
    if staged.is_rescored and not _still_stands(standing, staged):
        return Decision(verdict="superseded", row=standing)
    if standing is None:
        return _replacement(staged)
    if standing.status == "erased":
        return Decision(verdict="superseded", row=standing)
    moment = (staged.as_of, staged.as_of_seq)
    standing_moment = (standing.as_of, standing.as_of_seq)
    if not same_picture(standing, staged):
        if moment > standing_moment:
            return _replacement(staged)
        return Decision(verdict="superseded", row=standing)

    failed_seq = standing.failure.run_seq if standing.failure else None
    if staged.run_seq in (standing.run_seq, failed_seq):
        return Decision(verdict="own", row=standing)
    as_of, as_of_seq = max(moment, standing_moment)
    asserted = replace(standing, as_of=as_of, as_of_seq=as_of_seq)
    if staged.status == "tagged" and _is_newer_result(standing, staged):
        return Decision(verdict="result", row=_with_result(asserted, staged), tags="replace")
    looked_seq = _latest(standing.embedding_seq, failed_seq)
    if staged.status == "failed" and (looked_seq is None or staged.run_seq > looked_seq):
        tags = _tags_of_failure(standing, staged)
        return Decision(verdict="failure", row=_with_failure(asserted, staged), tags=tags)
    verdict: Verdict = "assert" if moment > standing_moment else "superseded"
    return Decision(verdict=verdict, row=asserted)


def same_picture(standing: Standing, staged: Staged) -> bool:
    """Whether both speak of one image_version. Being deleted counts as a version of its own."""
    return standing.image_version == staged.image_version


def _still_stands(standing: Standing | None, staged: Staged) -> bool:
    """Whether the embedding that was scored again is the one that stands."""
    return (
        standing is not None
        and standing.status == "tagged"
        and same_picture(standing, staged)
        and standing.embedding_seq == staged.embedding_seq
    )


def _is_newer_result(standing: Standing, staged: Staged) -> bool:
    if standing.run_seq is None or standing.embedding_seq is None:
        return True
    order = (standing.embedding_seq, standing.run_seq)
    return (staged.embedding_seq, staged.run_seq) > order


def _replacement(staged: Staged) -> Decision:
    row = Standing(
        status=staged.status,
        image_version=staged.image_version,
        as_of=staged.as_of,
        as_of_seq=staged.as_of_seq,
    )
    if staged.status == "failed":
        failed_tags: TagsEffect = "replace" if staged.has_text_tags else "remove"
        return Decision(verdict="replace", row=_with_failure(row, staged), tags=failed_tags)
    if staged.status == "deleted":
        row = replace(row, run_seq=staged.run_seq)
        return Decision(verdict="replace", row=row, tags="remove")
    return Decision(verdict="replace", row=_with_result(row, staged), tags="replace")


def _with_result(row: Standing, staged: Staged) -> Standing:
    """The row with a result. A failure after the model looked at the image stays noted."""
    failed_later = row.failure is not None and row.failure.run_seq > staged.embedding_seq
    return replace(
        row,
        status="tagged",
        model_version=staged.model_version,
        taxonomy_version=staged.taxonomy_version,
        run_seq=staged.run_seq,
        embedding_seq=staged.embedding_seq,
        failure=row.failure if failed_later else None,
    )


def _with_failure(row: Standing, staged: Staged) -> Standing:
    """The row with a failure noted. A result that stands is left as it is.

    Without one, the row names the model of the tags that the failure brings from its text.
    """
    before = row.failure
    if row.status == "failed":
        names = (staged.model_version, staged.taxonomy_version)
        model, taxonomy = names if staged.has_text_tags else (None, None)
        row = replace(row, model_version=model, taxonomy_version=taxonomy)
    return replace(
        row,
        failure=FailureState(
            reason=staged.reason or "",
            retriable=staged.retriable,
            attempts=before.attempts + 1 if before else 1,
            model_version=staged.model_version,
            run_seq=staged.run_seq,
            first_as_of=before.first_as_of if before else staged.run_as_of,
            last_as_of=max(before.last_as_of, staged.run_as_of) if before else staged.run_as_of,
        ),
    )


def _tags_of_failure(standing: Standing, staged: Staged) -> TagsEffect:
    """A failure brings its tags, or takes those of an earlier failure, where no result stands."""
    if standing.status != "failed":
        return "keep"
    if staged.has_text_tags:
        return "replace"
    return "keep" if standing.model_version is None else "remove"


def _latest(*run_seqs: int | None) -> int | None:
    return max((seq for seq in run_seqs if seq is not None), default=None)
