"""From a configuration to figures, thresholds, a table of label errors and a report.

The steps of ``evaluate_model`` in order, and nothing else. Runs in one process without Spark.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import EvaluateModelConfig
from pipeline.errors import ConfigurationError, ManifestError
from pipeline.evaluation.assessment import Assessment, assess
from pipeline.evaluation.label_errors import LabelError, find_label_errors
from pipeline.evaluation.modality_study import ModalityStudy, study_modalities
from pipeline.evaluation.report import write_report
from pipeline.evaluation.scored import ScoredImages, score_images
from pipeline.evaluation.tables import make_metrics, write_label_errors, write_metrics
from pipeline.evaluation.thresholds import (
    LabelThreshold,
    calibrate_thresholds,
    with_calibrated,
)
from pipeline.evaluation.thumbnails import make_thumbnails
from pipeline.models.bundle import Bundle, read_bundle, write_with_taxonomy
from pipeline.models.bundle_folder import validate_new
from pipeline.models.locate import locate_bundle
from pipeline.models.serving import make_engine
from pipeline.redaction import redact
from pipeline.registry.tracking import Tracker, tracked_run
from pipeline.taxonomy import Taxonomy
from pipeline.training.data import LabelledImages, read_labelled
from pipeline.training.splits import Split

_LOG = logging.getLogger(__name__)

JOB = "evaluate_model"
METRICS_NAME = "metrics.json"
REPORT_NAME = "report.html"
LABEL_ERRORS_NAME = "label_errors.parquet"


def run_evaluation(config: EvaluateModelConfig) -> dict[str, Any]:
    """Evaluate a bundle as configured and write what was found.

    Returns:
        The summary, plain JSON data: job, state, output, metrics, report, label_errors (paths),
        bundle (written with calibrated thresholds, or None), model_version, taxonomy_version (of
        the figures), split, images, left_out (by reason), label_errors_found, figures (headline
        values), seconds.

    Raises:
        PipelineError: Configuration, bundle, manifest or device cannot be used.
    """
    started = time.monotonic()
    _validate(config)
    with tracked_run(config, job=JOB, folder=Path(config.output).absolute()) as tracker:
        summary = _evaluate(config, tracker)
        summary |= tracker.describe()
    return summary | {"seconds": round(time.monotonic() - started, 1)}


def _evaluate(config: EvaluateModelConfig, tracker: Tracker) -> dict[str, Any]:
    bundle = read_bundle(locate_bundle(config.model.uri, config.model.cache_dir))
    images = read_labelled(config.manifest, bundle.taxonomy)
    unseen = _find_unseen(config, bundle)
    engine, loader = make_engine(bundle, config.model, config.fetch, config.decode)
    with loader:
        scored = score_images(
            images,
            _choose_splits(config, images),
            engine,
            progress=config.log.progress and config.log.format == "text",
        )
    chosen = _calibrate(config, scored.of("validation"), bundle.taxonomy)
    taxonomy = bundle.taxonomy if chosen is None else with_calibrated(bundle.taxonomy, chosen)
    evaluated = scored.of(config.split)
    if not len(evaluated):
        raise _no_images(config, config.split)
    assessment = assess(evaluated, taxonomy, unseen, config)
    errors, looked_at = _find_errors(config, scored)
    study = study_modalities(
        bundle,
        engine.predictor,
        images,
        evaluated.positions,
        explained=_choose_explained(config, images, assessment),
        taxonomy=taxonomy,
        config=config,
    )
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    metrics = make_metrics(
        assessment,
        taxonomy,
        chosen,
        about={
            "bundle": redact(config.model.uri),
            "bundle_digest": bundle.info.digest,
            "licence": bundle.info.licence,
            "model_version": engine.predictor.model_version,
            "taxonomy_version": taxonomy.version,
            "manifest": redact(config.manifest.path),
            "split": config.split,
            "left_out": {str(reason): n for reason, n in sorted(scored.left_out.items())},
            "threshold_source": "bundle" if chosen is None else "validation",
            "calibration": None if chosen is None else asdict(config.calibration),
            "figures": asdict(config.figures),
            "label_errors": len(errors),
            "label_errors_confident": sum(error.confident for error in errors),
        },
        study=study,
    )
    write_metrics(output / METRICS_NAME, metrics)
    write_label_errors(output / LABEL_ERRORS_NAME, errors, looked_at, taxonomy)
    _write_report(
        config,
        images=images,
        taxonomy=taxonomy,
        metrics=metrics,
        assessment=assessment,
        errors=errors,
        looked_at=looked_at,
        study=study,
    )
    headline = {name: one.value for name, one in assessment.figures.headline.items()}
    tracker.log_metrics({f"{config.split}.{name}": value for name, value in headline.items()})
    for name in (METRICS_NAME, REPORT_NAME, LABEL_ERRORS_NAME):
        tracker.log_file(output / name)
    if config.calibrate is not None:
        calibrated = write_with_taxonomy(config.calibrate, bundle=bundle, taxonomy=taxonomy)
        tracker.log_bundle(calibrated.info)
    return {
        "job": JOB,
        "state": "done",
        "output": config.output,
        "metrics": str(output / METRICS_NAME),
        "report": str(output / REPORT_NAME),
        "label_errors": str(output / LABEL_ERRORS_NAME),
        "bundle": config.calibrate,
        "model_version": engine.predictor.model_version,
        "taxonomy_version": taxonomy.version,
        "split": config.split,
        "images": len(evaluated),
        "left_out": metrics["left_out"],
        "label_errors_found": len(errors),
        "figures": headline,
    }


def _choose_explained(
    config: EvaluateModelConfig, images: LabelledImages, assessment: Assessment
) -> list[int]:
    """Positions of images to explain: those asked for, then those of the worst mistakes."""
    position_of = {image_id: at for at, image_id in enumerate(images.ids)}
    if strange := sorted(set(config.report.explained) - position_of.keys()):
        raise ConfigurationError(
            "ids that the labelled manifest does not have", where="report.explained", got=strange
        )
    asked = [position_of[image_id] for image_id in config.report.explained]
    wrong = [int(assessment.images.positions[one.image]) for one in assessment.mistakes]
    most = max(config.report.explanations, len(asked))
    return list(dict.fromkeys([*asked, *wrong]))[:most]


def _validate(config: EvaluateModelConfig) -> None:
    """What would only fail after the scoring fails first."""
    if not all(0 <= rate <= 1 for rate in config.noise.rates) or not config.noise.rates:
        raise ConfigurationError(
            "rates of noise are shares of the images",
            where="noise.rates",
            expected="at least one, each 0 to 1",
            got=config.noise.rates,
        )
    if config.calibrate is None:
        return
    validate_new(config.calibrate)
    if config.split == "validation":
        raise ConfigurationError(
            "figures of the images that thresholds are chosen on say too much",
            where="split",
            expected="test, where thresholds are calibrated",
            got=config.split,
        )


def _find_unseen(config: EvaluateModelConfig, bundle: Bundle) -> tuple[str, ...]:
    """Ids of labels that the training did not see, in the taxonomy's order."""
    labels = [label.id for _, label in bundle.taxonomy.labels]
    remembered = (bundle.info.training or {}).get("labels")
    if config.unseen_labels is None:
        seen = labels if remembered is None else remembered
        return tuple(dict.fromkeys(label for label in labels if label not in seen))
    if strange := sorted(set(config.unseen_labels) - set(labels)):
        raise ConfigurationError(
            "labels that the bundle's taxonomy does not have", where="unseen_labels", got=strange
        )
    return config.unseen_labels


