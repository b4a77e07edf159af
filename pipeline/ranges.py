"""Numbers of the configuration that mean nothing, refused before a job begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from pipeline.config import (
    AuditConfig,
    BackfillCatalogConfig,
    CalibrationConfig,
    CheckpointConfig,
    CmaClipConfig,
    CostConfig,
    DecodeConfig,
    DistributionConfig,
    DisturbanceConfig,
    EraseImagesConfig,
    FetchConfig,
    FiguresConfig,
    InferenceConfig,
    LabelErrorsConfig,
    LabelledManifestConfig,
    LeaseConfig,
    LimitsConfig,
    LossConfig,
    MaintainTablesConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    PaceConfig,
    PublishRunConfig,
    QueryTagsConfig,
    RegisterModelConfig,
    ReportConfig,
    RetryConfig,
    SampleConfig,
    StageConfig,
    TagNightlyConfig,
)
from pipeline.errors import ConfigurationError

Range = tuple[float, float]

_COUNT: Range = (1, math.inf)
_AMOUNT: Range = (0, math.inf)
_SHARE: Range = (0, 1)
_DURATION_S: Range = (0.001, math.inf)
_RATE: Range = (1e-12, math.inf)
_TAU: Range = (0.01, 1)  # what MuMIC.clamp_tau keeps a learnt one in
_DECODER_MB: Range = (64, math.inf)  # a photo of 12 megapixels, converted, takes 50 to 100
_EXPIRY_S: Range = (30, math.inf)  # a third of it must be ample time for a commit

RANGES: dict[type, dict[str, Range]] = {
    ModelConfig: {"batch_size": _COUNT, "threads": _COUNT},
    FetchConfig: {
        "threads": _COUNT,
        "connect_timeout_s": _DURATION_S,
        "read_timeout_s": _DURATION_S,
        "total_timeout_s": _DURATION_S,
        "attempts": _COUNT,
        "backoff_s": _AMOUNT,
        "max_bytes": _COUNT,
    },
    DecodeConfig: {
        "threads": _COUNT,
        "max_pixels": _COUNT,
        "prefetch_images": _COUNT,
        "timeout_s": _DURATION_S,
        "memory_mb": _DECODER_MB,
    },
    StageConfig: {"chunk_rows": _COUNT, "partition_rows": _COUNT, "score_floor": _SHARE},
    RetryConfig: {"distance_h": _AMOUNT, "factor": _COUNT, "max_attempts": _AMOUNT},
    AuditConfig: {
        "min_images": _COUNT,
        "max_failed_share": _SHARE,
        "max_untagged_share": _SHARE,
        "max_removed_share": _SHARE,
        "min_label_images": _COUNT,
        "max_rate_change": _SHARE,
        "max_score_change": _SHARE,
    },
    PaceConfig: {"rows_per_s": _DURATION_S},
    LeaseConfig: {"wait_s": _AMOUNT, "expiry_s": _EXPIRY_S},
    CostConfig: {"device_hour": _AMOUNT, "images_per_s": _DURATION_S},
    TagNightlyConfig: {"limit": _AMOUNT},
    BackfillCatalogConfig: {"limit": _AMOUNT, "publish_every": _COUNT},
    PublishRunConfig: {"samples": _COUNT},
    QueryTagsConfig: {"max_rows": _COUNT},
    MaintainTablesConfig: {"keep_facts_days": _AMOUNT, "retention_h": _AMOUNT},
    EraseImagesConfig: {"retention_h": _AMOUNT},
    FiguresConfig: {
        "majority_positives": _COUNT,
        "precision": _SHARE,
        "calibration_bins": _COUNT,
        "resamples": _AMOUNT,
        "confidence": _SHARE,
        "seed": _AMOUNT,
    },
    CalibrationConfig: {"precision": _SHARE, "prior_positives": _AMOUNT, "least": _SHARE},
    LabelErrorsConfig: {"folds": (2, math.inf), "max_rows": _COUNT, "seed": _AMOUNT},
    ReportConfig: {
        "mistakes": _AMOUNT,
        "label_errors": _AMOUNT,
        "pairs": _AMOUNT,
        "thumbnail_pixels": (16, 1024),
        "explanations": _AMOUNT,
    },
    NoiseConfig: {"images": (2, math.inf), "seed": _AMOUNT},
    LabelledManifestConfig: {"validation_share": _SHARE, "test_share": _SHARE},
    OptimizerConfig: {
        "epochs": _COUNT,
        "batch_size": _COUNT,
        "micro_batch_size": _COUNT,
        "learning_rate": _RATE,
        "image_learning_rate": _RATE,
        "text_learning_rate": _RATE,
        "head_learning_rate": _RATE,
        "weight_decay": _AMOUNT,
        "warmup": _SHARE,
        "clip_norm": _RATE,
        # 0.99999 forgets half of a weight in 69,000 steps: beyond, nothing would ever move.
        "ema_decay": (0, 0.99999),
        "patience": _COUNT,
        "interpolation": _SHARE,
        "seed": (0, 2**63 - 1),
    },
    LossConfig: {
        "tau": _TAU,
        "gamma_negative": _AMOUNT,
        "gamma_positive": _AMOUNT,
        # At 1 no negative would cost anything.
        "margin": (0, 0.99),
    },
    DisturbanceConfig: {
        "text_dropout": _SHARE,
        "text_swap": _SHARE,
        "image_dropout": _SHARE,
        "image_swap": _SHARE,
        "image_noise": _SHARE,
    },
    CmaClipConfig: {"layers": _COUNT, "heads": _COUNT},
    CheckpointConfig: {"every_s": _AMOUNT},
    DistributionConfig: {"processes": _COUNT},
    InferenceConfig: {"batch_size": _COUNT, "threads": _COUNT},
    SampleConfig: {"images": _COUNT},
    LimitsConfig: {
        "min_images": _COUNT,
        "min_agreement": _SHARE,
        "max_labels_gone": _SHARE,
        "min_gap": _SHARE,
        "max_gap_loss": _SHARE,
        "max_label_loss": _SHARE,
        "min_label_positives": _COUNT,
        "max_rate_change": _SHARE,
        "min_label_images": _COUNT,
        "min_speed": _AMOUNT,
    },
    RegisterModelConfig: {"resamples": _COUNT},
}
"""Least and most of each number, both allowed."""


def validate_ranges(config: object) -> None:
    """Refuse a configuration with a number out of its range.

    Raises:
        ConfigurationError: With the setting's full name.
    """
    for name, value, (least, most) in _numbers(config, ""):
        if not least <= value <= most:
            expected = f"at least {least:g}" + (f", at most {most:g}" if most < math.inf else "")
            raise ConfigurationError(
                "a setting is out of range", where=name, expected=expected, got=value
            )


def _numbers(config: object, prefix: str) -> Iterator[tuple[str, float, Range]]:
    if not is_dataclass(config):
        return
    ranges = RANGES.get(type(config), {})
    for setting in fields(config):
        value = getattr(config, setting.name)
        if setting.name in ranges and value is not None:
            yield prefix + setting.name, value, ranges[setting.name]
        yield from _numbers(value, f"{prefix}{setting.name}.")
