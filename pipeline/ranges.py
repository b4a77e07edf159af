"""Numbers of the configuration that mean nothing, refused before a job begins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from pipeline.config import (
    AuditConfig,
    BackfillCatalogConfig,
    CostConfig,
    DecodeConfig,
    EraseImagesConfig,
    FetchConfig,
    InferenceConfig,
    LeaseConfig,
    LimitsConfig,
    MaintainTablesConfig,
    ModelConfig,
    PaceConfig,
    PublishRunConfig,
    QueryTagsConfig,
    RegisterModelConfig,
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
    DecodeConfig: {"threads": _COUNT, "max_pixels": _COUNT, "prefetch_images": _COUNT},
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
"""Least and most of each number, both allowed. A training checks its own."""


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