def _choose_splits(config: EvaluateModelConfig, images: LabelledImages) -> set[Split]:
    """Splits whose images are scored; those that have to have images have some."""
    needed: set[Split] = {config.split}
    if config.calibrate is not None:
        needed.add("validation")
    for split in needed:
        if not len(images.indices(split)):
            raise _no_images(config, split)
    return needed | set(config.label_errors.splits)


def _no_images(config: EvaluateModelConfig, split: Split) -> ManifestError:
    return ManifestError(
        f"the labelled manifest has no {split} image that can be read",
        where=config.manifest.path,
        expected=f"rows with {config.manifest.split} = {split}",
    )


def _calibrate(
    config: EvaluateModelConfig, validation: ScoredImages, taxonomy: Taxonomy
) -> tuple[LabelThreshold, ...] | None:
    """Thresholds from the validation images; None where the bundle's stay."""
    if config.calibrate is None:
        return None
    if not len(validation):
        raise _no_images(config, "validation")
    chosen = calibrate_thresholds(
        validation.scores, validation.targets, validation.known, taxonomy, config.calibration
    )
    short = sum(not one.reached for one in chosen)
    if short:
        _LOG.warning("%d of %d labels do not reach the target on validation", short, len(chosen))
    return chosen


def _find_errors(
    config: EvaluateModelConfig, scored: ScoredImages
) -> tuple[list[LabelError], ScoredImages]:
    looked_at = scored.of(*config.label_errors.splits)
    return (
        find_label_errors(
            looked_at.embeddings, looked_at.targets, looked_at.known, config.label_errors
        ),
        looked_at,
    )


def _write_report(
    config: EvaluateModelConfig,
    *,
    images: LabelledImages,
    taxonomy: Taxonomy,
    metrics: dict[str, Any],
    assessment: Assessment,
    errors: list[LabelError],
    looked_at: ScoredImages,
    study: ModalityStudy | None,
) -> None:
    """The report, with pictures of the worst mistakes and the most probable label errors."""
    shown = errors[: config.report.label_errors]
    wrong_at = [int(assessment.images.positions[one.image]) for one in assessment.mistakes]
    suspect_at = [int(looked_at.positions[one.image]) for one in shown]
    pictures: dict[int, str] = make_thumbnails(
        images,
        [*wrong_at, *suspect_at],
        pixels=config.report.thumbnail_pixels,
        fetch=config.fetch,
        decode=config.decode,
    )

    def tell(position: int) -> dict[str, Any]:
        return {
            "image_id": images.ids[position],
            "picture": pictures.get(position),
            "given": _names(images.targets[position], taxonomy),
        }

    write_report(
        Path(config.output) / REPORT_NAME,
        metrics=metrics,
        assessment=assessment,
        mistakes=[
            tell(position) | told
            for position, told in zip(wrong_at, metrics["mistakes"], strict=True)
        ],
        label_errors=[
            tell(position)
            | {"label": _name(taxonomy, one.label), "kind": one.kind, "score": one.score}
            for position, one in zip(suspect_at, shown, strict=True)
        ],
        study=study,
    )


def _names(holds: Collection[bool], taxonomy: Taxonomy) -> list[str]:
    return [_name(taxonomy, place) for place, given in enumerate(holds) if given]


def _name(taxonomy: Taxonomy, place: int) -> str:
    return taxonomy.labels[place][1].name
