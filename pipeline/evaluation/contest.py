"""Two bundles on one sample: which labels they share, and what each makes of the images.

Shapes: N images, L labels that both have.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.config import RegisterModelConfig, SampleConfig
from pipeline.evaluation.comparison import Comparison, Labelled, compare
from pipeline.evaluation.sample import Sample, read_sample
from pipeline.evaluation.trial import run_trial
from pipeline.models.bundle import Bundle

_Name = tuple[str, str]


def compare_bundles(
    config: RegisterModelConfig, images: SampleConfig, champion: Bundle | None, candidate: Bundle
) -> Comparison:
    """Run both on a sample, and compare what they share.

    Args:
        config: How models are run and images are read.
        images: The sample.
        champion: None: there is none, and the candidate is compared with itself, so that its GAP
            and whether it publishes anything are judged all the same.
        candidate: The other one.

    Raises:
        ManifestError: The sample cannot be used.
        BundleError: The weights of one do not fit.
        ModelError: A model or its device failed.
    """
    first = champion or candidate
    names = (_names(first), _names(candidate))
    shared = [one for one in names[0] if one in set(names[1])]
    sample = read_sample(images, sorted({label for one in names for _, label in one}))
    trial = run_trial(
        sample.requests(),
        [candidate] if champion is None else [champion, candidate],
        inference=config.inference,
        fetch=config.fetch,
        decode=config.decode,
        total=len(sample.rows),
        progress=config.log.progress and config.log.format == "text",
    )
    scores = (trial.scores[0], trial.scores[-1])
    columns = [[own.index(one) for one in shared] for own in names]
    found = compare(
        tuple(shared),
        scores[0].scores[:, columns[0]],
        scores[1].scores[:, columns[1]],
        champion_tags=scores[0].tags[:, columns[0]],
        candidate_tags=scores[1].tags[:, columns[1]],
        labelled=_read_labels(sample, shared, trial.keep),
        resamples=config.resamples,
    )
    return replace(
        found,
        labels_new=tuple("/".join(one) for one in names[1] if one not in names[0]),
        labels_gone=tuple("/".join(one) for one in names[0] if one not in names[1]),
        champion_images_per_s=scores[0].images_per_s,
        candidate_images_per_s=scores[1].images_per_s,
    )


def _names(bundle: Bundle) -> list[_Name]:
    """Task and label id of each score."""
    return [(task.id, label.id) for task, label in bundle.taxonomy.labels]


def _read_labels(
    sample: Sample, shared: list[_Name], keep: npt.NDArray[np.bool_]
) -> Labelled | None:
    marks = sample.marks([label for _, label in shared], keep)
    return None if marks is None else Labelled(targets=marks[0], known=marks[1])
